"""How gradients meet by torch's DistributedDataParallel: the second way, and the default on GPUs."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainers.engine.errors import PeerLost
from trainers.engine.tree import fold, shares
from trainers.engine.world import World


class Ddp:
    """`DistributedDataParallel`: gradients meet while backward still runs; sums are rounded in another order."""

    def __init__(self, world: World, microbatches: int, networks: Mapping[str, nn.Module]) -> None:
        self.world = world
        self.microbatches = microbatches
        self.shares = shares(microbatches, world.size)
        self.share = self.shares[world.rank]
        self.networks = networks
        self.notice = ""
        self.wrappers: dict[str, nn.Module] = {}
        if world.size > 1:
            parameters = inspect.signature(DistributedDataParallel).parameters
            buffers = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
            with self._meets():
                self.wrappers = {
                    name: DistributedDataParallel(network, process_group=world.group, **{buffers: False})  # type: ignore[arg-type]
                    for name, network in networks.items()
                    if any(parameter.requires_grad for parameter in network.parameters())
                }
        self.used: list[nn.Module] = []

    @contextlib.contextmanager
    def _meets(self, waiting: bool = True) -> Iterator[None]:
        """The wrappers meet inside: an error of theirs means that a worker has gone, all others are somebody's own."""
        self.world.waiting = waiting
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise PeerLost(f"lost the other workers: {str(error).splitlines()[0]}") from error
        finally:
            self.world.waiting = False

    def callables(self, used: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
        self.used = [self.wrappers[name] for name in used if name in self.wrappers]
        return {**self.networks, **{name: self.wrappers[name] for name in used if name in self.wrappers}}

    def gradients(self, parameters: Sequence[nn.Parameter], loss: Callable[[int], Tensor], left: bool) -> None:
        for parameter in parameters:
            parameter.grad = None
        if left:  # the wrapper saw all forwards before: one backward, or it would reduce the first one only
            total = torch.stack([self._loss(loss, index) for index in self.share]).sum()
            with self._meets():
                total.backward()  # type: ignore[no-untyped-call]
        else:
            for index in self.share:
                last = index == self.share[-1]
                with contextlib.ExitStack() as unsynchronised:
                    for wrapper in self.used if not last else ():
                        unsynchronised.enter_context(wrapper.no_sync())  # type: ignore[operator]
                    value = self._loss(loss, index)
                    with self._meets() if last else contextlib.nullcontext():
                        value.backward()  # type: ignore[no-untyped-call]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _loss(self, loss: Callable[[int], Tensor], index: int) -> Tensor:
        with self._meets(waiting=False):  # a wrapper's second forward agrees on buckets with the other workers
            return loss(index)

    def meet(self, rows: Mapping[int, Tensor]) -> Tensor:
        mine = torch.stack(list(rows.values()))
        most = len(self.shares[0])
        padded = torch.zeros(most, mine.shape[1], dtype=mine.dtype)
        padded[: len(mine)] = mine
        told: list[Tensor] = [padded]
        if self.world.size > 1:
            told = [torch.empty_like(padded) for _ in self.shares]
            with self.world.waits():
                dist.all_gather(told, padded, group=self.world.group)
        every: list[Tensor] = [row for share, of in zip(self.shares, told, strict=True) for row in of[: len(share)]]
        return fold({(i, i + 1): row for i, row in enumerate(every)}, torch.add, 0, self.microbatches)

    def reduce(self, parameters: Sequence[nn.Parameter], weight: float, private: bool) -> None:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], self.world.size / weight)

    def close(self) -> None:
        self.wrappers, self.used = {}, []
