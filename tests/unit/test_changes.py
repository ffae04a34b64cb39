"""What a run does when it goes on with other settings, or after an end that was cut short. In this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentences import Sentences
from tiers import long
from torch import Tensor, nn

from cluster import train
from cluster.inspection import verify
from trainers.base.errors import CONFLICT, TroupeError
from trainers.families import registry
from trainers.families.classification.learning import weight_decay_groups
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

MLP: dict[str, Any] = {"model": "mlp", "image_size": 8, "schedule": "constant", "steps": 4, "device": "cpu",
                       "evaluate_every": 0}  # fmt: skip
FAST: dict[str, Any] = {**registry.config_class("cifar_speed").tiny["tiny"], "device": "cpu"}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def state_of(name: str, step: int) -> dict[str, Any]:
    loaded: dict[str, Any] = checkpoint.load(
        RunFolder(Path("runs") / name).checkpoints / checkpoint.checkpoint_name(step)
    )
    return loaded


def weights_of(name: str, step: int) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = state_of(name, step)["networks"]["network"]
    return weights


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [({"weight_decay": 0.5}, "weight_decay", 0.5),
     *long(({"nesterov": False}, "nesterov", False), ({"momentum": 0.3}, "momentum", 0.3))],
)  # fmt: skip
def test_a_changed_setting_of_the_optimizer_counts_from_the_checkpoint_on(
    words: dict[str, Any], key: str, value: Any
) -> None:
    train("classifier", name="old", **MLP)
    train(resume="old", steps=8, allow_changes=True, **words)
    assert state_of("old", 8)["optimizers"]["network"]["param_groups"][0][key] == value
    train("classifier", name="plain", **{**MLP, "steps": 8})
    assert not torch.equal(weights_of("old", 8)["1.weight"], weights_of("plain", 8)["1.weight"])


def test_momentum_is_that_of_the_settings_when_a_cycle_is_left_for_another_schedule() -> None:
    train("classifier", name="old", **{**MLP, "schedule": "one_cycle"})
    train(resume="old", steps=6, schedule="constant", allow_changes=True)
    assert {group["momentum"] for group in state_of("old", 6)["optimizers"]["network"]["param_groups"]} == {0.9}


def test_another_optimizer_begins_without_a_memory_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    train("classifier", name="old", **MLP)
    train(resume="old", steps=6, optimizer="adamw", allow_changes=True, progress=True)
    assert "optimizer network: type differs from the checkpoint's" in capsys.readouterr().out
    assert state_of("old", 6)["optimizers"]["network"]["kind"] == "AdamW"


@pytest.mark.slow
def test_cifar_speed_learns_in_fewer_steps_than_its_average_takes() -> None:
    train("cifar_speed", name="short", **{**FAST, "steps": 4, "lookahead": 5})
    first, last = weights_of("short", 0), weights_of("short", 4)
    assert not torch.equal(first["head.weight"], last["head.weight"])


@pytest.mark.slow
def test_cifar_speed_cannot_be_extended_silently_since_its_pull_spans_the_run(sentences: Sentences) -> None:
    train("cifar_speed", name="short", **{**FAST, "steps": 2, "schedule": "constant"})
    with pytest.raises(TroupeError) as caught:
        train(resume="short", steps=4)
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about) for one in caught.value.problems] == [
        ("settings-differ", "steps"),
        ("settings-differ", ""),
    ]
    sentences(caught.value.problems)
    train("cifar_speed", name="without", **{**FAST, "steps": 2, "schedule": "constant", "lookahead": 0})
    assert train(resume="without", steps=4)["steps"] == 4
    assert "average" not in str(state_of("without", 4)["optimizers"]["network"]["state"][0].keys())


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_cifar_speed_takes_no_momentum_too(schedule: str) -> None:
    assert train("cifar_speed", **{**FAST, "steps": 2, "schedule": schedule, "momentum": 0})["steps"] == 2


def test_a_reached_target_is_told_when_the_run_is_asked_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {**MLP, "steps": 8, "evaluate_every": 2, "target": "eval_accuracy:0.01"}
    assert train("classifier", name="old", **asked)["steps"] == 2
    assert train(resume="old", steps=12, progress=True)["steps"] == 2
    assert "old: reached eval_accuracy:0.01 at step 2; set target=none to continue" in capsys.readouterr().out
    assert train(resume="old", target="none")["steps"] == 8


def test_pictures_that_a_killed_run_did_not_draw_are_drawn_when_it_goes_on() -> None:
    train("classifier", name="old", **{**MLP, "evaluate_every": 4})
    folder = Path("runs/old")
    for part in ("result.json", "confusion.png", "mistakes.png"):
        (folder / part).unlink()
    result = train(resume="old")
    assert result["steps"] == 4
    assert [Path(picture).name for picture in result["pictures"]] == ["confusion.png", "mistakes.png"]
    assert all(Path(picture).exists() for picture in result["pictures"])


def test_weights_of_another_project_begin_a_run() -> None:
    train("classifier", name="old", **MLP)
    torch.save({f"module.{key}": value for key, value in weights_of("old", 4).items()}, "mine.pth")
    train("classifier", name="new", init_from="mine.pth", **MLP)
    begun = weights_of("new", 0)
    assert all(torch.equal(begun[key], value) for key, value in weights_of("old", 4).items())


def test_biases_and_scales_of_whatever_shape_do_not_decay() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relative_position_bias_table = nn.Parameter(torch.ones(3, 2))
            self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
            self.linear, self.norm = nn.Linear(2, 3), nn.LayerNorm(3)

    network = Odd()
    pulled, still = (group["params"] for group in weight_decay_groups(network, 0.1))
    assert pulled == [network.linear.weight]
    assert len(still) == 5  # type: ignore[arg-type]


def test_variants_named_after_a_setting_that_is_given_are_one() -> None:
    tiny = registry.config_class("classifier").tiny
    assert list(verify.variants(tiny, {})) == list(tiny)
    assert list(verify.variants(tiny, {"model": "mlp"})) == ["mlp"]
    assert verify.variants(tiny, {"model": "cnn"}) == {"cnn": tiny["cnn"]}
    assert list(verify.variants(tiny, {"batch_size": "8"})) == list(tiny)
