"""Schedules: what learning rate and momentum are at each step, asked in whatever order."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainers.contract import schedules
from trainers.distributed.process_group import World
from trainers.engine.control import Control
from trainers.engine.gate import Gate
from trainers.engine.step import set_groups, train_step
from trainers.engine.trainer import Trainer, scheduled
from trainers.families.classification.learning import Classification
from trainers.families.classification.settings import ClassificationConfig
from trainers.run import open_for
from trainers.settings.config import Config
from trainers.settings.fields import setting

PEAK = 0.4
STEPS = 1000
NAMES = ("constant", "one_cycle", "cosine", "step", "linear", "plateau")


class ByAccuracy(Config):
    """A family whose evaluations get better upwards."""

    metrics: ClassVar = {"accuracy": "max", "loss": "min"}


class Moving(ByAccuracy):
    """A family whose optimizer has a momentum."""

    momentum_setting: ClassVar = "inertia"
    inertia: float = setting(0.9, "momentum")


class ByError(Config):
    """A family whose evaluations get better downwards."""

    metrics: ClassVar = {"error": "min"}


def rate_of(step: int, history: tuple[float, ...] = (), kind: type[Config] = ByAccuracy, **words: Any) -> float:
    return schedules.of(kind.of({"steps": STEPS, **words}), PEAK)(step, history)["lr"]


def momentum_of(step: int, **words: Any) -> float:
    return schedules.of(Moving.of({"steps": STEPS, **words}), PEAK)(step, ())["momentum"]


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-9)


def test_without_a_schedule_the_learning_rate_never_moves() -> None:
    assert {rate_of(step) for step in range(0, STEPS, 50)} == {PEAK}
    assert schedules.constant(lr=2e-4, momentum=0.5)(7, ()) == {"lr": 2e-4, "momentum": 0.5}


@pytest.mark.parametrize("ratio", [5, 20])
@pytest.mark.parametrize("tail", [0, 0.1, 0.2])
def test_one_cycle_rises_from_a_part_of_the_peak_and_falls_as_long_as_it_rose(ratio: float, tail: float) -> None:
    words: dict[str, Any] = {"schedule": "one_cycle", "cycle_ratio": ratio, "cycle_tail": tail}
    top = round(STEPS * (1 - tail) / 2)
    assert rate_of(0, **words) == close(PEAK / ratio)
    assert rate_of(top, **words) == close(PEAK)
    assert rate_of(top // 2, **words) == close((PEAK + PEAK / ratio) / 2)
    for away in range(0, top - 1, 50):
        assert rate_of(top - away, **words) == close(rate_of(top + away, **words))
    if tail:
        assert rate_of(2 * top, **words) == close(PEAK / ratio)


def test_one_cycle_ends_at_a_hundredth_of_its_start() -> None:
    assert rate_of(STEPS, schedule="one_cycle") == close(PEAK / 20 / 100)
    assert rate_of(STEPS - 100, schedule="one_cycle") == close(PEAK / 20 * (1 + 0.01) / 2)  # half of the tail
    assert 0 < rate_of(STEPS - 1, schedule="one_cycle") < rate_of(0, schedule="one_cycle") / 20


def test_the_peak_of_one_cycle_may_be_put_elsewhere() -> None:
    words: dict[str, Any] = {"schedule": "one_cycle", "cycle_peak": 0.1, "cycle_tail": 0.3}
    assert max(range(STEPS), key=lambda step: rate_of(step, **words)) == 100
    assert rate_of(400, **words) == close((PEAK + PEAK / 20) / 2)
    assert rate_of(700, **words) == close(PEAK / 20)


def test_momentum_moves_against_the_learning_rate_and_is_level_in_the_tail() -> None:
    words: dict[str, Any] = {"schedule": "one_cycle"}  # of Smith: from 0.95 to 0.85 and back, and a tail of a fifth
    assert momentum_of(0, **words) == close(0.95)
    assert momentum_of(400, **words) == close(0.85)
    assert momentum_of(200, **words) == close(0.9)
    assert {momentum_of(step, **words) for step in range(800, STEPS + 1, 20)} == {0.95}
    for step in range(0, 800, 40):
        rises = rate_of(step + 40, **words) > rate_of(step, **words)
        assert (momentum_of(step + 40, **words) < momentum_of(step, **words)) == rises


@pytest.mark.parametrize("name", [name for name in NAMES if name != "one_cycle"])
def test_no_other_schedule_moves_the_momentum(name: str) -> None:
    course = schedules.of(Moving.of({"steps": STEPS, "schedule": name}), PEAK)
    assert {key for step in range(0, STEPS, 50) for key in course(step, ())} == {"lr"}


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_without_momentum_is_not_given_one(name: str) -> None:
    assert set(schedules.of(ByAccuracy.of({"schedule": name}), PEAK)(0, ())) == {"lr"}


def test_cosine_falls_from_the_peak_to_nothing() -> None:
    assert rate_of(0, schedule="cosine") == PEAK
    assert rate_of(STEPS // 2, schedule="cosine") == close(PEAK / 2)
    assert rate_of(STEPS // 4, schedule="cosine") == close(PEAK * (1 + math.sqrt(0.5)) / 2)
    assert rate_of(STEPS, schedule="cosine") == pytest.approx(0)


def test_steps_multiply_the_rate_at_parts_of_the_run() -> None:
    words: dict[str, Any] = {"schedule": "step", "decay_at": (0.3, 0.6, 0.8), "decay_factor": 0.2}
    known = {0: 0, 299: 0, 300: 1, 599: 1, 600: 2, 799: 2, 800: 3, 999: 3}
    assert {step: rate_of(step, **words) for step in known} == {step: PEAK * 0.2**n for step, n in known.items()}


def test_linear_is_level_and_then_falls_to_nothing() -> None:
    words: dict[str, Any] = {"schedule": "linear", "decay_after": 0.4}
    assert {rate_of(step, **words) for step in range(0, 401, 100)} == {PEAK}
    assert rate_of(700, **words) == close(PEAK / 2)
    assert rate_of(STEPS, **words) == 0


@pytest.mark.parametrize(
    ("history", "falls"),
    [
        ((), 0),
        ((0.5,), 0),
        ((0.5, 0.5), 0),
        ((0.5, 0.5, 0.4), 1),
        ((0.5, 0.4, 0.45), 1),  # better than the one before is not better than the best
        ((0.5, 0.4, 0.6, 0.6), 0),
        ((0.5, 0.4, 0.6, 0.6, 0.6), 1),
        ((0.5, 0.5, 0.5, 0.5, 0.5), 2),
        ((0.5, 0.4, 0.4, 0.4, 0.6, 0.5, 0.5), 2),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), 0),
    ],
)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_plateau_falls_after_as_many_evaluations_as_patience_has(
    history: tuple[float, ...], falls: int, mode: Literal["max", "min"]
) -> None:
    kind, sign = (ByAccuracy, 1) if mode == "max" else (ByError, -1)
    words: dict[str, Any] = {"schedule": "plateau", "patience": 2, "decay_factor": 0.5}
    seen = tuple(sign * value for value in history)
    assert rate_of(10, seen, kind, **words) == close(PEAK * 0.5**falls)
    assert rate_of(900, seen, kind, **words) == rate_of(10, seen, kind, **words)  # the step does not matter


def test_an_evaluation_that_is_no_number_is_no_better_than_any() -> None:
    assert schedules.plateau_reductions([0.5, math.nan, math.nan], 2, "max") == 1
    assert schedules.plateau_reductions([math.nan, 0.5], 2, "max") == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_warmup_rises_to_what_the_schedule_says(name: str) -> None:
    words: dict[str, Any] = {"schedule": name, "warmup": 0.1}
    for step in (0, 24, 49, 98):
        assert rate_of(step, **words) == close(rate_of(step, schedule=name) * (step + 1) / 100)
    assert [rate_of(step, **words) for step in range(99, STEPS, 50)] == [
        rate_of(step, schedule=name) for step in range(99, STEPS, 50)
    ]


@given(
    st.sampled_from(NAMES), st.sampled_from([0, 0.1]), st.integers(1, 200), st.lists(st.integers(0, 200), max_size=20),
    st.lists(st.floats(0, 1), max_size=10),
)  # fmt: skip
def test_a_step_has_the_same_values_whatever_was_asked_before(
    name: str, warmup: float, steps: int, asked: list[int], history: list[float]
) -> None:
    config = Moving.of({"schedule": name, "warmup": warmup, "steps": steps, "patience": 1})
    one, other = (schedules.of(config, PEAK) for _ in range(2))
    for step in asked:
        one(step, history[: step % 3])
    for step in range(0, steps + 1, 1 + steps // 10):
        values = one(step, history)
        assert values == other(step, history)
        assert 0 <= values["lr"] <= PEAK * (1 + 1e-12)
        assert 0.85 <= values.get("momentum", 0.9) <= 0.95


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_no_steps_or_one_has_a_rate_too(name: str) -> None:
    for steps in (0, 1):
        assert math.isfinite(schedules.of(ByAccuracy.of({"schedule": name, "steps": steps}), PEAK)(0, ())["lr"])


def test_a_schedule_that_spans_the_run_says_so() -> None:
    spanning = [name for name in NAMES if ByAccuracy.of({"schedule": name}).depends_on_total_steps]
    assert spanning == ["one_cycle", "cosine", "step", "linear"]
    assert ByAccuracy.of({"warmup": 0.1}).depends_on_total_steps


class Linear(Classification):
    """The smallest classifier."""

    def networks(self) -> dict[str, nn.Module]:
        size = self.facts["channels"] * self.facts["image_size"] ** 2
        return {"network": nn.Sequential(nn.Flatten(), nn.Linear(size, self.facts["classes"]))}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_loop_gives_the_values_of_each_step_to_the_optimizer(optimizer: str, tmp_path: Any) -> None:
    """Also after a change of them by hand, as a checkpoint of other settings would; of Adam, momentum is beta1."""
    words: dict[str, Any] = {"data": "digits", "image_size": 8, "batch_size": 4, "microbatch_size": 2, "steps": 4,
             "optimizer": optimizer, "schedule": "one_cycle", "cycle_tail": 0.5, "device": "cpu",
             "grad_sync": "exact", "crop_padding": 0}  # fmt: skip
    config = ClassificationConfig.of(words)
    data = open_for(config, tmp_path)
    trainer = Trainer(Linear(config.finalize(data.facts), data.facts), data, config, World(), Control())
    course = schedules.of(config, config.learning_rate)
    rates = []
    for step in range(4):
        groups = trainer.optimizers["network"].optimizer.param_groups
        for group in groups:
            group["lr"] = 77.0
        assert train_step(trainer)
        values = course(step, ())
        for group in groups:
            assert group["lr"] == values["lr"]
            assert (group["betas"][0] if optimizer == "adamw" else group["momentum"]) == values["momentum"]
        assert trainer.metrics["learning_rate"] == values["lr"]
        assert trainer.metrics["momentum"] == values["momentum"]
        rates.append(values["lr"])
    assert rates[1] == max(rates) == config.learning_rate
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.networks["network"].parameters())


def test_a_group_may_learn_at_a_multiple_of_the_rate(tmp_path: Any) -> None:
    words: dict[str, Any] = {
        "data": "digits",
        "image_size": 8,
        "crop_padding": 0,
        "device": "cpu",
        "grad_sync": "exact",
    }
    config = ClassificationConfig.of(words)
    data = open_for(config, tmp_path)
    weight, bias = Linear(config, data.facts).networks()["network"].parameters()
    for fused in (False, True):  # a rate is a number, or a number on the device
        groups = [{"params": [weight]}, {"params": [bias], "lr_scale": 64.0}]
        optimizer = torch.optim.SGD(groups, lr=1.0, fused=fused)
        set_groups(
            scheduled(optimizer, schedules.constant(lr=1.0), Gate(torch.device("cpu"))), {"lr": 0.5, "kept": 0.25}
        )
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 32.0]
        assert {group["kept"] for group in optimizer.param_groups} == {0.25}  # whatever else a schedule says
