"""The complete state of a run, independent of the number of workers: save, restore and compare it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from trainers.base import old_names
from trainers.base.errors import CONFLICT, FAILED, TroupeError
from trainers.base.problems import Problem
from trainers.contract.evaluation import Evaluation
from trainers.engine.trainer import Trainer
from trainers.storage.tensors import bits_of, load_weights, named_tensors, require_matching

DISAGREE = "replicas-disagree"  # the problem code by which `verify` recognizes broken gradient synchronization

SCHEDULED = ("lr", "momentum", "betas")  # values of an optimizer's groups that schedules change


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything that the rest of the run depends on; complete on rank 0, elsewhere with only this worker's part of the
    state of micro-batches."""
    parts = trainer.world.gather_to_rank0((trainer.microbatch_state, trainer.local_optimizers))
    microbatch_states = {index: kept for part, _ in parts for index, kept in part.items()}
    apart: dict[str, dict[int, Any]] = {}
    for _, part in parts:
        for phase, states in part.items():
            apart.setdefault(phase, {}).update(states)
    return {
        "step": trainer.step,
        "phases_done": trainer.phases_done,
        "pending": trainer.pending,
        "position": trainer.position,
        "phase_counts": dict(trainer.phase_counts),
        "networks": {name: network.state_dict() for name, network in trainer.networks.items()},
        "ema": {name: average.network.state_dict() for name, average in trainer.averages.items()},
        "optimizers": {
            name: {"kind": type(one.optimizer).__name__, "begun": one.group_defaults, **_optimizer_state(one.optimizer)}
            for name, one in trainer.optimizers.items()
        },
        "carried": dict(sorted(microbatch_states.items())),
        "apart": {phase: dict(sorted(states.items())) for phase, states in sorted(apart.items())},
        "kept": dict(trainer.family.buffers),
        "sample_inputs": trainer.sample_inputs,
        "best": trainer.best,
        "metrics": dict(trainer.metrics),  # within a step: of the phases done
        "results": dict(trainer.evaluation.results),
        "history": list(trainer.history),
        "watched": dict(trainer.watch_metrics),
        "worry": trainer.worry,
        "reached": trainer.config.target if trainer.reached else "",
    }


def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state with learning rates as numbers."""
    stored: dict[str, Any] = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} if "lr" in group else group for group in stored["param_groups"]]
    return {**stored, "param_groups": groups}


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Restore a state; every worker has loaded the same one.

    Raises TroupeError (exit code 4), before anything is changed, if it does not fit.
    """
    require_matching(trainer.networks, state["networks"], "the checkpoint does not fit")
    state = old_names.state(state, trainer.config.metrics)
    trainer.step, trainer.phases_done, trainer.position = state["step"], state["phases_done"], state["position"]
    trainer.pending, trainer.phase_counts = bool(state.get("pending")), dict(state["phase_counts"])
    trainer.sample_inputs, trainer.best = state["sample_inputs"], dict(state["best"])
    trainer.set_buffers(state.get("kept", {}))
    trainer.metrics, trainer.evaluation = dict(state["metrics"]), Evaluation(dict(state["results"]))
    trainer.history = list(state.get("history", ()))
    trainer.watch_metrics, trainer.worry = dict(state.get("watched", {})), str(state.get("worry", ""))
    trainer.reached = trainer.config.target != "none" and state.get("reached") == trainer.config.target
    for name, network in trainer.networks.items():
        network.load_state_dict(state["networks"][name])
    for name, average in trainer.averages.items():
        average.network.load_state_dict(state["ema"].get(name, state["networks"][name]))
    for name, one in trainer.optimizers.items():
        saved = state["optimizers"].get(name, {})
        one.last_values = None
        if saved.get("kind") == type(one.optimizer).__name__:
            one.optimizer.load_state_dict(saved)
            for group, now, then in zip(one.optimizer.param_groups, one.group_defaults, saved["begun"], strict=True):
                group.update({key: value for key, value in now.items() if key in SCHEDULED or then.get(key) != value})
        elif trainer.world.rank == 0:
            trainer.control.notify(f"optimizer {name}: type differs from the checkpoint's; it starts without state")
    trainer.microbatch_state = {
        index: trainer.to_device(state["carried"].get(index, {})) or trainer.microbatch_state[index]
        for index in trainer.grad_sync.share
    }
    trainer.local_optimizers = {
        phase: {index: states[index] for index in trainer.grad_sync.share if index in states}
        for phase, states in state.get("apart", {}).items()
    }


def start_from(trainer: Trainer, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Start with another run's weights. Raises TroupeError (exit code 4) if they do not fit or are not finite."""
    load_weights(trainer.networks, weights, "--init-from")
    if sick := not_finite({name: weights[name] for name in trainer.networks}):
        reason = f"{sick[0]} is not finite"
        raise TroupeError(Problem("not-finite", "--init-from", reason, "use other weights"), CONFLICT)
    for name, average in trainer.averages.items():
        average.network.load_state_dict(weights[name], strict=False)  # as `load_weights`


def not_finite(state: Any) -> list[str]:
    """The names of tensors in a state that hold non-finite numbers."""
    return [name for name, tensor in named_tensors(state) if tensor.is_floating_point() and not tensor.isfinite().all()]


def check_replicas(trainer: Trainer) -> None:
    """Compare the replicas. Raises TroupeError naming a tensor that is not finite or differs between workers."""
    tensors = dict(named_tensors(state_of_replica(trainer)))
    if sick := not_finite(tensors):
        hint = f"nothing was saved, and {trainer.lower_rate_hint()}"
        raise TroupeError(Problem("not-finite", f"step {trainer.step}", f"{sick[0]} is not finite", hint), FAILED)
    if trainer.world.size == 1:
        return
    sums = {name: zlib.crc32(bits_of(tensor).numpy().data) for name, tensor in tensors.items() if tensor.numel()}
    own_rank = trainer.world.rank
    for rank, other in enumerate(trainer.world.all_gather(sums)):
        for name, value in other.items():
            if value != sums[name] and rank != own_rank:
                reason = f"workers {min(rank, own_rank)} and {max(rank, own_rank)} disagree on {name}"
                hint = "nothing was saved: gradient synchronization is broken"
                raise TroupeError(Problem(DISAGREE, f"step {trainer.step}", reason, hint), FAILED)


def state_of_replica(trainer: Trainer) -> dict[str, Any]:
    """The part of the state that every worker holds."""
    return {
        "networks": {name: network.state_dict() for name, network in trainer.networks.items()},
        "ema": {name: average.network.state_dict() for name, average in trainer.averages.items()},
        "optimizers": {name: one.optimizer.state_dict()["state"] for name, one in trainer.optimizers.items()},
    }
