"""A GAN that goes wrong is noticed while it trains, and told or stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import train
from cluster.cli import main
from trainers.base.errors import FAILED, TroupeError

TOO_HIGH: dict[str, Any] = {
    "image_size": 16, "width": 4, "latent_dim": 8, "batch_size": 8, "microbatch_size": 4, "steps": 12, "device": "cpu",
    "evaluate_every": 0, "sample_every": 3, "learning_rate": 100,
}  # fmt: skip


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def looks(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in rows
        if "critic_ranking_accuracy" in row
    ]


def test_a_run_that_goes_wrong_is_told_once_and_ends_as_asked(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={value}" for name, value in TOO_HIGH.items()]
    assert main.command(["train", "dcgan", "--name", "run", "--json", *words]) == 0
    shown = capsys.readouterr()
    told = [line for line in shown.err.splitlines() if "the losses diverge" in line or "samples collapse" in line]
    assert len(told) == 1
    assert told[0].startswith("troupe: step 6: ")
    assert json.loads(shown.out)["result"]["worry"]
    assert [row["step"] for row in looks(room / "runs/run")] == [3, 6, 9, 12]


def test_a_run_is_stopped_and_saved_and_goes_on_when_told(room: Path) -> None:
    with pytest.raises(TroupeError) as caught:
        train("dcgan", name="run", **TOO_HIGH, on_collapse="stop")
    assert caught.value.code == FAILED
    assert [(one.code, one.about) for one in caught.value.problems] == [("worry", "step 6")]
    assert "--resume run on_collapse=warn" in caught.value.problems[0].hint
    assert (room / "runs/run/checkpoints/step_00000006").exists()
    result = train(resume="run", on_collapse="warn")
    assert result["steps"] == 12
    undisturbed = train("dcgan", name="other", **TOO_HIGH)
    assert looks(room / "runs/run") == looks(room / "runs/other")
    assert result["worry"] == undisturbed["worry"]


def test_nothing_is_looked_at_where_nobody_wants_it(room: Path) -> None:
    result = train("dcgan", name="run", **TOO_HIGH, on_collapse="off")
    assert looks(room / "runs/run") == []
    assert (result["worry"], result["watch_share"]) == ("", 0)
