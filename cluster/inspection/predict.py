"""Classify image files and folders, with the same preprocessing as in training and evaluation."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.inspection import best_trials, export, manage_runs
from cluster.requests.models import PredictRequest
from cluster.terminal.tables import table
from cluster.training.launch_run import alone
from trainers.base.errors import ENVIRONMENT, USAGE, TroupeError
from trainers.base.paths import expanded, natural, printable
from trainers.base.placeholders import how_to_fetch
from trainers.base.problems import Problem
from trainers.data import sources
from trainers.data.image_folders import decoding
from trainers.data.image_folders.layout import count_by_kind, scan_folder
from trainers.data.image_folders.unreadable import reason_unreadable
from trainers.families import registry
from trainers.run_folders import run_folder
from trainers.runtime.global_state import with_default_globals

BATCH = 64  # images per forward pass


class Files(NamedTuple):
    """The named images, and what else was found."""

    images: list[Path]
    passed: Counter[str]  # counts of files in folders that are not images by their names, by extension


def predict(command: PredictRequest, shows: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Classify images, as `cluster.predict` describes it; `shows` receives the progress."""
    name, folder, expected = prepare_predict(command)
    return _predicted(command, name, folder, expected, find_images(command.files), shows)


@with_default_globals
def _predicted(
    command: PredictRequest,
    name: str,
    folder: Path | None,
    expected: Mapping[str, Any],
    files: Files,
    shows: Callable[[str], None],
) -> dict[str, Any]:
    with alone():
        if folder is None:
            _, stored, state, family = manage_runs.opened(name, command.runs, command.families)
            networks = manage_runs.networks_of(family, state)
        else:
            stored, family, networks = export.exported(folder, command.families)
        classes, rows, unreadable = expected["classes"], list[dict[str, Any]](), list[dict[str, str]]()
        for start in range(0, len(files.images), BATCH):
            batch = files.images[start : start + BATCH]
            shows(f"predicting {start}/{len(files.images)}")
            seen = list(_decoded(batch, stored["facts"], unreadable))
            if seen:
                probabilities = _probabilities(family, networks, [image for _, image in seen])
                rows += [
                    _row(file, classes, own, command.top) for (file, _), own in zip(seen, probabilities, strict=True)
                ]
    return {
        "name": name,
        "family": stored["family"],
        "classes": list(classes),
        "predictions": rows,
        "unreadable": unreadable,
        "skipped": dict(files.passed),
        "notes": _notes(family, stored, command.families),
    }


def prepare_predict(command: PredictRequest) -> tuple[str, Path | None, Mapping[str, Any]]:
    """The run or the exported folder, and its expected input. Raises TroupeError with all problems."""
    problems = [
        Problem(
            "missing-file", printable(file), "is neither a file nor a folder" if exists else "no such file or folder"
        )
        for file in command.files
        if not (exists := os.path.exists(file)) or not (file.is_file() or file.is_dir())
    ]
    if not command.files:
        problems.append(Problem("missing", "predict", "requires a file or a folder"))
    name, folder, expected = command.name, None, None
    try:
        if command.best:
            search, (trial,) = best_trials.best_of(command.runs, name, 1)
            name = f"{search.name}/{trial.name}"
        folder = None if command.best else _export(command)
        stored = export.config_of(folder) if folder else run_folder.find_run(command.runs, name).read_settings()
        kind = registry.class_of_run(stored, name, command.families)
        expected = kind.of(stored["settings"], stored["family"]).input_spec(stored["facts"])
        if expected is None:
            reason = f"is of the family {stored['family']}, which does not classify files"
            problems.append(Problem("predicts-nothing", name, reason, "name a classifier"))
    except TroupeError as error:
        raise TroupeError([*error.problems, *problems], error.code) from error
    if problems:
        raise TroupeError(problems, USAGE)
    assert expected is not None
    return name, folder, expected


def _export(command: PredictRequest) -> Path | None:
    """The named exported folder, if it is one; a run of that name takes precedence."""
    folder = expanded(command.name)
    if os.path.exists(command.runs / command.name / "settings.json"):
        return None
    return folder if os.path.exists(folder / "weights.safetensors") else None


def find_images(named: Sequence[Path]) -> Files:
    """The named files, and all images in the folders, each once.

    Raises TroupeError (exit code 3) for folders without images and unreadable folders.
    """
    images: dict[Path, None] = {}
    passed, problems = Counter[str](), list[Problem]()
    for path in named:
        if not path.is_dir():
            images[path] = None
            continue
        scan = scan_folder(path)
        passed.update(scan.passed)
        paths = sorted(
            (Path(image.path) for image in scan.images), key=lambda inside: [natural(part) for part in inside.parts]
        )
        images.update(dict.fromkeys(path / inside for inside in paths))
        if not paths:
            extensions = ", ".join(decoding.extensions())
            problems.append(Problem("no-images", printable(path), "holds no images", f"known extensions: {extensions}"))
    if problems:
        raise TroupeError(problems, ENVIRONMENT)
    return Files(list(images), passed)


def _decoded(
    files: Sequence[Path], facts: Mapping[str, Any], unreadable: list[dict[str, str]]
) -> Iterator[tuple[Path, Any]]:
    """Each readable file with its image; the others are added to `unreadable`."""
    for file in files:
        content = b""
        try:
            content = file.read_bytes()
            with warnings.catch_warnings(action="ignore"):  # Pillow's, about images that it can read
                image = decoding.preprocessed(content, facts)
        except Exception as error:  # Pillow raises nearly any exception for damaged images
            unreadable.append({"file": printable(file), "why": printable(reason_unreadable(error, content))})
        else:
            yield file, image


def _probabilities(family: Any, networks: Mapping[str, Any], images: Sequence[Any]) -> list[list[float]]:
    """The family's probabilities (images, classes) for uint8 images (height, width, channels) of one size."""
    import numpy as np
    import torch

    from trainers.contract.family import MicroBatch
    from trainers.runtime.precision import autocast_for

    wide = family.config.precision == "float64"
    tensor = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    count = len(images)
    microbatch = MicroBatch(
        {"images": tensor},
        range(count),
        [0] * count,
        0,
        0,
        count,
        torch.device("cpu"),
        torch.float64 if wide else torch.float32,
        torch.default_generator,
    )
    with torch.inference_mode(), autocast_for(family.config.precision, "cpu"):
        rows: list[list[float]] = family.predict(networks, microbatch).double().tolist()
    return rows


def _row(file: Path, classes: Sequence[str], probabilities: Sequence[float], top: int | None) -> dict[str, Any]:
    """The row of an image: all classes in their order, or the most probable ones first."""
    ranked = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])
    indices = range(len(probabilities)) if top is None else ranked[:top]
    return {
        "file": printable(file),
        "class": classes[ranked[0]],
        "probability": probabilities[ranked[0]],
        "probabilities": {classes[index]: probabilities[index] for index in indices},
    }


def _notes(family: Any, stored: Mapping[str, Any], families: Sequence[Path]) -> list[str]:
    """Notes for the user on how the files were read."""
    source = sources.all_sources(families).get(family.config.data.partition(":")[0])
    if "original_size" in stored["facts"] or (source is not None and source.takes_path):
        return []
    size = stored["facts"]["image_size"]
    return [f"how data={family.config.data} resizes images is not known here; files were resized to {size}x{size}"]


def text_of_predictions(result: Mapping[str, Any], top: int | None) -> str:
    """A row for each image: the class, its probability, and the next best."""
    rows = []
    for one in result["predictions"]:
        ranked = sorted(one["probabilities"].items(), key=lambda item: -item[1])[1 : 2 if top is None else top]
        row = {"file": one["file"], "class": one["class"], "probability": f"{one['probability']:.1%}"}
        if top != 1:
            row["next best"] = ", ".join(f"{name} {share:.1%}" for name, share in ranked)
        rows.append(row)
    passed = result["skipped"]
    lines = [f"skipped files that are not images: {count_by_kind(passed)}"] if passed else []
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(filter(None, [table(rows), *lines]))


def broken(result: Mapping[str, Any]) -> list[Problem]:
    """The images that could not be read."""
    return [
        Problem("not-read", one["file"], f"cannot be read ({one['why']})", how_to_fetch(one["why"]))
        for one in result["unreadable"]
    ]
