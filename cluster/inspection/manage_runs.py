"""List, remove and sample runs; list families and data sources."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cluster.ranking import leaderboard
from cluster.requests.models import SampleRequest
from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError
from trainers.base.paths import expanded, printable
from trainers.base.problems import Problem, sentence
from trainers.contract.streams import GRID_SEED
from trainers.data import imagefolder, sources
from trainers.drawing import pictures
from trainers.families import registry
from trainers.run import open_for
from trainers.run_folders import bucket, removal, run_folder
from trainers.run_folders.run_folder import RunFolder
from trainers.runtime.global_state import with_default_globals
from trainers.storage import atomic_files, checkpoint

NOTHING = dict.fromkeys((
    "name", "kind", "family", "data", "state", "step", "steps", "trials", "trials_ended", "seconds", "bytes",
    "restarts", "note",
))  # fmt: skip


def list_runs(runs: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each run: progress, size, what it learns; None for what is unknown or does not apply to a search.

    A search is one row; its name lists its trials. Steps, seconds and bytes are numbers.
    """
    if not names:
        searches = [_row_of(path, partial(_search_row, path), kind="search") for path in leaderboard.all_searches(runs)]
        return [*searches, *(_row(folder) for folder in run_folder.all_runs(runs))]
    chosen: list[RunFolder] = []
    for name in names:
        trials = leaderboard.trials_of(runs, name)
        chosen += trials if trials is not None else [run_folder.find_run(runs, name)]
    return [_row(folder) for folder in chosen]


def _row_of(path: Path, details: Callable[[], dict[str, Any]], **kind: str) -> dict[str, Any]:
    """The row of a run or a search; if it is damaged or unreadable, a row that says so."""
    row = {**NOTHING, **kind, "name": RunFolder(path).name, "bytes": RunFolder(path).size()}
    try:
        return {**row, **details()}
    except TroupeError as error:
        return {**row, "state": "damaged", "note": sentence(error.problems[0])}
    except OSError as error:
        return {**row, "state": "damaged", "note": f"cannot be read ({error.strerror})"}


def _search_row(path: Path) -> dict[str, Any]:
    """The row of one search."""
    search = leaderboard.read_search(path)
    ended = sum(trial.state not in leaderboard.OPEN for trial in search.trials)
    state = "searching" if search.working else ("stopped" if ended < len(search.trials) else "finished")
    return {
        "family": search.terms["family"],
        "data": search.terms["fixed"].get("data"),
        "state": state,
        "trials": len(search.trials),
        "trials_ended": ended,
        "seconds": search.terms["seconds"],
    }


def _row(folder: RunFolder) -> dict[str, Any]:
    """The row of one run, damaged or not."""
    return _row_of(folder.path, partial(_run_row, folder), kind="run")


def _run_row(folder: RunFolder) -> dict[str, Any]:
    damaged: list[str] = []
    stored, result = folder.read_settings(damaged.append), folder.read_result()
    if result is None and folder.result.exists():
        damaged.append("result.json: damaged; `troupe train --resume` rewrites it")
    step, seconds = _reached(folder)
    if not bucket.bucket_address(bucket.runs_of(folder.path)) and not checkpoint.all_in(folder.checkpoints):
        damaged += ["it has no checkpoint left"] if folder.read_metrics()[0] else []
    elif result and step < result["steps"]:
        damaged.append(f"its last checkpoint is at step {step}")
    if result:
        step, seconds = int(result["steps"]), max(seconds, float(result.get("seconds", 0)))
    restarts = folder.read_restarts()
    return {
        "family": stored["family"],
        "data": stored["settings"].get("data"),
        "state": "finished" if result else ("working" if folder.working else "stopped"),
        "step": step,
        "steps": stored["settings"]["steps"],
        "seconds": seconds,
        "restarts": len(restarts),
        "note": "; ".join(filter(None, [*damaged, _restarted(restarts)])) or None,
    }


def _restarted(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """How often a run's workers were restarted, and the last cause; None if they were not."""
    times = "once" if len(rows) == 1 else f"{len(rows)} times"
    return f"restarted {times}: {rows[-1]['why']}" if rows else None


def remove_runs(runs: Path, names: Sequence[str], dry_run: bool = False) -> list[dict[str, Any]]:
    """Remove runs and complete searches, or only report what would be removed. If a name is wrong, none is removed."""
    folders: dict[Path, RunFolder] = {}
    problems = list[Problem]()
    for name in names:
        try:
            folder = leaderboard.search_folder(runs, name) or run_folder.find_own(runs, name)
            folders[folder.path] = folder
        except TroupeError as error:
            problems += error.problems
    if problems:
        raise TroupeError(problems, USAGE)
    for folder in folders.values():
        removal.refuse_foreign(folder.path)
    if dry_run and (busy := [folder.name for folder in folders.values() if folder.working]):
        reason = "another process is working on this run"
        raise TroupeError([Problem("held", name, reason, "stop it first") for name in busy], CONFLICT)
    remove = RunFolder.size if dry_run else removal.remove_run
    return [{"name": folder.name, "bytes": remove(folder)} for folder in folders.values()]


def sample_settings_of(request: SampleRequest, name: str, runs: Path) -> Any:
    """A request as sampling settings of a run's family. Raises TroupeError (exit code 2) with all problems."""
    families, settings, count = request.families, request.settings, request.count
    folder = run_folder.find_run(runs, name)
    stored = folder.read_settings()
    family, kind = stored["family"], registry.class_of_run(stored, folder.name, families).sample_settings
    problems = [Problem("unknown-setting", "count", "is an option here, --count N")] if "count" in settings else []
    sample_settings, wrong = kind.from_words({**settings, "count": count}, f"what {family} can be asked for")
    if problems or wrong:
        raise TroupeError([*problems, *wrong], USAGE)
    return sample_settings


def sample(request: SampleRequest) -> dict[str, Any]:
    """Draw samples from a run's newest checkpoint and write them as one image or one text file."""
    sample_settings = sample_settings_of(request, request.name, request.runs)
    folder, samples, facts = samples_of(request, request.name, request.runs, sample_settings)
    are_images = not isinstance(samples, list)
    out = request.out or free(Path(f"{folder.name.replace('/', '-')}-samples.{'png' if are_images else 'txt'}"))
    check_ending(out, are_images)
    with writing_file(out):
        if are_images:
            pictures.write_grid(out, samples, sample_settings.columns)
        else:
            atomic_files.write(out, pictures.sheet_of_texts(samples))
    return {"file": str(out), **facts}


def free(path: Path) -> Path:
    """A path if it is free, or the first free one of NAME-2, NAME-3, ...: existing files are not overwritten."""
    ends = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (path.with_stem(f"{path.stem}{end}") for end in ends)
    return next(one for one in paths if not os.path.lexists(one))


def check_ending(out: Path, are_images: bool) -> None:
    """Raise TroupeError (exit code 2) if the extension of a file does not fit the samples or is unknown, or if it is a
    folder."""

    def wrong(reason: str, hint: str = "") -> TroupeError:
        return TroupeError(Problem("bad-value", "--out", reason, hint, str(out)), USAGE)

    if out.is_dir():
        raise wrong("is a folder", "name a file in it")
    if are_images and out.suffix.lower() not in pictures.FORMATS:
        raise wrong(f"images are written as {', '.join(filter(None, pictures.FORMATS))}")
    if not are_images and out.suffix and out.suffix.lower() in pictures.FORMATS:
        raise wrong("the samples are texts", "use a name that ends in .txt")


@contextlib.contextmanager
def writing_file(out: Path) -> Iterator[None]:
    """Create the folder of a file; inside, a failed write raises TroupeError (exit code 3)."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, ValueError) as error:
        raise not_written(out, error) from error


def not_written(out: Path, reason: object) -> TroupeError:
    return TroupeError(Problem("not-written", "--out", f"cannot be written ({reason})", value=str(out)), ENVIRONMENT)


@with_default_globals
def samples_of(
    request: SampleRequest, name: str, runs: Path, sample_settings: Any
) -> tuple[RunFolder, Any, dict[str, Any]]:
    """A run, its samples (images as uint8 NHWC, or a list of texts), and information on them."""
    families, seed, data_dir = request.families, request.seed, request.data_dir
    folder, stored, state, family = opened(name, runs, families)
    import torch

    from trainers.engine.inference import CHUNK, as_stored, concatenated, samples_from_state

    data = OpenedLater(family.config, data_dir, families)
    inputs = family.sample_inputs(sample_settings, torch.Generator().manual_seed(seed), data)
    if samples_from_state(family, state["step"]):
        inputs |= concatenated(state["carried"])
    if not inputs:
        raise TroupeError(Problem("draws-nothing", folder.name, "its family draws no samples"), USAGE)
    networks = networks_of(family, state)
    dtype = torch.float64 if family.config.precision == "float64" else torch.float32
    count = min(len(value) for value in inputs.values())
    inputs = {key: (value.to(dtype) if value.is_floating_point() else value)[:count] for key, value in inputs.items()}
    parts: list[Any] = []
    with torch.no_grad():
        for start in range(0, count, CHUNK):
            part = {key: value[start : start + CHUNK] for key, value in inputs.items()}
            parts.append(as_stored(family.samples(networks, part)))
    texts = [text for part in parts for text in part]
    samples = torch.cat(parts).numpy() if isinstance(parts[0], torch.Tensor) else texts
    changed = data.opened and data.fingerprint != stored.get("data")
    notes = [f"data={family.config.data} has changed since the run learned from it"] if changed else []
    return folder, samples, {"count": count, "seed": seed, "step": state["step"], "notes": notes}


class OpenedLater:
    """A run's data, opened on first access: most samples are made from noise alone."""

    def __init__(self, config: Any, data_dir: Path, families: Sequence[Path]) -> None:
        self._arguments = config, data_dir, families

    @property
    def opened(self) -> bool:
        return "_data" in self.__dict__

    def __getattr__(self, name: str) -> Any:
        if "_data" not in self.__dict__:
            self._data = open_for(*self._arguments)
        return getattr(self._data, name)


def list_families(extra: Sequence[Path]) -> list[dict[str, str]]:
    """A row for each family."""
    return [
        {"family": name, "summary": registry.config_class(name, extra).summary} for name in registry.families(extra)
    ]


def list_datasets(extra: Sequence[Path]) -> list[dict[str, str]]:
    """A row for each data source."""
    return [
        {"data": f"{name}:PATH" if source.takes_path else name, "summary": source.summary}
        for name, source in sources.all_sources(extra).items()
    ]


def list_packed(data_dir: Path) -> list[dict[str, Any]]:
    """A row for each packed folder of images."""
    return [
        {"source": printable(source), "bytes": count, "packed": str(folder)}
        for source, count, folder in imagefolder.cached(data_dir)
    ]


def remove_packed(data_dir: Path, source: str) -> dict[str, Any]:
    """Remove the packed copies of a folder of images."""
    resolved = str(expanded(source.removeprefix("imagefolder:")).resolve())
    copies = [
        (count, folder)
        for packed_source, count, folder in imagefolder.cached(data_dir)
        if str(packed_source) in (source, resolved) or printable(packed_source) == source
    ]
    if not copies:
        hint = "`troupe datasets` lists them"
        raise TroupeError(Problem("unknown-data", "--remove", "no packed copy of it", hint, source), USAGE)
    problems = list[Problem]()
    for _, folder in copies:
        try:
            imagefolder.remove_packed_folder(folder)
        except TroupeError as error:
            problems += error.problems
    if problems:
        raise TroupeError(problems, CONFLICT)
    return {"source": source, "bytes": sum(count for count, _ in copies)}


def opened(name: str, runs: Path, families: Sequence[Path]) -> tuple[RunFolder, Mapping[str, Any], dict[str, Any], Any]:
    """A run, its settings, the state in its newest complete checkpoint, and its family."""
    folder = run_folder.find_run(runs, name)
    stored = folder.read_settings()
    kind = registry.class_of_run(stored, folder.name, families)
    settings = kind.of(stored["settings"], stored["family"])
    newest = checkpoint.read_newest(folder.checkpoints, checkpoint.load)
    if newest is None:
        raise TroupeError(Problem("no-checkpoint", folder.name, "it has no complete checkpoint"), CONFLICT)
    _, state = newest
    family = registry.family_class(stored["family"], families)(settings, stored["facts"])
    return folder, stored, state, family


def networks_of(family: Any, state: dict[str, Any]) -> dict[str, Any]:
    """A family's networks with the weights of a state; the running average, if there is one."""
    import torch

    from trainers.storage.tensors import load_buffers

    weights = {**state["networks"], **state["ema"]}
    family.buffers = state.get("kept", {})
    before = torch.get_default_dtype()
    with torch.random.fork_rng([]):
        networks = family.networks()
        for name, network in networks.items():
            floats = (tensor.dtype for tensor in weights[name].values() if tensor.is_floating_point())
            network.to(next(floats, torch.float32)).load_state_dict(weights[name])
            network.eval()
        try:  # as in training: drawn in the run's own number format
            torch.set_default_dtype(torch.float64 if family.config.precision == "float64" else torch.float32)
            torch.default_generator.manual_seed(GRID_SEED)
            frozen = {
                name: network.to(torch.get_default_dtype()).eval() for name, network in family.frozen_networks().items()
            }
        finally:
            torch.set_default_dtype(before)
    load_buffers(frozen, family.buffers)
    return {**networks, **frozen}


def _reached(folder: RunFolder) -> tuple[int, float]:
    """Steps and seconds of the newest checkpoint whose manifest is readable."""
    if bucket.bucket_address(bucket.runs_of(folder.path)):  # its checkpoints may exist only there
        rows, _ = folder.read_metrics()
        return (int(rows[-1]["step"]), float(rows[-1].get("seconds", 0))) if rows else (0, 0.0)
    for path in reversed(checkpoint.all_in(folder.checkpoints)):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # damaged, or removed meanwhile
            manifest = checkpoint.manifest_of(path)
            return int(manifest["step"]), float(manifest.get("seconds", 0))
    return 0, 0.0
