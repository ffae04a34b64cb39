"""`troupe export`, and loading the exported networks."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.inspection.manage_runs import networks_of, not_written, opened
from trainers.base import old_names
from trainers.base.errors import CONFLICT, USAGE, TroupeError
from trainers.base.paths import expanded
from trainers.base.placeholders import how_to_fetch, placeholder_at
from trainers.base.problems import Problem
from trainers.families import registry
from trainers.run_folders import run_folder
from trainers.run_folders.removal import NOT_OURS
from trainers.runtime.global_state import with_default_globals
from trainers.settings.fields import plain
from trainers.storage import atomic_files


def export(name: str, runs: Path, families: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the weights of a run's newest checkpoint as safetensors, and the config that rebuilds the networks.

    `weights.safetensors` holds NETWORK.KEY for each tensor; the running average is used if there is one.
    """
    run_folder.find_run(runs, name)
    return _export(name, runs, families, out)


@with_default_globals
def _export(name: str, runs: Path, families: Sequence[Path], out: Path) -> dict[str, Any]:
    _, stored, state, family = opened(name, runs, families)
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {
        f"{network}.{key}": tensor.contiguous()
        for network, part in {**state["networks"], **state["ema"]}.items()
        for key, tensor in part.items()
    } | {f"kept.{name}": tensor.contiguous() for name, tensor in state.get("kept", {}).items()}
    config = {
        "family": stored["family"],
        "settings": stored["settings"],
        "facts": plain(family.facts),
        "data": stored.get("data"),
        "from": stored.get("from"),
        "learned_before": stored.get("learned_before", []),
        "families": stored.get("families", []),
        "step": state["step"],
        "versions": stored["versions"],
    }
    if (expected := family.config.input_spec(config["facts"])) is not None:
        config["input"] = expected
    others = [name for name in EXPORTED if os.path.lexists(out / name)]
    if others and not _is_export(out):
        reason = f"holds {' and '.join(others)}, not written by `troupe export`"
        raise TroupeError(Problem(NOT_OURS, "--out", reason, "use another folder", str(out)), CONFLICT)
    try:
        with atomic_files.new_folder(out):
            with atomic_files.replacing(out / "weights.safetensors") as temporary:
                save_file(tensors, temporary, {"family": stored["family"], "step": str(state["step"])})
            atomic_files.write(out / "config.json", json.dumps(config, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        raise not_written(out, getattr(error, "strerror", error)) from error
    return {"folder": str(out), "files": ["weights.safetensors", "config.json"], "step": state["step"]}


def load_exported(folder: str | Path, families: Sequence[str | Path] = ()) -> dict[str, Any]:
    """The networks of an exported folder, in eval mode, by name: `network` of a classifier.

    Raises TroupeError: exit code 2 if the folder is no export, 4 if its config or its weights are damaged.
    """
    config_of(expanded(folder))
    networks: dict[str, Any] = with_default_globals(exported)(expanded(folder), [expanded(path) for path in families])[
        2
    ]
    return networks


def exported(folder: Path, families: Sequence[Path]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The config.json of an exported folder, its family, and its networks in eval mode, by name."""
    from trainers.storage.tensors import read_weights

    config = config_of(folder)
    kind = registry.class_of_run(config, str(folder), families)
    try:
        settings = kind.of(config["settings"], config["family"])
        family = registry.family_class(config["family"], families)(settings, config["facts"])
        weights = read_weights(folder / "weights.safetensors")
        return config, family, networks_of(family, {"networks": weights, "ema": {}, "kept": weights.pop("kept", {})})
    except TroupeError:
        raise
    except Exception as error:  # any error that an edited file can cause
        raise not_exported(folder) from error


def not_exported(folder: Path) -> TroupeError:
    instead = placeholder_at(folder / "config.json")
    reason = f"is a {instead}" if instead else "was not written by `troupe export`"
    hint = how_to_fetch(instead) or "export again"
    return TroupeError(Problem("damaged", f"{folder}/config.json", reason, hint), CONFLICT)


def _is_export(folder: Path) -> bool:
    """Whether the files of these names in a folder were written by `export`."""
    with contextlib.suppress(TroupeError):
        return config_of(folder)["versions"]["troupe"] is not None
    return False


EXPORTED = ("weights.safetensors", "config.json")


def config_of(folder: Path) -> dict[str, Any]:
    """The config.json of an exported folder. Raises TroupeError: exit code 2 if there is none, 4 if it is damaged."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kinds = {"family": str, "settings": dict, "facts": dict}
        if all(isinstance(config.get(name), kind) for name, kind in kinds.items()):
            return old_names.current_run(config)
    except OSError as error:
        reason = f"holds no exported networks ({error.strerror})"
        hint = f"`troupe export NAME --out {folder}` writes them"
        raise TroupeError(Problem("missing-file", str(folder), reason, hint), USAGE) from error
    except (ValueError, AttributeError):
        pass
    raise not_exported(folder)
