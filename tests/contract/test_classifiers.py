"""Classifiers from the command line: targets, epochs, pictures of evaluations, and weights from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sentences import Sentences
from tiers import long
from wrong import Wrong

from cluster import train
from cluster.cli import main
from trainers.base.errors import CONFLICT, USAGE, TroupeError
from trainers.families.classifier.networks import build

WORDS_OF_A_SMALL_RUN = {"model": "mlp_relu", "data": "digits", "image_size": 8, "batch_size": 64, "microbatch_size": 32}
SHARED = [Path(__file__).parents[up] / "shared" / "data" for up in (2, 3)]


def small_run(folder: Path, **words: Any) -> dict[str, Any]:
    return train("classifier", runs_dir=folder, **{**WORDS_OF_A_SMALL_RUN, **words})


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout and the lines on stderr of a command in this process."""
    capsys.readouterr()  # whatever was said before
    code = main.command(words)
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


@pytest.mark.slow
def test_a_run_stops_where_its_target_is_reached_and_tells_the_time(tmp_path: Path) -> None:
    target = "eval_accuracy:0.5"
    result = small_run(tmp_path, name="aimed", steps=400, evaluate_every=20, target=target)
    assert 0 < result["steps"] < 400
    assert result["steps"] % 20 == 0
    assert result["target"] == target
    assert result["metrics"]["eval_accuracy"] >= 0.5
    rows = [json.loads(line) for line in (tmp_path / "aimed" / "metrics.jsonl").read_text().splitlines()]
    before = [row["eval_accuracy"] for row in rows if "eval_accuracy" in row][:-1]
    assert all(value < 0.5 for value in before)
    assert result["seconds"] == pytest.approx(rows[-1]["seconds"], abs=1)  # the time to it, without what follows
    again = train(resume="aimed", runs_dir=tmp_path)
    assert (again["steps"], again["seconds"]) == (result["steps"], result["seconds"])  # finished: nothing is done


@pytest.mark.slow
def test_a_run_that_reached_its_target_goes_on_for_another(tmp_path: Path) -> None:
    first = small_run(tmp_path, name="aimed", steps=60, evaluate_every=20, target="eval_loss:5")
    assert first["steps"] == 20  # a target of a loss is reached from above
    second = train(resume="aimed", target="eval_accuracy:0.999", runs_dir=tmp_path)
    assert (second["steps"], second["target"]) == (60, None)


def test_epochs_say_how_many_steps_there_are_and_more_of_them_extend_a_run(tmp_path: Path) -> None:
    words = {"schedule": "constant", "batch_size": 900, "microbatch_size": 450, "evaluate_every": 0}
    assert small_run(tmp_path, name="short", epochs=0.25, **words)["steps"] == 3  # 9,000 / 900 / 4, rounded up
    assert train(resume="short", epochs=0.5, runs_dir=tmp_path)["steps"] == 5
    assert train(resume="short", steps=6, runs_dir=tmp_path)["steps"] == 6


def test_a_schedule_over_the_whole_run_refuses_other_numbers_of_steps(tmp_path: Path, sentences: Sentences) -> None:
    small_run(tmp_path, name="cycled", steps=4, schedule="one_cycle", evaluate_every=0)
    with pytest.raises(TroupeError) as caught:
        train(resume="cycled", steps=8, runs_dir=tmp_path)
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about) for one in caught.value.problems] == [
        ("settings-differ", "steps"), ("settings-differ", ""),
    ]  # fmt: skip
    sentences(caught.value.problems)


def test_what_an_evaluation_shows_lies_in_the_folder(tmp_path: Path) -> None:
    result = small_run(tmp_path, name="shown", steps=20)
    assert [Path(picture).name for picture in result["pictures"]] == ["curves.png", "confusion.png", "mistakes.png"]
    for picture in result["pictures"]:
        with Image.open(picture) as image:
            assert image.width > 300
    assert 0 < result["evaluation_share"] < 1


@pytest.mark.slow
def test_the_default_evaluates_seldom_enough_for_five_percent(tmp_path: Path) -> None:
    """By count: a pass forward is a third of a step's work (forward, and twice as much backward)."""
    result = small_run(tmp_path, name="rare", steps=400, batch_size=64)
    rows = [json.loads(line) for line in (tmp_path / "rare" / "metrics.jsonl").read_text().splitlines()]
    evaluations = sum("eval_accuracy" in row for row in rows)
    assert result["steps"] == 400
    assert evaluations > 1
    assert evaluations * 1000 / 3 < 0.05 * 400 * 64


def test_a_run_is_evaluated_as_it_was_when_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = small_run(tmp_path, name="judged", steps=30, ema=0.5)
    code, out, _ = said(
        capsys, "evaluate", "judged", "--runs-dir", str(tmp_path), "--out", str(tmp_path / "seen"), "--json"
    )
    told = json.loads(out)["result"]
    assert code == 0
    assert told["metrics"]["eval_accuracy"] == result["metrics"]["eval_accuracy"]
    assert told["metrics"]["eval_loss"] == result["metrics"]["eval_loss"]
    assert told["samples"] == 1000
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"confusion.png", "mistakes.png"}


def test_weights_from_elsewhere_are_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = build("mlp_relu", 1, 8, 10)
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": wrapped, "best_prec1": 91.7}, tmp_path / "weights.th")
    words = [f"{key}={value}" for key, value in WORDS_OF_A_SMALL_RUN.items()]
    code, out, _ = said(capsys, "evaluate", "--weights", str(tmp_path / "weights.th"), "classifier", *words)
    assert code == 0
    assert re.search(r"eval_accuracy +0\.\d{4}", out)


def test_the_folder_of_a_run_and_one_of_its_checkpoints_are_weights_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    result = small_run(tmp_path, name="judged", steps=30, ema=0.5)
    words = ["classifier", *(f"{key}={value}" for key, value in WORDS_OF_A_SMALL_RUN.items()), "--json"]
    code, out, _ = said(capsys, "evaluate", "--weights", str(tmp_path / "judged"), *words)
    assert (code, json.loads(out)["result"]["metrics"]["eval_loss"]) == (0, result["metrics"]["eval_loss"])
    first = tmp_path / "judged" / "checkpoints" / "step_00000000"
    code, out, _ = said(capsys, "evaluate", "--weights", str(first), *words)
    assert json.loads(out)["result"]["metrics"]["eval_loss"] > result["metrics"]["eval_loss"]
    for nothing in (tmp_path, tmp_path / "judged" / "settings.json"):
        code, _, errors = said(capsys, "evaluate", "--weights", str(nothing), *words)
        assert code == CONFLICT
        assert wrong.kinds == [("no-weights", str(nothing))]
        assert errors == wrong.lines
        sentences(wrong.problems)


def test_weights_of_another_architecture_are_refused_with_their_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    torch.save(build("mlp_bn", 1, 8, 10).state_dict(), tmp_path / "other.pt")
    words = [f"{key}={value}" for key, value in WORDS_OF_A_SMALL_RUN.items()]
    code, _, errors = said(capsys, "evaluate", "--weights", str(tmp_path / "other.pt"), "classifier", *words)
    assert code == CONFLICT
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [
        ("weights-misfit", "--weights", str(tmp_path / "other.pt"))
    ]
    assert "2.running_mean" in wrong.problems[0].reason
    assert errors == wrong.lines
    sentences(wrong.problems)


MISTAKES = [
    (["evaluate", "classifier"], "missing", "classifier"),
    (["evaluate", "classifier", "--weights", "nowhere.pt"], "missing-file", "--weights"),
    (["train", "classifier", "steps=3", "epochs=3"], "settings-conflict", "steps and epochs"),
    (["train", "cifar_speed", "data=digits", "image_size=64"], "data-misfit", "image_size"),
    (["train", "classifier", "model=alexnet", "data=digits"], "data-misfit", "model"),
    (["train", "cifar_speed", "optimizer=adamw"], "bad-value", "optimizer"),
    (["train", "classifier", "classes=7", "data=digits"], "data-misfit", "classes"),
    (["train", "classifier", "target=eval_acuracy:0.9"], "unknown-metric", "target"),
]


@pytest.mark.parametrize(("words", "kind", "about"), MISTAKES, ids=[" ".join(words) for words, *_ in MISTAKES])
def test_wrong_words_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences, words: list[str],
    kind: str, about: str,
) -> None:  # fmt: skip
    code, _, errors = said(capsys, *words, "--runs-dir", str(tmp_path / "runs"))
    assert (code, wrong.kinds) == (USAGE, [(kind, about)])
    assert errors == wrong.lines
    sentences(wrong.problems)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_dry_run_draws_the_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "train", "classifier", "epochs=2", "--dry-run", "--runs-dir", str(tmp_path))
    assert code == 0
    assert "steps = 282" in out  # 2 * 9,000 / 64, rounded up
    drawing = out.split("learning rate over the run, as a fraction of its peak:\n")[1].splitlines()
    assert len(drawing) > 4
    assert all(len(line) <= 72 for line in drawing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "file", "accuracy"),
    [("resnet20", "resnet20-12fca82f.th", 0.9173), *long(("resnet56", "resnet56-4bfd9763.th", 0.9339))],
)
def test_published_weights_reach_what_was_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, file: str, accuracy: float
) -> None:
    shared = next((folder for folder in SHARED if (folder / "resnet_cifar10" / file).exists()), None)
    if shared is None:
        pytest.skip("the published weights are not here")
    from benchmarks.pack_cifar10 import main as pack_cifar10

    pack_cifar10(shared / "cifar10", tmp_path)
    code, out, _ = said(
        capsys, "evaluate", "--weights", str(shared / "resnet_cifar10" / file), "classifier", f"model={model}",
        "data=cifar10", "--data-dir", str(tmp_path), "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["result"]["metrics"]["eval_accuracy"] == pytest.approx(accuracy, abs=1e-9)
