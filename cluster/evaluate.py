"""How good a run is, or somebody's weights: the family's own evaluation over all held-out samples, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import checks
from trainers import registry
from trainers.data import sources
from trainers.engine import checkpoint, runfolder
from trainers.engine.errors import CONFLICT, SURROUNDINGS, WORDS, TroupeError
from trainers.engine.settings import Config
from trainers.run import open_for


@dataclass(frozen=True)
class Order:
    """An `evaluate` command as it was given: a run, or a family with its settings and weights."""

    name: str
    settings: Mapping[str, Any]
    weights: Path | None
    runs_dir: Path
    data_dir: Path
    families: tuple[Path, ...] = ()
    out: Path | None = None


def prepare(order: Order) -> tuple[str, Config, Path]:
    """Family, settings, and where the weights lie. Raises TroupeError with all mistakes of the command."""
    mistakes: list[str] = []
    stored: Mapping[str, Any] = {}
    family, weights = order.name, order.weights
    known = registry.families(order.families)
    if weights is not None and family not in known and not (order.runs_dir / family).exists():
        registry.config_class(family, order.families)  # raises: no such family
    if family not in known:
        folder = runfolder.find(order.runs_dir, order.name)
        if weights is not None:
            mistakes.append(f"--weights {weights}: is for a family; {order.name} is a run and has weights of its own")
        saved = folder.read_settings()
        family, stored = saved["family"], saved["settings"]
        weights = checkpoint.newest_whole(folder.checkpoints)
        if weights is None:
            raise TroupeError(f"{folder.name}: it has no checkpoint that is whole", CONFLICT)
    elif weights is None:
        mistakes.append(f"{family}: needs --weights PATH, or name a run instead of a family")
    elif not weights.exists():
        mistakes.append(f"--weights {weights}: no such file")
    elif (weights / "checkpoints").is_dir():
        run, weights = weights, checkpoint.newest_whole(weights / "checkpoints")
        if weights is None:
            raise TroupeError(f"--weights {run}: it has no checkpoint that is whole", CONFLICT)
    kind = registry.config_class(family, order.families)
    old = {key: value for key, value in stored.items() if key in kind.model_fields}
    config, wrong = kind.from_words({**old, "device": "cpu", "target": "none", **order.settings}, family)
    mistakes += wrong
    if not kind.metrics:
        mistakes.append(f"{family}: evaluates nothing yet; `troupe sample` draws pictures")
    if config is not None and (mistake := sources.check_name(str(getattr(config, "data", "")), order.families)):
        mistakes.append(mistake)
    if mistakes:
        raise TroupeError(mistakes, WORDS)
    assert config is not None
    assert weights is not None
    return family, config.model_copy(update=checks.resolve(config, own_machine=True)), weights


def evaluate(order: Order) -> dict[str, Any]:
    """Metrics over the held-out samples; pictures of them into `out`, where it is given."""
    name, config, path = prepare(order)
    data = open_for(config, order.data_dir, order.families)
    mistakes = config.misfit(data.facts) or ([] if data.held_out else ["the data holds nothing out to evaluate on"])
    if mistakes:
        raise TroupeError(mistakes, WORDS)
    import torch

    from trainers.engine.control import Control
    from trainers.engine.loop import Trainer, put_back
    from trainers.engine.tensors import load_weights, read_weights
    from trainers.engine.world import World

    config = config.resolved(data.facts).model_copy(update={"exchange": "exact", "ema": 0.0})
    with put_back():
        torch.set_default_dtype(torch.float64 if config.precision == "float64" else torch.float32)
        torch.set_num_threads(config.threads_per_worker)
        family = registry.family_class(name, order.families)(config, data.facts)
        trainer = Trainer(family, data, config, World(), Control())
        whose = f"--weights {path}" if order.weights else order.name
        load_weights(trainer.networks, read_weights(path, tuple(trainer.networks), averaged=True), whose)
        trainer.evaluate()
    result: dict[str, Any] = {
        "name": order.name,
        "weights": str(path),
        "samples": data.held_out,
        **trainer.evaluation.results,
    }
    if order.out is not None:
        from trainers.engine.record import write_evaluation

        try:
            order.out.mkdir(parents=True, exist_ok=True)
            result["pictures"] = [str(picture) for picture in write_evaluation(order.out, trainer.evaluation, data)]
        except OSError as error:
            raise TroupeError(f"--out {order.out}: cannot be written ({error.strerror})", SURROUNDINGS) from error
    return result


def text(result: Mapping[str, Any]) -> str:
    """The metrics, a line each."""
    lines = [f"{result['name']}: {result['samples']} held-out samples"]
    lines += [f"  {key:<14} {value:.4f}" for key, value in result.items() if key.startswith("eval_")]
    return "\n".join([*lines, *(f"  {picture}" for picture in result.get("pictures", ()))])
