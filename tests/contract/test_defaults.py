"""Every small model learns with its defaults: in two epochs of `digits`, more than a nearest-mean classifier knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiers import long

from cluster import train
from cluster.backend.process_pool import LocalGroup
from tests.jobs import trained
from trainers.families import registry
from trainers.run import Plan

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from defaults import SMALL, nearest_mean

sys.path.pop(0)

QUICK, SLOW = ("mlp_bn",), ("mlp", "mlp_relu", "lstm_rows")


@pytest.mark.parametrize(
    "model",
    [*QUICK, *(pytest.param(model, marks=pytest.mark.slow) for model in SLOW),
     *long(*(model for model in SMALL if model not in QUICK + SLOW))],
)  # fmt: skip
def test_two_epochs_are_enough_to_beat_the_nearest_mean(pool: LocalGroup, tmp_path: Path, model: str) -> None:
    settings = {"model": model, "epochs": 2.0, "device": "cpu", "grad_sync": "exact"}
    config = registry.config_class("classifier").of(settings, "classifier")
    plan = Plan("classifier", config.model_dump(), tmp_path / "run", tmp_path / "data")
    assert trained(pool, plan, 1)["results"]["eval_accuracy"] > nearest_mean()


@pytest.mark.slow
def test_the_evaluation_of_a_short_darknet_knows_what_it_learned(tmp_path: Path) -> None:
    small = {"blocks": (1, 1), "first_width": 8, "flip": "none", "crop_padding": 0, "learning_rate": 0.3}
    result = train("darknet", data="digits", epochs=2, runs_dir=tmp_path, **small)
    assert result["metrics"]["eval_accuracy"] > 0.7  # with running averages that move by a hundredth a step: chance


def test_the_nearest_mean_knows_what_is_known_of_it() -> None:
    assert 0.74 < nearest_mean() < 0.84  # 0.82 on the whole of MNIST


def test_defaults_follow_from_what_is_said() -> None:
    kind = registry.config_class("classifier")
    assert kind.of({}).learning_rate == 0.05
    assert kind.of({"model": "mlp"}).learning_rate == 0.005
    assert kind.of({"model": "mlp", "learning_rate": 0.1}).learning_rate == 0.1
    assert kind.of({"optimizer": "adamw"}).learning_rate == 0.002
    rows = kind.of({"model": "lstm_rows"})
    assert (rows.optimizer, rows.learning_rate) == ("adamw", 0.002)
    assert kind.of({"model": "lstm_rows", "optimizer": "sgd"}).learning_rate == 0.05
