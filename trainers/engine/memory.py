"""How much memory a run takes, told before anything is built: its networks are made without numbers, on torch's meta
device. What is free is that of this machine, or of the container, or of a GPU."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainers.base import cgroups
from trainers.base.errors import SURROUNDINGS, WORDS, TroupeError
from trainers.base.problems import Problem, show_value
from trainers.contract.family import Data, Family, MicroBatch
from trainers.distributed.process_group import World, host_identity
from trainers.settings.config import Config
from trainers.settings.fields import show_size

NEAR = 0.9  # of what is free: where an estimate comes as near, it is told
FEW = 10_000  # bytes that a network keeps for each byte of a sample, at most, as a rule: only near that it is counted
UNLIMITED = 1 << 60  # bytes, in the words of cgroups of the first version


class Need(NamedTuple):
    """Bytes that one worker takes. All but `activations` are taken for sure; those are of one micro-batch, or None
    where they could not be told."""

    weights: int
    gradients: int  # of one optimizer at a time
    optimizers: int
    averages: int
    activations: int | None

    @property
    def least(self) -> int:
        return self.weights + self.gradients + self.optimizers + self.averages

    def told(self) -> str:
        """`weights 8.6 MB, gradients 5.9 MB, optimizers 17.2 MB, activations about 7.2 MB`."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizers": self.optimizers,
            "averages": self.averages,
            "activations about": self.activations,
        }
        return ", ".join(f"{name} {show_size(count)}" for name, count in parts.items() if count)


def need_of(family: Family, data: Data | None = None, unless: float = 0.0) -> Need | None:
    """What a family takes in each worker; None where its networks cannot be made without numbers.

    Activations are told where there are data to say what a sample is, and left out where they are surely below `unless`
    bytes: telling them takes some tens of milliseconds. Raises TroupeError (exit code 2) for networks of more numbers
    than can be counted.
    """
    config, wide = family.config, 8 if family.config.precision == "float64" else 4
    family = type(family)(config, family.facts)  # whatever it notes of its networks is not noted of these
    networks = outlines(family)
    if networks is None:
        return None
    held = {name: sum(map(_numbers, network.state_dict().values())) * wide for name, network in networks.items()}
    optimizers: list[torch.optim.Optimizer] = []
    with contextlib.suppress(Exception):
        optimizers = [optimizer for optimizer, _ in family.optimizers(networks).values()]
    learned = [sum(_numbers(part) for group in one.param_groups for part in group["params"]) for one in optimizers]
    least = Need(
        sum(held.values()),
        wide * max(learned, default=0),
        sum(wide * kept_by(one) * count for one, count in zip(optimizers, learned, strict=True)),
        sum(held[name] for name in family.ema_networks) if config.ema else 0,
        None,
    )
    if data is None:
        return least
    activations = None
    with contextlib.suppress(Exception):  # a loss may look at numbers, of which there are none
        samples = _samples(family, data)
        size = sum(tensor.numel() * tensor.element_size() for tensor in samples["tensors"].values())
        if FEW * size >= unless:
            activations = _activations(family, networks, samples)
    return least._replace(activations=activations)


def outlines(family: Family) -> Mapping[str, nn.Module] | None:
    """The networks of a family without their numbers; None where they cannot be made so. Raises TroupeError (exit code
    2) for networks of more numbers than can be counted."""
    try:
        with torch.random.fork_rng([]), torch.device("meta"), Unfilled():
            return family.networks()
    except Exception as error:
        if "overflow" in str(error).lower():
            reason, hint = "the networks are larger than any memory", f"take smaller ones{_by(family.config)}"
            raise TroupeError(Problem("no-memory", reason=reason, hint=hint), WORDS) from None
        return None


class Unfilled(TorchFunctionMode):
    """Tensors without numbers are not filled with any: that takes longer than making them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class Undrawn(TorchFunctionMode):
    """Random numbers are not drawn: generators know no tensors without numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if "generator" in kwargs:
            kwargs.pop("generator")
            kwargs |= {"device": "meta"} if "device" in kwargs else {}
        return func(*args, **kwargs)


class WithFrozen(dict[str, nn.Module]):
    """Networks, and the frozen ones where somebody asks for one: those that only judge may have to be fetched."""

    def __init__(self, networks: Mapping[str, nn.Module], frozen: Callable[[], Mapping[str, nn.Module]]) -> None:
        super().__init__(networks)
        self.frozen = frozen

    def __missing__(self, name: str) -> nn.Module:
        with warnings.catch_warnings(action="ignore"):  # that weights are not copied to where no numbers are
            self.update(self.frozen())
        return dict(self)[name]


def kept_by(optimizer: torch.optim.Optimizer) -> int:
    """Numbers that an optimizer keeps for each parameter, at least."""
    says = optimizer.defaults
    if "betas" in says:
        return 2 + bool(says.get("amsgrad"))
    moving = bool(says.get("momentum"))
    return (1 + bool(says.get("centered")) if "alpha" in says and "lr" in says else 0) + moving


def _numbers(tensor: Tensor) -> int:
    return tensor.numel()


def _by(config: Config) -> str:
    """The numbers that were said of the networks, in brackets."""
    told = [
        f"{name}={show_value(value)}"
        for name in config.network_settings()
        if isinstance(value := getattr(config, name), (int, float, tuple))
        and not isinstance(value, bool)
        and value != type(config).model_fields[name].get_default()
    ]
    return f" ({', '.join(told)})" if told else ""


def _samples(family: Family, data: Data) -> dict[str, Any]:
    """What a micro-batch is made of, without numbers, by the first sample."""
    size = family.config.microbatch_size
    tensors, indices, epochs = family.stream(data).at(range(1))

    def sized(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty((size, *value.shape[1:]), dtype=value.dtype, device="meta")
        return value * size

    return {
        "tensors": {name: sized(value) for name, value in tensors.items()},
        "indices": sized(indices),
        "epochs": sized(epochs),
    }


def _activations(family: Family, networks: Mapping[str, nn.Module], samples: Mapping[str, Any]) -> int:
    """Bytes that the graph of a micro-batch keeps until its gradient is there."""
    config = family.config
    weights = {tensor.untyped_storage()._cdata for net in networks.values() for tensor in net.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            kept[storage] = tensor
        return tensor

    with (
        torch.random.fork_rng([]),
        torch.device("meta"),
        Undrawn(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        carried = {name: torch.empty_like(tensor) for name, tensor in family.carried(0).items()}
        microbatch = MicroBatch(
            step=0,
            index=0,
            size=config.microbatch_size,
            device=torch.device("meta"),
            dtype=torch.get_default_dtype(),
            random=torch.Generator("cpu"),
            carried=carried,
            **samples,
        )
        asked_for = WithFrozen(networks, family.frozen)
        most = before = 0
        for phase in {phase.name: phase for phase in family.phases(0)}.values():
            phase.loss(asked_for, microbatch)
            most = max(most, before + sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
            before = most if phase.leaves else 0
            kept.clear()
    wide = {"bfloat16": 2, "float64": 8}.get(config.precision, 4)
    return most * wide // torch.get_default_dtype().itemsize


def free_on(device: str) -> int | None:
    """Bytes that are free on this machine, in this container, or on this process's GPU; None where nobody tells."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return min([*_of_machine(), *_of_cgroups()], default=None)


def _of_machine() -> Iterator[int]:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        yield 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))


def _of_cgroups() -> Iterator[int]:
    """What each of the control groups that this process is in leaves; cached files can be dropped."""
    for folder, second in cgroups.groups("memory"):
        names = (
            ("memory.max", "memory.current", "inactive_file")
            if second
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        with contextlib.suppress(OSError, ValueError):
            most, used, told = ((folder / name).read_text(encoding="utf-8") for name in (*names[:2], "memory.stat"))
            limit = int(most)  # "max": none
            stat = dict(line.split() for line in told.splitlines())
            if limit < UNLIMITED:
                yield limit - int(used) + int(stat.get(names[2], 0))


def refuse_too_large(family: Family, data: Data, world: World) -> str:
    """Before anything is built, by all workers together: what is to be said where it may become too much, or nothing.

    Raises TroupeError (exit code 3), the same on every rank, where weights, gradients and optimizers alone are more
    than what is free.
    """
    config = family.config
    free = free_on(config.device)
    need = need_of(family, data, math.inf if free is None else NEAR * free / world.size)
    whose = str(world.rank) if config.device == "cuda" else host_identity()
    hosts: dict[str, list[tuple[Need, int]]] = {}
    for where, one, there in world.gather((whose, need, free)):
        if one is not None and there is not None:
            hosts.setdefault(where, []).append((Need(*one), there))
    told = ""
    for workers in hosts.values():
        count, there, one = len(workers), min(there for _, there in workers), workers[0][0]
        if is_near(config, one, count, there):
            about = count * (one.least + (one.activations or 0))
            told = (
                f"memory may not be enough: {_of(count)} about {show_size(about)} ({one.told()}"
                f"{' each' if count > 1 else ''}), and {show_size(there)} are free; a lesser microbatch_size is "
                "another recipe, and takes less"
            )
    return told


def is_near(config: Config, one: Need, count: int, free: int) -> bool:
    """Whether so many workers come near what is free. Raises TroupeError (exit code 3) where it cannot be enough."""
    if count * one.least > free:
        where = "on its GPU" if config.device == "cuda" else "here"
        reason = (
            f"too little memory: {_of(count)} at least {show_size(count * one.least)} ("
            f"{one._replace(activations=None).told()}{' each' if count > 1 else ''}), and {show_size(free)} are free "
            f"{where}"
        )
        hint = f"take smaller networks{_by(config)}" + (", or fewer workers" if count > 1 else "")
        raise TroupeError(Problem("no-memory", reason=reason, hint=hint), SURROUNDINGS)
    return count * (one.least + (one.activations or 0)) > NEAR * free


def _of(count: int) -> str:
    return "the run takes" if count == 1 else f"its {count} workers take"
