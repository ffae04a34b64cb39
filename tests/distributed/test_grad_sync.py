"""The exact synchronization among real processes: any placement on hosts, with and without shared memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as reentrant

from cluster.backend.process_pool import LocalGroup
from cluster.inspection.verify import compare, last_state, train_quietly, verify
from cluster.requests.models import VerifyRequest
from tests.jobs import plan_of
from tests.tiers import slow
from trainers.base.errors import PeerLost, TroupeError
from trainers.distributed import flat_gradients
from trainers.distributed.ddp import Ddp
from trainers.distributed.exact import Exact
from trainers.distributed.exchange import Exchange
from trainers.distributed.process_group import World
from trainers.distributed.reduction_tree import fold
from trainers.distributed.shared_memory import ALIGNMENT, SharedBuffer, padded_length
from trainers.run import Plan

SHAPES = ((3, 5, 4, 4), (70_001,), (2, 129), (1,))


def no_requests() -> tuple[bool, ...]:
    """A worker that asks for neither a stop nor a checkpoint."""
    return False, False


def gradient_of(microbatch: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(microbatch)
    return [torch.randn(shape, generator=random) * 10**microbatch for shape in SHAPES]


class Placed(World):
    """A world whose workers lie on hosts as the test wants it."""

    layout: list[list[int]]

    def ranks_by_host(self) -> list[list[int]]:
        return self.layout


def add_up(world: World, layout: list[list[int]], microbatches: int, rounds: int) -> list[torch.Tensor]:
    """The mean of made-up gradients, and the sum of a made-up row, as this worker gets them."""
    flat_gradients.PIECE, flat_gradients.BUCKET = 1000, 5000  # so that all is cut, as that of large networks is
    placed = Placed(world.rank, world.size, world.group)
    placed.layout = layout
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    fewer = parameters[1:2]
    grad_sync = Exact(placed, microbatches, {}, padded_length(parameters) * 4)
    assert grad_sync.notice == ""
    answers: list[torch.Tensor] = []
    for turn in range(rounds):
        for chosen in (parameters, fewer):  # vectors of two lengths take turns in the same memory

            def loss(index: int, chosen: Any = chosen) -> tuple[torch.Tensor, bool]:
                wanted = gradient_of(index)
                return torch.stack([(p * wanted[SHAPES.index(tuple(p.shape))]).sum() for p in chosen]).sum(), False

            rows = {index: torch.tensor([1.0, 0.1 * index, turn]).double() for index in grad_sync.share}

            def requests(turn: int = turn) -> tuple[bool, ...]:
                return world.rank == turn == 1, world.rank == turn == 0

            total, heard = grad_sync.reduce_gradients(chosen, loss, rows, requests, False, bool(turn % 2))
            assert heard == (turn == 1, turn == 0)
            answers += [total, *(p.grad.clone() for p in chosen if p.grad is not None)]
    return answers


def expected(microbatches: int) -> list[torch.Tensor]:
    leaves = [{(i, i + 1): gradient_of(i)[place] for i in range(microbatches)} for place in range(len(SHAPES))]
    return [fold(leaf, torch.add, 0, microbatches) / microbatches for leaf in leaves]


@pytest.mark.parametrize("microbatches", [5, *slow(4, 12)])
@pytest.mark.parametrize(
    "layout",
    [[[0, 1]], [[0], [1]], [[0, 1, 2]], [[0], [1], [2]], [[0, 1], [2]], [[0], [1, 2]], [[0, 1, 2, 3]],
     [[0, 1], [2, 3]], [[0], [1, 2, 3]], [[0, 1, 2], [3]], [[0], [1], [2], [3]]],
)  # fmt: skip
def test_sums_have_the_same_bits_on_any_placement(pool: LocalGroup, layout: list[list[int]], microbatches: int) -> None:
    workers = sum(map(len, layout))
    wanted = expected(microbatches)
    for answer in pool.run(add_up, layout, microbatches, 3, workers=workers):
        for turn in range(3):
            start = turn * (len(SHAPES) + 3)
            for found, known in zip(answer[start + 1 : start + 1 + len(SHAPES)], wanted, strict=True):
                assert torch.equal(found, known)
            assert torch.equal(answer[start + len(SHAPES) + 2], wanted[1])
            assert answer[start].tolist() == pytest.approx(
                [microbatches, 0.05 * microbatches * (microbatches - 1), turn * microbatches]
            )


def buckets_begun_early(world: World, layout: list[list[int]]) -> tuple[list[set[int]], int]:
    """The buckets that this worker starts while its backward pass goes on, in three phases; and how many there are."""
    flat_gradients.BUCKET = 5000
    placed = Placed(world.rank, world.size, world.group)
    placed.layout = layout
    parameters = [nn.Parameter(torch.zeros(20_000)) for _ in range(3)]
    grad_sync = Exact(placed, 2 * world.size, {}, padded_length(parameters) * 4)
    begun: list[set[int]] = []
    start = Exchange._start

    def watched(exchange: Exchange, bucket: int) -> None:
        if grad_sync.exchange is exchange:
            begun[-1].add(bucket)
        start(exchange, bucket)

    Exchange._start = watched  # type: ignore[method-assign]
    rows = {index: torch.ones(2).double() for index in grad_sync.share}
    for _ in range(3):
        begun.append(set())
        grad_sync.reduce_gradients(parameters, lambda index: (torch.cat(parameters).square().sum(), False), rows,
                                   no_requests, False, False)  # fmt: skip
    Exchange._start = start  # type: ignore[method-assign]
    return begun, len(next(iter(grad_sync.flat.values())).buckets)


@pytest.mark.parametrize("layout", [[[0, 1]], [[0], [1]]])
def test_buckets_are_synchronized_while_a_backward_pass_goes_on(pool: LocalGroup, layout: list[list[int]]) -> None:
    told = pool.run(buckets_begun_early, layout, workers=2)
    for turn in range(3):
        begun = [worker[turn] for worker, _ in told]
        if turn == 0:
            assert begun == [set(), set()]  # the first pass is only watched
        elif layout == [[0, 1]]:
            assert begun[0] | begun[1] >= {0, 1}  # by the worker that fills it last; of the last one none may know it
        else:
            assert begun == [{0, 1, 2}] * 2


def written_twice(world: World, turns: tuple[bool, ...]) -> list[Any]:
    """The gradient, or the error, where a backward pass writes a gradient twice in some turns."""
    weight = nn.Parameter(torch.ones(4))
    grad_sync = Exact(world, 2, {}, padded_length([weight]) * 4)
    parameters, found = [weight], list[Any]()
    rows = {index: torch.ones(2).double() for index in grad_sync.share}
    for twice in turns:

        def loss(index: int, twice: bool = twice) -> tuple[torch.Tensor, bool]:
            value = weight.sum() * (index + 1)
            if twice:
                value = value + checkpoint((weight * 1.0).detach().requires_grad_(), weight)
            return value, False

        try:
            grad_sync.reduce_gradients(parameters, loss, rows, no_requests, False, False)
        except TroupeError as error:
            return [*found, error.problems[0].code]
        assert weight.grad is not None
        found.append(float(weight.grad[0]))
    return found


def checkpoint(given: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A sum that is computed again in the backward pass, by a backward pass of its own."""
    value: torch.Tensor = reentrant(lambda given: (given * weight).sum(), given, use_reentrant=True)
    return value


@pytest.mark.parametrize(
    ("turns", "found"),
    [((True, True, False), [2.5, 2.5, 1.5]), ((False, False, True), [1.5, 1.5, "exchange-misfit"])],
)
def test_a_gradient_that_is_written_twice_in_a_pass_is_summed_at_its_end_or_refused(
    fresh_pool: LocalGroup, turns: tuple[bool, ...], found: list[Any]
) -> None:
    assert fresh_pool.run(written_twice, turns, workers=2) == [found, found]


def train_by_messages(world: World, plan: Plan) -> None:
    train_quietly(World(world.rank, world.size, world.group, shares_memory=False), plan)


@pytest.mark.slow
def test_a_run_by_messages_has_the_bits_of_one_through_shared_memory(pool: LocalGroup, tmp_path: Path) -> None:
    pool.run(train_quietly, plan_of("dcgan", "tiny", tmp_path / "shared"), workers=3)
    pool.run(train_by_messages, plan_of("dcgan", "tiny", tmp_path / "messages"), workers=3)
    shared, messages = (last_state(tmp_path / name) for name in ("shared", "messages"))
    assert all(difference.relative == 0 for difference in compare(shared, messages))


def meet_in_a_room(world: World) -> tuple[list[int], str]:
    """What each worker reads that the others have written, and whether any name of it is there."""
    room = SharedBuffer.open(world, range(world.size), [1] * world.size, ALIGNMENT)
    assert room is not None
    room.rest.view(-1, ALIGNMENT)[world.rank][0] = 10 + world.rank
    room.barrier()
    read = [int(part[0]) for part in room.rest.view(-1, ALIGNMENT)[: world.size]]
    maps = Path("/proc/self/maps").read_text()
    return read, next(line for line in maps.splitlines() if "/dev/shm/#" in line)


def test_workers_of_one_host_share_memory_that_has_no_name(pool: LocalGroup) -> None:
    before = set(os.listdir("/dev/shm"))
    for read, line in pool.run(meet_in_a_room, workers=3):
        assert read == [10, 11, 12]
        assert line.endswith("(deleted)")
    assert set(os.listdir("/dev/shm")) <= before


KILLED = """
import os, signal
from trainers.distributed.shared_memory import ALIGNMENT, SharedBuffer
from trainers.distributed.process_group import World
class Killed(World):
    def all_gather(self, value):  # the memory is there, and nobody else has it yet
        os.kill(os.getpid(), signal.SIGKILL)
SharedBuffer.open(Killed(0, 2), [0, 1], [1, 1], 1 << 20)
"""


def test_a_worker_that_is_killed_while_it_opens_shared_memory_leaves_nothing_of_it() -> None:
    before = set(os.listdir("/dev/shm"))
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -signal.SIGKILL
    assert set(os.listdir("/dev/shm")) <= before


def break_one_slice() -> None:
    """Let rank 1 leave one number of its slice out of every sum."""
    whole = Exchange._add_piece

    def broken(self: Exchange, piece: range, *given: Any) -> None:
        whole(self, piece, *given)
        if self.peers.world.rank == 1:
            self.flat.result[piece.start] = 0

    Exchange._add_piece = broken  # type: ignore[method-assign]


def break_the_mean() -> None:
    """Let all workers divide by the number of workers instead of micro-batches: replicas agree, the run is another."""
    whole = Exact.reduce_gradients

    def broken(self: Exact, parameters: Any, *given: Any) -> Any:
        reduced = whole(self, parameters, *given)
        for parameter in parameters if self.world.size > 1 else ():
            parameter.grad = parameter.grad * (self.microbatches / self.world.size)
        return reduced

    Exact.reduce_gradients = broken  # type: ignore[method-assign]


def break_one_worker() -> None:
    """Let rank 1 add something to its own gradients after the reduction: replicas drift apart."""
    whole = Exact.reduce_gradients

    def broken(self: Exact, parameters: Any, *given: Any) -> Any:
        reduced = whole(self, parameters, *given)
        if self.world.rank == 1:
            parameters[0].grad = parameters[0].grad + 1
        return reduced

    Exact.reduce_gradients = broken  # type: ignore[method-assign]


def verified(folder: Path, breaks: str) -> tuple[dict[str, Any], list[str]]:
    """What `troupe verify` finds of a broken reduction, and says; without evaluations, which change nothing there."""
    said: list[str] = []
    words = {"workers": 2, "model": "mlp_bn", "evaluate_every": 0}
    command = VerifyRequest(
        family="classifier", settings=words, data_dir=folder, setup=f"tests.distributed.test_grad_sync:{breaks}"
    )
    return verify(command, said.append), said


@pytest.mark.slow
@pytest.mark.parametrize("breaks", ["break_one_slice", "break_the_mean"])
def test_verify_catches_a_broken_synchronization(tmp_path: Path, breaks: str) -> None:
    result, said = verified(tmp_path, breaks)
    assert result["passed"] is False
    assert any("DIFFERENT" in line for line in said)


@pytest.mark.slow
def test_verify_catches_workers_that_disagree_and_names_the_tensor(tmp_path: Path) -> None:
    result, said = verified(tmp_path, "break_one_worker")
    assert result["passed"] is False
    assert any("DIFFERENT" in line for line in said)
    assert "workers 0 and 1 disagree on networks." in result["checks"][0]["why"]


@pytest.mark.slow
def test_verify_passes_where_nothing_is_broken(tmp_path: Path) -> None:
    words = {"workers": 2, "model": "mlp_bn"}  # with evaluations
    assert (
        verify(VerifyRequest(family="classifier", settings=words, data_dir=tmp_path), lambda line: None)["passed"]
        is True
    )


def fail_on(world: World, rank: int) -> int:
    world.all_gather(None)
    if world.rank == rank:
        raise ValueError("a mistake of rank 1")
    world.all_gather(None)
    return world.rank


@pytest.mark.slow
def test_the_guilty_process_speaks(fresh_pool: LocalGroup) -> None:
    with pytest.raises(TroupeError) as raised:
        fresh_pool.run(fail_on, 1)
    (problem,) = raised.value.problems
    assert (problem.code, problem.about) == ("worker-error", "worker 1")
    assert "ValueError: a mistake of rank 1" in problem.reason


def hang_up() -> None:
    """Close this process's connections to others, as its death would."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as found:
            listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if found.family in (socket.AF_INET, socket.AF_INET6) and not listens:
                found.shutdown(socket.SHUT_RDWR)


def reduce_with_one_that_goes(world: World, guilty: int, left: bool) -> list[Any]:
    """What a worker gets where another one goes in the middle of a step of ddp, before its last backward."""
    network = nn.Linear(4, 4)
    grad_sync = Ddp(world, 2 * world.size, {"one": network})
    call = grad_sync.callables(["one"])["one"]
    for turn in range(4):

        def loss(index: int, turn: int = turn) -> torch.Tensor:
            value: torch.Tensor = call(torch.ones(2, 4)).sum()
            if turn == 3 and world.rank == guilty and index == grad_sync.share[-1]:
                hang_up()
                raise KeyError("gone")
            return value

        try:
            grad_sync.accumulate_gradients(list(network.parameters()), loss, left)
        except (PeerLost, RuntimeError, KeyError) as error:
            return [turn, type(error).__name__, str(error).splitlines()[0], world.waiting]
    return []


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("left", [False, True])
def test_with_ddp_too_those_who_miss_another_worker_are_not_guilty(fresh_pool: LocalGroup, left: bool) -> None:
    told = fresh_pool.run(reduce_with_one_that_goes, 1, left, workers=2)
    assert [one[:2] for one in told] == [[3, "PeerLost"], [3, "KeyError"]]
    assert told[0][2].startswith("lost the other workers: ")
    assert [one[3] for one in told] == [False] * 2


def look_while_one_is_slow(world: World, slow: int) -> bool:
    """Whether this worker seems to wait while another one is slow."""
    network = nn.Linear(4, 4)
    grad_sync = Ddp(world, world.size, {"one": network})
    call = grad_sync.callables(["one"])["one"]
    seen: list[bool] = []

    def loss(index: int) -> torch.Tensor:
        time.sleep(1.0 if world.rank == slow else 0.0)
        value: torch.Tensor = call(torch.ones(2, 4)).sum()
        return value

    world.all_gather(None)
    looker = threading.Timer(0.5, lambda: seen.append(world.waiting))
    looker.start()
    grad_sync.accumulate_gradients(list(network.parameters()), loss, False)
    looker.join()
    assert not world.waiting
    return seen[0]


@pytest.mark.slow
def test_with_ddp_too_a_slow_worker_is_told_from_those_who_wait_for_it(pool: LocalGroup) -> None:
    assert pool.run(look_while_one_is_slow, 1, workers=3) == [True, False, True]


class Broken(torch.autograd.Function):
    """Raises where its gradient is asked for."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("made up: a mistake of the family")


def test_an_error_of_the_familys_own_stays_its_own() -> None:
    network = nn.Linear(4, 4)
    grad_sync = Ddp(World(), 2, {"one": network})

    def fails(index: int) -> torch.Tensor:
        raise RuntimeError("made up: a mistake of the loss")

    for loss in (fails, lambda index: Broken.apply(network(torch.ones(2, 4))).sum()):
        for left in (False, True):
            with pytest.raises(RuntimeError, match="made up: a mistake of the"):
                grad_sync.accumulate_gradients(list(network.parameters()), loss, left)
