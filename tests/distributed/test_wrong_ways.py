"""Ways to share a gradient penalty between workers that torch lets pass without a word, and that give wrong numbers.

`troupe verify` compares a run of several workers with that of one: each of these ways must come out as different there,
or be refused, and the way that is taken must not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from cluster.backend.process_pool import LocalGroup
from cluster.inspection.verify import TOLERANCE, compare, last_state, train_quietly
from tests.jobs import plan_of, trained
from trainers.base.errors import TroupeError
from trainers.contract.family import Loss, MicroBatch, Networks
from trainers.distributed import ddp
from trainers.distributed.ddp import Ddp
from trainers.families.wgan_gp.training import WGANGP
from trainers.run import Plan

pytestmark = [pytest.mark.slow]


@contextlib.contextmanager
def without_precautions() -> Iterator[None]:
    """As a loop that trusts the wrapper: its sums are never checked."""

    class Trusting(dict[Any, bool]):
        def get(self, key: Any, default: Any = None) -> bool:
            return True

    begin = Ddp.__init__

    def trusting(self: Ddp, *given: Any) -> None:
        begin(self, *given)
        self.complete = Trusting()

    with mock.patch.object(Ddp, "__init__", trusting), mock.patch.object(Ddp, "_refuse_gaps"):
        yield


def without_the_wrapper() -> Any:
    """Everything through `.module`: nothing is summed at all."""
    return mock.patch.object(Ddp, "callables", lambda self, used: dict(self.networks))


def as_in_tutorials(backwards: int = 1, apart: bool = False, unsynchronised: bool = False) -> Any:
    """Each part by a call of its own, and slopes by autograd; with two backwards, the scores' loss has one of its own,
    and the penalty's goes through the wrapper, or apart from it."""

    def criticise(self: WGANGP, networks: Networks, microbatch: MicroBatch) -> Loss:
        critic: Any = networks["critic"]
        real, labels = self.real(microbatch), self.labels(microbatch)
        fakes = self.fakes(networks, microbatch).to(microbatch.dtype)
        part = torch.rand(len(fakes), 1, 1, 1, generator=microbatch.random, dtype=fakes.dtype)
        mixed = torch.lerp(real, fakes, part).requires_grad_(True)
        with critic.no_sync() if unsynchronised else contextlib.nullcontext():
            loss = critic(fakes, labels).mean() - critic(real, labels).mean()
            if backwards == 2:
                loss.backward()
        scores = (critic.module if apart else critic)(mixed, labels)
        (slopes,) = torch.autograd.grad(scores.sum(), mixed, create_graph=True)
        penalty = self.config.penalty * (slopes.flatten(1).norm(dim=1) - 1).square().mean()
        return Loss(penalty if backwards == 2 else loss + penalty, {"distance": -loss})

    return mock.patch.object(WGANGP, "criticise", criticise)


@contextlib.contextmanager
def with_a_static_graph() -> Iterator[None]:
    wrapper = partial(ddp.DistributedDataParallel, static_graph=True)
    with mock.patch.object(ddp, "DistributedDataParallel", wrapper), as_in_tutorials():
        yield


def with_gradients_written_by_hand() -> Any:
    """`torch.autograd.grad`, and its answer into `.grad`: no hook of the wrapper ever fires."""

    def gradients(self: Ddp, parameters: Any, loss: Callable[[int], Tensor], left: bool) -> None:
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        for index in self.share:
            found = torch.autograd.grad(loss(index), learned, allow_unused=True)
        for parameter, gradient in zip(learned, found, strict=True):
            parameter.grad = gradient if gradient is not None else torch.zeros_like(parameter)

    return mock.patch.object(Ddp, "accumulate_gradients", gradients)


WRONG = {
    "without the wrapper": without_the_wrapper,
    "with a static graph": with_a_static_graph,
    "with two backwards": partial(as_in_tutorials, 2),
    "with two backwards, the first unsynchronised": partial(as_in_tutorials, 2, unsynchronised=True),
    "with two backwards, the second without the wrapper": partial(as_in_tutorials, 2, apart=True),
    "with gradients written by hand": with_gradients_written_by_hand,
}
SEEN_BY_REPLICAS = set(WRONG)


def trained_so(world: Any, plan: Plan, way: Callable[[], Any]) -> None:
    with without_precautions(), way():
        train_quietly(world, plan)


@pytest.fixture(scope="module")
def two() -> Iterator[LocalGroup]:
    with LocalGroup(2) as group:
        yield group


def plan(folder: Path) -> Plan:
    return plan_of(
        "wgan_gp", "resnet", folder, grad_sync="ddp", precision="float64", microbatch_size=4, n_critic=1, steps=1
    )


@pytest.fixture(scope="module")
def alone(two: LocalGroup, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(two, plan(tmp_path_factory.mktemp("alone") / "run"), 1)


@pytest.mark.parametrize("way", [contextlib.nullcontext, as_in_tutorials])
def test_right_ways_give_the_run_of_one_worker(
    two: LocalGroup, alone: dict[str, Any], tmp_path: Path, way: Callable[[], Any]
) -> None:
    two.run(trained_so, plan(tmp_path / "run"), way, workers=2)
    together = last_state(tmp_path / "run")
    assert compare(alone, together)[0].relative <= TOLERANCE


@pytest.mark.parametrize("way", WRONG)
def test_wrong_ways_are_caught(two: LocalGroup, alone: dict[str, Any], tmp_path: Path, way: str) -> None:
    if way in SEEN_BY_REPLICAS:  # which are compared before each checkpoint
        with pytest.raises(TroupeError) as error:
            two.run(trained_so, plan(tmp_path / "run"), WRONG[way], workers=2)
        assert [one.code for one in error.value.problems] == ["replicas-disagree"]
    else:
        two.run(trained_so, plan(tmp_path / "run"), WRONG[way], workers=2)
        together = last_state(tmp_path / "run")
        assert compare(alone, together)[0].relative > TOLERANCE
