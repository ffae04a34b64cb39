"""Two runs at once in one process: the second is refused, and nobody's streams are taken."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import train
from trainers.base.errors import CONFLICT, TroupeError

TINY: dict[str, Any] = {"image_size": 16, "width": 4, "latent_dim": 8, "batch_size": 8, "microbatch_size": 2,
                        "steps": 40, "device": "cpu", "log_every": 1, "evaluate_every": 0}  # fmt: skip


class Background(threading.Thread):
    """A run in a thread."""

    def __init__(self, **words: Any) -> None:
        super().__init__()
        self.words, self.answer = words, {}  # type: ignore[var-annotated]

    def run(self) -> None:
        self.answer = train("dcgan", **self.words)


def test_a_second_run_is_refused_and_the_first_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = train("dcgan", name="alone", **TINY)
    streams = sys.stdout, sys.stderr
    first = Background(name="first", **TINY)
    first.start()
    while not (tmp_path / "runs/first/metrics.jsonl").exists():
        first.join(0.01)
    assert (sys.stdout, sys.stderr) == streams
    with pytest.raises(TroupeError) as refused:
        train("dcgan", name="second", **TINY)
    assert refused.value.code == CONFLICT
    assert [one.code for one in refused.value.problems] == ["held"]
    assert first.is_alive()
    first.join()
    assert first.answer["metrics"]["generator_loss"] == alone["metrics"]["generator_loss"]
    print("still heard")
    assert capsys.readouterr().out == "still heard\n"
    assert "another" not in (tmp_path / "runs/first/logs/rank_0.log").read_text()


def test_what_a_caller_prints_meanwhile_is_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Background(name="run", **TINY)
    run.start()
    said = 0
    while run.is_alive():
        print("heard")
        said += 1
        run.join(0.05)
    assert capsys.readouterr().out.count("heard\n") == said > 0
    assert "heard" not in (tmp_path / "runs/run/logs/rank_0.log").read_text()


def test_the_callers_random_numbers_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train("dcgan", name="run", **{**TINY, "steps": 2})
    assert torch.equal(torch.rand(3), expected)
