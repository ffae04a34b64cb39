"""A step waits for no device: it reads nothing back, it works in the same memory each time, and a loss that is not
finite is kept from the parameters without being looked at. On CPUs, for every family."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.optim import adam
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.inspection.verify import compare
from tests.contract.test_contract import FEW
from tests.jobs import OWN_FAMILIES, each, plan_of, variants
from trainers.base.errors import TroupeError
from trainers.contract.family import Loss
from trainers.distributed import ddp
from trainers.distributed.exact import Exact
from trainers.distributed.process_group import World
from trainers.engine import step
from trainers.engine.control import Control, Marks
from trainers.engine.gate import Gate
from trainers.engine.phase_results import PhaseResults
from trainers.engine.state import state_of_replica
from trainers.engine.trainer import ScheduledOptimizer, Trainer, in_place, scheduled
from trainers.families import registry
from trainers.run import open_for

EVERY_AND_FEW_FAST = each(variants(), FEW)
GROWING = {"pairs"}  # families whose state changes its shape
READS = ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "__array__")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a worker computes, also beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer_of(family: str, variant: str, folder: Path, **changes: Any) -> Trainer:
    """A trainer of a tiny variant before its first step, on images of noise where it wants images."""
    kind = registry.config_class(family, (OWN_FAMILIES,))
    noise = {"data": kind.input_kind.replace("images", "noise")} if "images" in kind.input_kind else {}
    plan = plan_of(family, variant, folder, **noise, **changes)
    config = plan.config()
    data = open_for(config, plan.data_dir, plan.families)
    built = registry.family_class(family, plan.families)(config, data.facts)
    trainer = Trainer(built, data, config, World(), Control())
    trainer.setup()
    return trainer


class Dispatched(TorchDispatchMode):
    """Notes what reads numbers of a tensor inside torch, or copies them to another device."""

    NAMES = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select")

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masks = (
            [part for part in args[1] or () if part is not None and part.dtype == torch.bool] if name == "index" else []
        )
        if name in self.NAMES or masks:
            self.note(str(function))
        result = function(*args, **(kwargs or {}))
        tensors = [part for part in args if isinstance(part, Tensor)]
        if isinstance(result, Tensor) and any(part.device != result.device for part in tensors):
            self.note(f"{function} to {result.device}")
        return result


@contextmanager
def reads_noted() -> Iterator[list[str]]:
    """What is read back within, except by optimizers that compute losses themselves, and except counters of steps that
    torch keeps on the host."""
    found: list[str] = []
    allowed = [0]

    def note(name: str) -> None:
        if not allowed[0]:
            found.append(name)

    def noting(name: str, method: Any) -> Any:
        def noted(self: Tensor, *args: Any, **named: Any) -> Any:
            note(name)
            return method(self, *args, **named)

        return mock.patch.object(Tensor, name, noted)

    def allowing(owner: Any, name: str) -> Any:
        method = getattr(owner, name)

        def allowed_to(*args: Any, **named: Any) -> Any:
            allowed[0] += 1
            try:
                return method(*args, **named)
            finally:
                allowed[0] -= 1

        return mock.patch.object(owner, name, allowed_to)

    with contextlib.ExitStack() as stack:
        for name in READS:
            stack.enter_context(noting(name, getattr(Tensor, name)))
        for owner, name in ((step, "_step_with_closure"), (torch.optim.LBFGS, "step"), (adam, "_get_value")):
            stack.enter_context(allowing(owner, name))
        stack.enter_context(Dispatched(note))
        yield found


@EVERY_AND_FEW_FAST
def test_nothing_is_read_back_between_two_logged_steps(tmp_path: Path, family: str, variant: str) -> None:
    trainer = trainer_of(family, variant, tmp_path / "run")
    step.train_step(trainer)
    with reads_noted() as found:
        for _ in range(2):
            assert step.train_step(trainer)
    assert found == []
    with reads_noted() as found:
        trainer.look()
    assert found  # a look is seen
    assert all(f"{phase.name}_loss" in trainer.metrics for phase in trainer.family.phases(trainer.step - 1))


def addresses(trainer: Trainer) -> dict[str, int]:
    """Where everything lies that a step reads and writes."""
    places: dict[str, Any] = {"gate": trainer.gate.losses, "closed": trainer.gate.closed}
    for name, results in trainer.results.items():
        places |= {f"results/{name}": results.total}
        places |= {f"results/{name}/{index}": row for index, row in results.rows.items()}
    computing = {phase.optimizer for phase in trainer.family.phases(trainer.step) if phase.closure}  # as L-BFGS does
    for name, optimizing in trainer.optimizers.items():
        places |= {f"rate/{name}/{number}": rate for number, rate in enumerate(optimizing.rates)}
        for number, parameter in enumerate(optimizing.parameters):
            places |= {f"{name}/{number}": parameter, f"{name}/{number}/gradient": parameter.grad}
            state = {} if name in computing else optimizing.optimizer.state[parameter]
            places |= {f"{name}/{number}/{key}": part for key, part in state.items() if isinstance(part, Tensor)}
    for kind, buffers in (("samples", trainer.sample_buffers), ("state", trainer.state_buffers)):
        places |= {f"{kind}/{index}/{key}": part for index, one in buffers.items() for key, part in one.items()}
    return {name: tensor.data_ptr() for name, tensor in places.items()}


def of_samples(microbatch: Any) -> list[int]:
    return [tensor.data_ptr() for tensor in microbatch.tensors.values()]


@EVERY_AND_FEW_FAST
def test_a_step_works_in_the_same_memory_each_time(tmp_path: Path, family: str, variant: str) -> None:
    trainer = trainer_of(family, variant, tmp_path / "run")
    seen: list[tuple[int, ...]] = []
    loss_of = step._loss

    def watched(trainer: Trainer, phase: Any, networks: Any, microbatch: Any) -> Any:
        seen.append((phase.name, microbatch.index, *of_samples(microbatch)))
        return loss_of(trainer, phase, networks, microbatch)

    found = []
    with mock.patch.object(step, "_loss", watched):
        for _ in range(4):
            seen.clear()
            step.train_step(trainer)
            found.append((addresses(trainer), list(seen)))
    assert len(found[-1][0]) > 8
    assert found[-1][1] == found[-2][1]
    moved = [name for name, place in found[-1][0].items() if found[-2][0].get(name) != place]
    assert [name for name in moved if not (family in GROWING and name.startswith("state"))] == []


@contextmanager
def behind_its_host() -> Iterator[None]:
    """Trainers whose host does not see losses before it looks, as on a GPU."""
    with mock.patch("trainers.engine.trainer.Gate", partial(Gate, on_host=False)):
        yield


def everything(trainer: Trainer) -> dict[str, Any]:
    state = {**state_of_replica(trainer), "carried": trainer.microbatch_state, "apart": trainer.local_optimizers}
    return copied(state)


def copied(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [copied(value) for value in state]
    return state.clone() if isinstance(state, Tensor) else state


@EVERY_AND_FEW_FAST
def test_behind_a_closed_gate_no_phase_changes_anything(tmp_path: Path, family: str, variant: str) -> None:
    with behind_its_host():
        trainer = trainer_of(family, variant, tmp_path / "run")
    for _ in range(2):
        step.train_step(trainer)
    before = everything(trainer)
    before.pop("apart")  # it may grow with each step
    if any(phase.closure for phase in trainer.family.phases(trainer.step)):
        pytest.skip("an optimizer that computes its losses itself reads them, and stops at once")
    trainer.gate.closed.fill_(1)
    for _ in range(2):
        step.train_step(trainer)
    after = everything(trainer)
    after.pop("apart")
    differences = compare(before, after)
    assert differences
    assert [difference for difference in differences if difference.relative] == []


@EVERY_AND_FEW_FAST
def test_an_open_gate_changes_no_bit(tmp_path: Path, family: str, variant: str) -> None:
    plain = trainer_of(family, variant, tmp_path / "run")
    with behind_its_host():
        gated = trainer_of(family, variant, tmp_path / "run")
    for trainer in (plain, gated):
        for _ in range(3):
            step.train_step(trainer)
        trainer.look()
    assert plain.metrics == gated.metrics
    one, other = everything(plain), everything(gated)
    averages = compare({"ema": one.pop("ema")}, {"ema": other.pop("ema")})
    assert all(difference.relative < 1e-6 for difference in averages)  # a mean in three operations on a device
    assert [difference for difference in compare(one, other) if difference.relative] == []


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1), "sgd fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, 0.1), "adam fused": lambda p: torch.optim.Adam(p, 0.1, fused=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    "adagrad fused": lambda p: torch.optim.Adagrad(p, 0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5), "nadam": lambda p: torch.optim.NAdam(p, 0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, 1.0), "rprop": lambda p: torch.optim.Rprop(p, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_no_optimizer_changes_anything_behind_a_closed_gate(kind: str) -> None:
    net = nn.Linear(3, 2)
    gate = Gate(torch.device("cpu"), on_host=False)
    optimizing = scheduled(OPTIMIZERS[kind](net.parameters()), lambda step, history: {"lr": 0.1}, gate)
    step.set_groups(optimizing, {"lr": 0.1})

    def phase(gradient: float) -> None:
        loss = torch.tensor(gradient, dtype=torch.float64)
        gate.check(0, "train", loss, torch.ones((), dtype=torch.float64))
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        with gate.protecting(optimizing.unguarded):
            optimizing.optimizer.step()

    for gradient in (1.0, 2.0):
        before = copied(dict(net.named_parameters()))
        phase(gradient)
        assert all(not torch.equal(before[name], now) for name, now in net.named_parameters())
    before = copied([dict(net.named_parameters()), state_of(optimizing)])
    for gradient in (float("nan"), 1.0, float("inf")):
        phase(gradient)
    after = [dict(net.named_parameters()), state_of(optimizing)]
    differences = compare({"all": before}, {"all": after})
    assert len(differences) >= 2
    assert [difference for difference in differences if difference.relative] == []
    found = gate.look()
    assert found is not None
    assert found[:2] == (0, "train")
    assert found.loss != found.loss


def state_of(optimizing: ScheduledOptimizer) -> Any:
    state = optimizing.optimizer.state_dict()["state"]
    return {
        number: {key: part for key, part in one.items() if isinstance(part, Tensor)} for number, one in state.items()
    }


def test_a_look_names_the_first_step_whose_loss_was_not_finite() -> None:
    gate, one = Gate(torch.device("cpu"), on_host=False), torch.ones((), dtype=torch.float64)
    for number, loss in enumerate((1.0, 2.0, float("inf"), 3.0, float("nan"))):
        assert gate.check(number, "train", torch.tensor(loss, dtype=torch.float64), one) is None
    assert gate.look() == (2, "train", float("inf"))
    assert gate.look() is None
    on_host = Gate(torch.device("cpu"))
    assert on_host.check(7, "train", one, one) is None
    assert on_host.check(8, "train", one * float("inf"), one) == (8, "train", float("inf"))


def test_where_nobody_looks_for_long_the_gate_looks_itself() -> None:
    gate, one = Gate(torch.device("cpu"), on_host=False), torch.ones((), dtype=torch.float64)
    assert all(gate.check(number, "train", one, one) is None for number in range(5000))
    found = [gate.check(number, "train", one * float("nan"), one) for number in range(5000)]
    assert next(one for one in found if one is not None)[:2] == (0, "train")


class Event:
    """An event of a device that hangs, or not."""

    hangs = False

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return not Event.hangs

    def synchronize(self) -> None:
        pass


def test_a_device_that_hangs_gives_no_heartbeat() -> None:
    beats: list[None] = []
    marks = Marks(lambda: beats.append(None), "cuda", Event)
    for _ in range(3):
        marks.set()
    assert len(beats) == 3
    with mock.patch.object(Event, "hangs", True):
        for _ in range(3):
            marks.set()
        assert len(beats) == 3
    marks.wait()
    assert len(beats) == 6


def test_with_one_worker_ddp_wraps_nothing(tmp_path: Path) -> None:
    with mock.patch.object(ddp, "DistributedDataParallel", side_effect=AssertionError):
        trainer = trainer_of("dcgan", "tiny", tmp_path / "run", grad_sync="ddp")
        step.train_step(trainer)
    assert isinstance(trainer.grad_sync, Exact)
    assert not any(parameter._post_accumulate_grad_hooks for net in trainer.networks.values() for parameter in
                   net.parameters())  # fmt: skip
    assert len(trainer.grad_sync.flat[id(trainer.optimizers["generator"].parameters)].slots) == 1


def test_a_loss_that_is_not_finite_stops_a_run_at_its_next_look(tmp_path: Path) -> None:
    with behind_its_host():
        trainer = trainer_of("dcgan", "tiny", tmp_path / "run")
    step.train_step(trainer)
    trainer.look()
    before = everything(trainer)
    loss_of = step._loss

    def not_a_number(*given: Any) -> Any:
        loss = loss_of(*given)
        return loss._replace(value=loss.value * float("nan"))

    with mock.patch.object(step, "_loss", not_a_number):
        step.train_step(trainer)
    step.train_step(trainer)
    with pytest.raises(TroupeError) as raised:
        trainer.look()
    (problem,) = raised.value.problems
    assert (problem.code, problem.about) == ("not-finite", "step 1")
    assert [difference for difference in compare(before, everything(trainer)) if difference.relative] == []


def test_state_that_changes_its_name_is_copied_before_it_is_overwritten() -> None:
    buffers: dict[str, Tensor] = {}
    state = in_place(buffers, {"latest": torch.tensor([1.0]), "previous": torch.tensor([0.0])})
    places = {name: tensor.data_ptr() for name, tensor in state.items()}
    for number in (2.0, 3.0):
        state = in_place(buffers, {"latest": torch.tensor([number]), "previous": state["latest"]})
        assert (float(state["latest"]), float(state["previous"])) == (number, number - 1)
    state = in_place(buffers, {"latest": state["previous"], "previous": state["latest"]})
    assert (float(state["latest"]), float(state["previous"])) == (2.0, 3.0)
    assert {name: tensor.data_ptr() for name, tensor in state.items()} == places
    state["latest"].requires_grad_()  # by a loss: it does not last
    assert float(in_place(buffers, {"latest": torch.tensor([5.0])})["latest"]) == 5.0


def test_metrics_that_only_some_steps_return_are_kept_until_a_look() -> None:
    results = PhaseResults("train", torch.device("cpu"))
    for value, metrics in ((1.0, {"rare": 7.0}), (2.0, {"often": 3.0}), (4.0, {"often": 5.0})):
        results.write(0, Loss(torch.tensor(value), metrics), [])
        results.add_up(results.rows[0])
    assert results.read() == {"train_loss": 4.0, "rare": 7.0, "often": 5.0}
    assert results.read() == {}


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_gate_closes_with_any_default_precision(default: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        gate, one = Gate(torch.device("cpu"), on_host=False), torch.ones((), dtype=torch.float64)
    finally:
        torch.set_default_dtype(before)
    gate.check(0, "train", one * float("nan"), one)
    assert float(gate.closed) == 1


def test_gradients_that_reach_networks_of_other_optimizers_are_discarded(tmp_path: Path) -> None:
    """The vectors of several optimizers share their memory between workers."""
    trainer = trainer_of("dcgan", "tiny", tmp_path / "run")
    step.train_step(trainer)
    assert isinstance(trainer.grad_sync, Exact)
    of_generator = trainer.grad_sync.flat[id(trainer.optimizers["generator"].parameters)].result
    before, loss_of = of_generator.clone(), step._loss

    def leaking(trainer: Trainer, *given: Any) -> Any:
        loss = loss_of(trainer, *given)
        parts = [parameter.sum() for parameter in trainer.networks["generator"].parameters()]
        return loss._replace(value=loss.value + torch.stack(parts).sum())

    with mock.patch.object(step, "_loss", leaking):
        step.run_phase(trainer, trainer.family.phases(trainer.step)[0])
    assert torch.equal(of_generator, before)
