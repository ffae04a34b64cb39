"""Gradient synchronization by torch's DistributedDataParallel: the default on GPUs."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainers.base.errors import FAILED, PeerLost, TroupeError
from trainers.base.problems import Problem
from trainers.distributed.grad_sync import Reduced, Requests, Rows
from trainers.distributed.process_group import World
from trainers.distributed.reduction_tree import fold, shares


class Ddp:
    """`DistributedDataParallel`: gradients are synchronized while backward still runs; sums are rounded in another
    order."""

    def __init__(self, world: World, microbatches: int, networks: Mapping[str, nn.Module]) -> None:
        self.world = world
        self.microbatches = microbatches
        self.shares = shares(microbatches, world.size)
        self.share = self.shares[world.rank]
        self.networks = networks
        self.notice = ""
        self.wrappers: dict[str, nn.Module] = {}
        if world.group is not None:  # a test of NCCL has a group of one
            parameters = inspect.signature(DistributedDataParallel).parameters
            buffers = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
            with self._communicating():
                self.wrappers = {
                    name: DistributedDataParallel(network, process_group=world.group, **{buffers: False})  # type: ignore[arg-type]
                    for name, network in networks.items()
                    if any(parameter.requires_grad for parameter in network.parameters())
                }
        self.used: list[nn.Module] = []
        self.fired: set[int] = set()  # parameters that the newest backward gave a gradient
        self.hooks: list[Any] = []
        self.sent: tuple[np.ndarray, Any] | None = None  # the requests of the newest phase, and their message
        self.complete: dict[tuple[int, ...], bool] = {}  # by trained parameters: whether all had gradients at first
        for network in networks.values() if self.wrappers else ():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    self.hooks.append(parameter.register_post_accumulate_grad_hook(self._note))  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _communicating(self, waiting: bool = True) -> Iterator[None]:
        """The wrappers communicate in this block: an error of theirs means a lost worker; others are passed on."""
        self.world.waiting = waiting
        try:
            with warnings.catch_warnings():  # torch warns of filters of one channel, which are the same in both layouts
                warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
                yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise PeerLost(Problem("lost", reason=f"lost the other workers: {str(error).splitlines()[0]}")) from error
        finally:
            self.world.waiting = False

    def callables(self, used: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
        self.used = [self.wrappers[name] for name in used if name in self.wrappers]
        return {**self.networks, **{name: self.wrappers[name] for name in used if name in self.wrappers}}

    def accumulate_gradients(
        self, parameters: Sequence[nn.Parameter], loss: Callable[[int], Tensor], kept_graphs: bool
    ) -> None:
        """Add up the gradients of this worker's micro-batches in `.grad`, and average them over the workers."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        torch._foreach_zero_([parameter.grad for parameter in parameters if parameter.grad is not None])
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        key = tuple(map(id, trained))
        if kept_graphs:  # the wrapper has had all forwards: one backward, or it would reduce the first only
            total = torch.stack([self._loss(loss, index) for index in self.share]).sum()
            self.fired.clear()
            with self._communicating():
                total.backward()  # type: ignore[no-untyped-call]
            self._refuse_gaps(trained)
        elif self.wrappers and not self.complete.get(key, False):
            self._add_up_plainly(trained, loss, key)
        else:
            for index in self.share:
                last = index == self.share[-1]
                with contextlib.ExitStack() as unsynchronised:
                    for wrapper in self.used if not last else ():
                        unsynchronised.enter_context(wrapper.no_sync())  # type: ignore[operator]
                    value = self._loss(loss, index)
                    self.fired.clear()
                    with self._communicating() if last else contextlib.nullcontext():
                        value.backward()  # type: ignore[no-untyped-call]
            self._refuse_gaps(trained)

    def _add_up_plainly(
        self, parameters: Sequence[nn.Parameter], loss: Callable[[int], Tensor], key: tuple[int, ...]
    ) -> None:
        """Sum without the wrappers' overlap: in the first run of each phase, and always if one leaves a parameter out.

        A wrapper silently sums wrongly if one of its hooks does not fire in the last micro-batch of a worker.
        """
        complete, expected = True, {id(parameter) for parameter in parameters}
        trained = [one for one in self.used if any(id(parameter) in expected for parameter in one.parameters())]
        for index in self.share:  # a wrapper whose graph is left for a later phase sums then, from the last forward
            with contextlib.ExitStack() as unsynchronised:
                for wrapper in self.used if index != self.share[-1] else trained:
                    unsynchronised.enter_context(wrapper.no_sync())  # type: ignore[operator]
                value = self._loss(loss, index)
                self.fired.clear()
                value.backward()  # type: ignore[no-untyped-call]
            complete &= expected <= self.fired
        with self._communicating():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat.div_(self.world.size), group=self.world.group)  # divided first, as the wrappers do
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        if key not in self.complete:
            self.complete[key] = all(self.world.all_gather(complete))

    def _note(self, parameter: Tensor) -> None:
        self.fired.add(id(parameter))

    def _refuse_gaps(self, parameters: Sequence[nn.Parameter]) -> None:
        """Raise TroupeError if a wrapper has just summed without some parameter."""
        if self.wrappers and not all(id(parameter) in self.fired for parameter in parameters):
            reason = "a parameter had no gradient in a micro-batch, but had one before"
            hint = "its sum over the workers would be wrong: use grad_sync=exact"
            raise TroupeError(Problem("exchange-misfit", "grad_sync", reason, hint, "ddp"), FAILED)

    def _loss(self, loss: Callable[[int], Tensor], index: int) -> Tensor:
        with self._communicating(waiting=False):  # a wrapper's second forward agrees on buckets with the other workers
            return loss(index)

    def reduce_gradients(
        self,
        parameters: Sequence[nn.Parameter],
        loss: Callable[[int], tuple[Tensor, bool]],
        rows: Rows,
        requests: Callable[[], Requests],
        kept_graphs: bool,
        private: bool,
    ) -> Reduced:
        self.accumulate_gradients(parameters, lambda index: loss(index)[0], kept_graphs)
        reduced = self.reduce_rows(rows, requests)
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], self.world.size / reduced.total[0])
        return reduced

    def reduce_rows(self, rows: Rows, requests: Callable[[], Requests]) -> Reduced:
        own = torch.stack(list(rows.values()))
        padded = own.new_zeros(len(self.shares[0]), own.shape[1])
        padded[: len(own)] = own
        gathered = [padded]
        requested = requests()
        if self.world.size > 1:
            gathered = [torch.empty_like(padded) for _ in self.shares]
            with self.world.waits():
                dist.all_gather(gathered, padded, group=self.world.group)
                requested = self._heard(requested)
        every = [row for share, part in zip(self.shares, gathered, strict=True) for row in part[: len(share)]]
        total = fold({(index, index + 1): row for index, row in enumerate(every)}, torch.add, 0, self.microbatches)
        return Reduced(total, requested)

    def _heard(self, requests: Requests) -> Requests:
        """Send what this worker requests; returns what any worker requested in the phase before, whose message has had
        a phase of time to arrive."""
        sent = np.array(requests, dtype=np.int32)
        work = dist.all_reduce(torch.from_numpy(sent), dist.ReduceOp.MAX, group=self.world.group, async_op=True)
        before, self.sent = self.sent, (sent, work)
        if before is None:
            return (False,) * len(requests)
        received, under_way = before
        under_way.wait()
        return tuple(map(bool, received))

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.wrappers, self.used, self.hooks = {}, [], []
