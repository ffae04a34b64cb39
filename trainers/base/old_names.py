"""Names of 0.1.0 and 0.2.0: modules that custom families import, members of the contract, settings, options, metrics
and JSON fields.

What troupe has stored is read silently under the current names; a user's own file with a line about it. Old members of
the contract are reported.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from trainers.base.problems import Problem

CONTRACT = {
    "augment": "contract.augmentation", "checkpoint": "storage.checkpoint", "config": "settings.config",
    "errors": "base.errors", "evaluation": "contract.evaluation", "family": "contract.family",
    "fonts": "drawing.fonts", "pictures": "drawing.pictures", "plots": "drawing.plots", "problems": "base.problems",
    "rules": "settings.rules", "runfolder": "run_folders.run_folder", "schedules": "contract.schedules",
    "settings": "settings.fields", "streams": "contract.streams", "tensors": "storage.tensors",
}  # fmt: skip
OF_FOLDERS = {
    "decoding": "decoding", "folders": "folder_names", "levels": "levels", "listing": "layout",
    "splitting": "splitting", "unreadable": "unreadable", "values": "values",
}  # fmt: skip
MODULES = {
    **{f"trainers.engine.{old}": f"trainers.{new}" for old, new in CONTRACT.items()},
    **{f"trainers.data.{old}": f"trainers.data.image_folders.{new}" for old, new in OF_FOLDERS.items()},
    "trainers.registry": "trainers.families.registry", "trainers.version": "trainers.base.version",
}  # fmt: skip
SETTINGS = {  # by the name until 0.2.0
    "latent": "latent_dim",
    "warm_up": "warmup",
    "judged": "num_eval_samples",
    "hang_after": "worker_timeout",
    "keep": "keep_checkpoints",
    "exchange": "grad_sync",
    "normalisation": "normalization",
}
METRICS = {
    "watch_right": "critic_ranking_accuracy",
    "watch_right_held_out": "critic_ranking_accuracy_held_out",
    "watch_steepness": "critic_slope",
    "watch_doubts": "collapse_strikes",
    "copy_rate": "memorization_rate",
    "class_divergence": "class_kl",
}
FIELDS = {  # of `--json`
    "remarks": "warnings",
    "told": "message",
    "passed_over": "skipped",
    "proofs": "checks",
    "wrong": "failed",
    "at_once": "concurrent_trials",
    "allowed": "tolerance",
    "part": "split",
}
IN_ALL_SETTINGS = "keep_checkpoints"  # stored with every run and search since the renaming

OPTIONS = {"from": "init-from", "final": "retrain-best", "unchecked": "skip-checks"}  # of 0.1.0 and 0.2.0
ARGUMENTS = {"from_run": "init_from"}  # of Python calls

CONTRACT_NAMES: dict[str, dict[str, str]] = {
    "Config": {
        "misfit": "validate_data",
        "wrong": "validate_settings",
        "wrong_target": "target_problem",
        "wrong_data": "data_problems",
        "remarks": "warnings",
        "following": "derived_defaults",
        "instead": "overridden_defaults",
        "expects": "input_spec",
        "places": "num_samples",
        "held_out_places": "num_held_out",
        "nothing_held_out": "no_held_out_reason",
        "draws": "batches_per_step",
        "resolved": "finalize",
        "recipe": "defining_settings",
        "asked": "sample_settings",
        "moves_momentum": "schedules_momentum",
        "learns_from": "input_kind",
        "meant": "suggestion",
        "spans_the_run": "depends_on_total_steps",
    },
    "Family": {
        "begin": "setup",
        "frozen": "frozen_networks",
        "kept": "buffers",
        "beat": "heartbeat",
        "look": "extract_features",
        "looked": "reference_features",
        "compared": "reference_data",
        "look_over": "summarize_features",
        "look_name": "features_key",
        "before_evaluations": "setup_evaluation",
        "collected": "per_sample_outputs",
        "conclude": "compute_metrics",
        "scored": "rank_samples",
        "report": "details",
        "carried": "microbatch_state",
    },
    "Phase": {
        "fresh": "new_batch",
        "leaves": "keeps_graph_of",
        "before": "pre_step",
        "after": "post_step",
        "optimises": "local_params",
        "own": "local_optimizer",
    },
    "Watch": {"look": "extract_features", "conclude": "compute_metrics"},
    "MicroBatch": {"carried": "state", "kept": "intermediates"},
    "Evaluation": {"beat": "heartbeat"},
    "Wasserstein": {"constrain": "constraints"},
    "": {
        "Asked": "SampleSettings",
        "AskedImages": "ImageSampleSettings",
        "Scored": "RankedSample",
        "Drawn": "StreamBatch",
    },
}  # members by class: old name and new name; under "", classes


def renamed(owner: str, names: Iterable[str], about: str) -> list[Problem]:
    """A problem for each of these names that members of `owner` had before; `about` is where it is used."""
    new = CONTRACT_NAMES.get(owner, {})
    dot = "." if owner else ""
    return [
        Problem("renamed", about, f"{owner}{dot}{name} was renamed", f"use {new[name]}")
        for name in names
        if name in new
    ]


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a current module by its old name; asked last, after all other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is {MODULES[spec.name]} now", DeprecationWarning, stacklevel=2)
        self.spec = importlib.import_module(MODULES[spec.name]).__spec__
        return sys.modules[MODULES[spec.name]]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import has replaced it by that of the old name


def install_finder() -> None:
    """Enable the old module names in this process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())


def settings(stored: Mapping[str, Any], fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Stored settings under their current names: all of a run, or some of a search with these `fixed` ones.

    In newer ones an old name is a custom family's own.
    """
    if IN_ALL_SETTINGS in (stored if fixed is None else fixed):
        return dict(stored)
    named = {name if SETTINGS.get(name) in stored else SETTINGS.get(name, name): stored[name] for name in stored}
    return {**named, "target": target(named["target"])} if "target" in named else named


def current_run(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a settings.json, a manifest or the config.json of an export, under the current names.

    In the manifests of 0.1.0 `recipe` held the settings that define the run; now it names the recipe of a run.
    """
    current = dict(stored)
    if "settings" not in current and isinstance(current.get("recipe"), dict):
        current["settings"] = current.pop("recipe")
    if isinstance(current.get("settings"), dict):
        current["settings"] = settings(current["settings"])
    return current


def current_search(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a search.json, without its trials, under the current names."""
    record, fixed = best(stored), stored.get("fixed", {})
    if record.get("final"):
        record["final"] = {**record["final"], "metrics": metrics(record["final"]["metrics"])}
    return {**record, **{part: settings(record[part], fixed) for part in ("fixed", "space") if part in record}}


def result(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a result.json under the current names."""
    ways: Mapping[str, Callable[[Any], Any]] = {"metrics": metrics, "best": best, "verdict": verdict, "target": target}
    return {**stored, **{part: way(stored[part]) for part, way in ways.items() if stored.get(part)}}


def state(stored: Mapping[str, Any], own_metrics: Collection[str]) -> dict[str, Any]:
    """The state in a checkpoint under the current names, if they are not those of a custom family's own metrics."""
    if METRICS.keys() & {*own_metrics}:
        return dict(stored)
    parts = {part: metrics(stored[part]) for part in ("metrics", "results", "watched") if part in stored}
    return {**stored, **parts, "best": best(stored["best"]), "reached": target(stored.get("reached", ""))}


def verdict(stored: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation in full under the current names."""
    numbers = stored.get("numbers")
    return {**stored, "numbers": metrics(numbers)} if isinstance(numbers, dict) else dict(stored)


def best(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What holds a metric, such as the best evaluation of a run, with its current name."""
    return {**stored, **{part: metric(stored[part]) for part in ("metric",) if isinstance(stored.get(part), str)}}


def metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers under the current names of their metrics."""
    return {metric(name): value for name, value in row.items()}


def metric(name: str) -> str:
    """The current name of a metric, with `eval_` or without."""
    short = name.removeprefix("eval_")
    return f"{name[: len(name) - len(short)]}{METRICS.get(short, short)}"


def target(word: str) -> str:
    """A `target=` with the current name of its metric."""
    name, colon, number = word.partition(":")
    return f"{metric(name)}{colon}{number}"


def own_names(values: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Stored settings under the names of their class: a custom family can declare one that has an old name of ours."""
    back = {new: old for old, new in SETTINGS.items() if old in fields and new not in fields}
    return {back.get(name, name): value for name, value in values.items()}


def current(values: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Settings of a user's file or family under their current names, except for old names that the class declares."""
    names = {old: new for old, new in SETTINGS.items() if old not in fields and new in fields and new not in values}
    return {names.get(name, name): value for name, value in values.items()}


def of_file(values: Mapping[str, Any], fields: Collection[str], file: str) -> tuple[dict[str, Any], list[str]]:
    """As `current`, with a line that names what was renamed."""
    named = current(values, fields)
    if "target" in named:
        named["target"] = target(named["target"])
    pairs = [f"{old} is {new} now" for old, new in zip(values, named, strict=True) if old != new]
    if values.get("target") != named.get("target"):
        pairs.append(f"target={values['target']} is target={named['target']} now")
    return named, [f"{file}: {', '.join(pairs)}"] if pairs else []
