"""Estimates the memory of a run before anything is built: its networks are made without data, on torch's meta device.
Free memory is that of this machine, of the container, or of a GPU."""

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
from trainers.base.errors import ENVIRONMENT, USAGE, TroupeError
from trainers.base.problems import Problem, show_value
from trainers.contract.family import Data, Family, MicroBatch
from trainers.distributed.process_group import World, host_identity
from trainers.settings.config import Config
from trainers.settings.fields import show_size

NEAR = 0.9  # share of free memory from which an estimate is reported
FEW = 10_000  # bytes of activations per byte of a sample, usually at most: exact counting only if these might not fit
UNLIMITED = 1 << 60  # bytes: limits from here on mean no limit in cgroups v1


class MemoryEstimate(NamedTuple):
    """Bytes that one worker needs. All but `activations` are lower bounds; those are of one micro-batch, or None if
    they cannot be computed."""

    weights: int
    gradients: int  # of one optimizer at a time
    optimizers: int
    averages: int
    activations: int | None

    @property
    def least(self) -> int:
        return self.weights + self.gradients + self.optimizers + self.averages

    def summary(self) -> str:
        """`weights 8.6 MB, gradients 5.9 MB, optimizers 17.2 MB, activations about 7.2 MB`."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizers": self.optimizers,
            "averages": self.averages,
            "activations about": self.activations,
        }
        return ", ".join(f"{name} {show_size(count)}" for name, count in parts.items() if count)


def estimate_memory(family: Family, data: Data | None = None, unless: float = 0.0) -> MemoryEstimate | None:
    """What a family needs in each worker; None if its networks cannot be made on the meta device.

    Activations are computed if `data` shows what a sample is, and left out if they are surely below `unless` bytes:
    computing them takes some tens of milliseconds. Raises TroupeError (exit code 2) for networks whose size overflows.
    """
    config, wide = family.config, 8 if family.config.precision == "float64" else 4
    family = type(family)(config, family.facts)  # a copy, so that the original keeps nothing of these networks
    networks = meta_networks(family)
    if networks is None:
        return None
    weight_bytes = {
        name: sum(map(_numbers, network.state_dict().values())) * wide for name, network in networks.items()
    }
    optimizers: list[torch.optim.Optimizer] = []
    with contextlib.suppress(Exception):
        optimizers = [optimizer for optimizer, _ in family.optimizers(networks).values()]
    trained = [sum(_numbers(part) for group in one.param_groups for part in group["params"]) for one in optimizers]
    least = MemoryEstimate(
        sum(weight_bytes.values()),
        wide * max(trained, default=0),
        sum(wide * optimizer_numbers(one) * count for one, count in zip(optimizers, trained, strict=True)),
        sum(weight_bytes[name] for name in family.ema_networks) if config.ema else 0,
        None,
    )
    if data is None:
        return least
    activations = None
    with contextlib.suppress(Exception):  # a loss may read values, which meta tensors lack
        samples = _samples(family, data)
        size = sum(tensor.numel() * tensor.element_size() for tensor in samples["tensors"].values())
        if FEW * size >= unless:
            activations = _activations(family, networks, samples)
    return least._replace(activations=activations)


def meta_networks(family: Family) -> Mapping[str, nn.Module] | None:
    """The networks of a family on the meta device; None if they cannot be made there. Raises TroupeError (exit code 2)
    for networks whose size overflows."""
    try:
        with torch.random.fork_rng([]), torch.device("meta"), SkipInit():
            return family.networks()
    except Exception as error:
        if "overflow" in str(error).lower():
            reason, hint = "the networks are larger than any memory", f"use smaller ones{_by(family.config)}"
            raise TroupeError(Problem("no-memory", reason=reason, hint=hint), USAGE) from None
        return None


class SkipInit(TorchFunctionMode):
    """Skips in-place initialization of meta tensors: it takes longer than making them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class SkipRandom(TorchFunctionMode):
    """Skips drawing of random numbers: generators do not support meta tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if "generator" in kwargs:
            kwargs.pop("generator")
            kwargs |= {"device": "meta"} if "device" in kwargs else {}
        return func(*args, **kwargs)


class LazyFrozen(dict[str, nn.Module]):
    """Networks, and frozen networks when one is accessed: those that only judge may have to be downloaded."""

    def __init__(self, networks: Mapping[str, nn.Module], frozen: Callable[[], Mapping[str, nn.Module]]) -> None:
        super().__init__(networks)
        self.frozen = frozen

    def __missing__(self, name: str) -> nn.Module:
        with warnings.catch_warnings(action="ignore"):  # torch warns that weights are not copied to meta tensors
            self.update(self.frozen())
        return dict(self)[name]


def optimizer_numbers(optimizer: torch.optim.Optimizer) -> int:
    """Numbers that an optimizer keeps for each parameter, at least."""
    defaults = optimizer.defaults
    if "betas" in defaults:
        return 2 + bool(defaults.get("amsgrad"))
    moving = bool(defaults.get("momentum"))
    return (1 + bool(defaults.get("centered")) if "alpha" in defaults and "lr" in defaults else 0) + moving


def _numbers(tensor: Tensor) -> int:
    return tensor.numel()


def _by(config: Config) -> str:
    """The network settings that differ from their defaults, in brackets."""
    changed = [
        f"{name}={show_value(value)}"
        for name in config.network_settings()
        if isinstance(value := getattr(config, name), (int, float, tuple))
        and not isinstance(value, bool)
        and value != type(config).model_fields[name].get_default()
    ]
    return f" ({', '.join(changed)})" if changed else ""


def _samples(family: Family, data: Data) -> dict[str, Any]:
    """The contents of a micro-batch as meta tensors, shaped like the first sample."""
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
    """Bytes that the graph of a micro-batch keeps until its gradient is computed."""
    config = family.config
    weights = {tensor.untyped_storage()._cdata for net in networks.values() for tensor in net.state_dict().values()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            saved[storage] = tensor
        return tensor

    with (
        torch.random.fork_rng([]),
        torch.device("meta"),
        SkipRandom(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        states = {name: torch.empty_like(tensor) for name, tensor in family.microbatch_state(0).items()}
        microbatch = MicroBatch(
            step=0,
            index=0,
            size=config.microbatch_size,
            device=torch.device("meta"),
            dtype=torch.get_default_dtype(),
            random=torch.Generator("cpu"),
            state=states,
            **samples,
        )
        lazy = LazyFrozen(networks, family.frozen_networks)
        most = before = 0
        for phase in {phase.name: phase for phase in family.phases(0)}.values():
            phase.loss(lazy, microbatch)
            most = max(most, before + sum(tensor.untyped_storage().nbytes() for tensor in saved.values()))
            before = most if phase.keeps_graph_of else 0
            saved.clear()
    wide = {"bfloat16": 2, "float64": 8}.get(config.precision, 4)
    return most * wide // torch.get_default_dtype().itemsize


def free_memory(device: str) -> int | None:
    """Bytes that are free on this machine, in this container, or on this process's GPU; None if unknown."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return min([*_of_machine(), *_of_cgroups()], default=None)


def _of_machine() -> Iterator[int]:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        yield 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))


def _of_cgroups() -> Iterator[int]:
    """Free bytes in each control group of this process; cached files can be dropped, so they count as free."""
    for folder, second in cgroups.groups("memory"):
        names = (
            ("memory.max", "memory.current", "inactive_file")
            if second
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        with contextlib.suppress(OSError, ValueError):
            most, used, stat_text = (
                (folder / name).read_text(encoding="utf-8") for name in (*names[:2], "memory.stat")
            )
            limit = int(most)  # "max": none
            stat = dict(line.split() for line in stat_text.splitlines())
            if limit < UNLIMITED:
                yield limit - int(used) + int(stat.get(names[2], 0))


def check_memory(family: Family, data: Data, world: World) -> str:
    """Check memory before anything is built, by all workers together. Returns a notice if it may not be enough, or "".

    Raises TroupeError (exit code 3), the same on every rank, if weights, gradients and optimizers alone exceed free
    memory.
    """
    config = family.config
    free = free_memory(config.device)
    need = estimate_memory(family, data, math.inf if free is None else NEAR * free / world.size)
    location = str(world.rank) if config.device == "cuda" else host_identity()
    hosts: dict[str, list[tuple[MemoryEstimate, int]]] = {}
    for where, one, available in world.all_gather((location, need, free)):
        if one is not None and available is not None:
            hosts.setdefault(where, []).append((MemoryEstimate(*one), available))
    notice = ""
    for workers in hosts.values():
        count, available, one = len(workers), min(available for _, available in workers), workers[0][0]
        if is_near(config, one, count, available):
            about = count * (one.least + (one.activations or 0))
            notice = (
                f"memory may not be enough: {_of(count)} about {show_size(about)} ({one.summary()}"
                f"{' each' if count > 1 else ''}), and {show_size(available)} are free; a smaller microbatch_size "
                "takes less, but changes the run"
            )
    return notice


def is_near(config: Config, one: MemoryEstimate, count: int, free: int) -> bool:
    """Whether this many workers come near free memory. Raises TroupeError (exit code 3) if it cannot be enough."""
    if count * one.least > free:
        where = "on its GPU" if config.device == "cuda" else "here"
        reason = (
            f"too little memory: {_of(count)} at least {show_size(count * one.least)} ("
            f"{one._replace(activations=None).summary()}{' each' if count > 1 else ''}), and "
            f"{show_size(free)} are free {where}"
        )
        hint = f"use smaller networks{_by(config)}" + (", or fewer workers" if count > 1 else "")
        raise TroupeError(Problem("no-memory", reason=reason, hint=hint), ENVIRONMENT)
    return count * (one.least + (one.activations or 0)) > NEAR * free


def _of(count: int) -> str:
    return "the run takes" if count == 1 else f"its {count} workers take"
