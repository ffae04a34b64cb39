"""What a new run starts from: the weights of `--init-from` and the network settings that belong to them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.base import old_names
from trainers.base.errors import USAGE, TroupeError, did_you_mean
from trainers.base.paths import expanded
from trainers.base.problems import Problem, show_value
from trainers.families import registry
from trainers.run_folders import run_folder
from trainers.settings.config import Config
from trainers.storage import checkpoint


def weights_path(given: str, runs: Path) -> Path:
    """The weights file of `--init-from`: of a run's newest checkpoint, or exported.

    Raises TroupeError (exit code 2) if there is none.
    """
    path = expanded(given)
    for file in (path / "weights.safetensors", path / "state.pt", path):
        if os.path.isfile(file):
            return file
    if path.suffix in (".safetensors", ".pt", ".pth", ".th"):
        raise TroupeError(Problem("missing-file", "--init-from", "no such file", value=given), USAGE)
    try:
        folder = run_folder.find_run(runs, given)
    except TroupeError:
        known = [run.name for run in run_folder.all_runs(runs)]
        reason = "neither a run nor a weights file"
        raise TroupeError(
            Problem("unknown-run", "--init-from", reason, did_you_mean(given, known), given), USAGE
        ) from None
    newest = checkpoint.newest_intact(folder.checkpoints)  # another run's folder: nothing is set aside there
    if newest is None:
        raise TroupeError(Problem("no-checkpoint", "--init-from", "the run has no checkpoint", value=given), USAGE)
    return newest / "state.pt"


def source_run_of(weights: Path) -> Mapping[str, Any]:
    """Data, settings and facts of the run that a checkpoint or export comes from; empty if unknown."""
    folder = weights if weights.is_dir() else weights.parent
    for name in ("manifest.json", "config.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stored: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            if stored.keys() >= {"data", "settings", "facts"}:
                return old_names.current_run(stored)
    return {}


def refuse_unfit(
    weights: Path | None,
    given: str | None,
    family: str,
    families: Sequence[Path],
    config: Config,
    facts: Mapping[str, Any],
) -> None:
    """Raise TroupeError (exit code 4) if the weights of `--init-from` do not fit the networks of the new run. Called
    before anything is started."""
    if weights is None:
        return
    from trainers.engine import memory
    from trainers.storage.tensors import read_weights, require_matching

    networks = memory.meta_networks(registry.family_class(family, families)(config, facts))
    if networks is None:
        return  # reported when the networks are made
    other = source_run_of(weights).get("family", family)
    of = f" of {other}" if other != family else ""
    tensors = read_weights(weights, tuple(networks), about="--init-from", value=given)
    require_matching(networks, tensors, f"the weights{of} do not fit", "--init-from", given)


def network_settings(
    kind: type[Config], family: str, source_run: Mapping[str, Any], settings: Mapping[str, Any], given: str
) -> tuple[dict[str, Any], list[Problem]]:
    """Network settings of the run that `source_run` describes: those to take over with its weights, and a problem for
    each that the command sets to another value. Empty for a run of another or an unknown family."""
    if source_run.get("family") != family:
        return {}, []
    old, facts = kind.stored(source_run["settings"]), source_run["facts"]
    same_data = kind.from_words({name: settings[name] for name in ("data",) if name in settings}, family)[0]
    come, problems = {}, []
    for name in kind.network_settings():
        if name not in old:
            continue
        value = tuple(old[name]) if isinstance(old[name], list) else old[name]
        if value == "auto" and name in facts and (same_data is None or same_data.data != old.get("data")):
            value = facts[name]  # as derived from the other run's data
        if name not in settings:
            if value != kind.model_fields[name].get_default():
                come[name] = value
            continue
        config = kind.from_words({name: settings[name]}, family)[0]
        passed = getattr(config, name, "auto")
        if "auto" not in (value, passed) and passed != value:
            reason = f"has {name}={show_value(value)}, you passed {name}={show_value(passed)}"
            hint = f"omit {name} to take it from the weights"
            problems.append(Problem("settings-differ", "--init-from", reason, hint, given))
    return come, problems
