"""`troupe evaluate` knows what the weights learned from, and never calls a sample held out that they have seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentences import Sentences
from tiers import slow
from wrong import Wrong

from cluster import train
from cluster.cli import main
from cluster.inspection import evaluate
from trainers.base.errors import CONFLICT, USAGE, TroupeError

SMALL = {"model": "mlp_relu", "image_size": 8, "batch_size": 16, "microbatch_size": 8, "steps": 3, "crop_padding": 0,
         "schedule": "constant", "evaluate_every": 0}  # fmt: skip


def pictures(folder: Path, *classes: str, count: int = 30, seed: int = 0) -> str:
    """A folder of images of noise, brighter from class to class; as `data=` names it."""
    random = np.random.default_rng(seed)
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(60 * place, 60 * place + 90, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return f"imagefolder:{folder}"


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def learned(room: Path, data: str, **words: Any) -> dict[str, Any]:
    return train("classifier", name="run", data=data, data_dir=room / "data", **{**SMALL, **words})


def evaluated(room: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], list[str]]:
    """Exit code, answer, and the lines on stderr."""
    capsys.readouterr()
    code = main.command(["evaluate", *words, "--json", "--data-dir", str(room / "data")])
    out, err = capsys.readouterr()
    return code, json.loads(out)["result"] or {}, err.splitlines()


def test_what_a_run_held_out_is_called_so(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned(room, pictures(room / "d1", "cat", "dog"))
    code, answer, _ = evaluated(room, capsys, "run")
    assert (code, answer["held_out"], answer["notes"], answer["split"]) == (0, True, [], "test")
    main.command(["evaluate", "run", "--data-dir", str(room / "data")])
    assert f"held-out samples, data=imagefolder:{room / 'd1'}" in capsys.readouterr().out


@pytest.mark.parametrize("weights", ["run", *slow("checkpoint", "export")])
def test_training_samples_are_never_called_held_out(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences, weights: str
) -> None:
    """Noise that was learned by heart would be told as perfect."""
    data = pictures(room / "d1", "cat", "dog")
    learned(room, data)
    words = ["run"]
    if weights != "run":
        main.command(["export", "run", "--out", "out"])
        path = "runs/run/checkpoints/step_00000003" if weights == "checkpoint" else "out"
        shown = [f"{key}={value}" for key, value in SMALL.items()]
        words = ["classifier", "--weights", path, f"data={data}", *shown]
    code, _, lines = evaluated(room, capsys, *words, "evaluate_on=validation")
    assert code == CONFLICT
    assert wrong.kinds == [("learned-from", "evaluate_on")]
    assert lines == wrong.lines
    sentences(wrong.problems)


def test_both_parts_that_a_run_did_not_learn_from_can_be_told(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned(room, pictures(room / "d1", "cat", "dog"), evaluate_on="validation")
    for part in ("validation", "test"):
        code, answer, _ = evaluated(room, capsys, "run", f"evaluate_on={part}")
        assert (code, answer["held_out"], answer["split"]) == (0, True, part)


def test_other_classes_are_refused_with_both(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    learned(room, pictures(room / "d1", "cat", "dog"))
    code, _, lines = evaluated(room, capsys, "run", f"data={pictures(room / 'd2', 'dog', 'zebra')}")
    assert code == CONFLICT
    (problem,) = wrong.problems
    assert (problem.code, problem.about, problem.value) == ("data-misfit", "data", f"imagefolder:{room / 'd2'}")
    assert "cat, dog and dog, zebra" in problem.reason
    assert lines == wrong.lines
    sentences(wrong.problems)


def test_other_samples_are_told(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned(room, pictures(room / "d1", "cat", "dog"))
    code, answer, _ = evaluated(room, capsys, "run", f"data={pictures(room / 'd2', 'cat', 'dog', count=40)}")
    assert (code, answer["held_out"]) == (0, False)
    (note,) = answer["notes"]
    assert note.startswith(f"the run learned from data=imagefolder:{room / 'd1'}; ")
    pictures(room / "d1", "cat", "dog", count=45)
    code, answer, _ = evaluated(room, capsys, "run")
    assert (code, answer["held_out"]) == (0, False)
    assert "has changed since the run learned from it" in answer["notes"][0]


def test_weights_of_nobody_knows_what_are_not_called_tested(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pictures(room / "d1", "cat", "dog")
    learned(room, data)
    shutil.copy(room / "runs/run/checkpoints/step_00000003/state.pt", room / "state.pt")
    shown = [f"{key}={value}" for key, value in SMALL.items()]
    code, answer, _ = evaluated(room, capsys, "classifier", "--weights", "state.pt", f"data={data}", *shown)
    assert (code, answer["held_out"]) == (0, False)
    assert "is unknown" in answer["notes"][0]


def test_a_relative_path_is_that_folder_from_anywhere(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another folder of the same relative name is not used in its place."""
    pictures(room / "d1", "cat", "dog")
    learned(room, "imagefolder:d1", steps=2)
    settings = json.loads((room / "runs/run/settings.json").read_text())
    assert settings["settings"]["data"] == f"imagefolder:{room / 'd1'}"
    elsewhere = room / "elsewhere"
    pictures(elsewhere / "d1", "cat", "dog", count=50)
    monkeypatch.chdir(elsewhere)
    code, answer, _ = evaluated(room, capsys, str(room / "runs/run"))
    assert (code, answer["held_out"], answer["data"]) == (0, True, f"imagefolder:{room / 'd1'}")
    assert train(resume=str(room / "runs/run"), steps=3, data_dir=room / "data")["steps"] == 3


def test_data_that_was_moved_is_the_same_data(room: Path, sentences: Sentences) -> None:
    data = pictures(room / "d1", "cat", "dog")
    learned(room, data, steps=2)
    (room / "d1").rename(room / "moved")
    assert train(resume="run", data="imagefolder:moved", steps=3, data_dir=room / "data")["steps"] == 3
    shutil.rmtree(room / "moved" / "cat")
    (room / "moved" / "cat").mkdir()
    pictures(room / "moved", "cat", count=20)
    with pytest.raises(TroupeError) as told:
        train(resume="run", steps=4, data_dir=room / "data")
    assert told.value.code == CONFLICT
    assert [(one.code, one.about) for one in told.value.problems] == [("data-differ", "data")]
    sentences(told.value.problems)


def broken(path: Path) -> None:
    for file in path.iterdir():
        file.write_bytes(file.read_bytes()[:20])


def emptied(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def of_another_format(path: Path) -> None:
    for file in path.iterdir():
        file.rename(file.with_suffix(".xcf"))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (broken, "none of its images can be read"),
        (emptied, "it is empty"),
        (of_another_format, "it holds 30 .xcf"),
    ],
)
def test_a_class_without_images_is_told_by_name_before_anything_is_trained(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences, harm: Any, why: str
) -> None:
    for others in (("cat", "zebra"), ("cat",)):  # with one other class nothing would be left to tell apart
        data = pictures(room / str(len(others)), *others, "dog")
        harm(room / str(len(others)) / "dog")
        words = ["train", "classifier", "model=mlp_relu", f"data={data}", "--data-dir", str(room / "data")]
        code = main.command(words)
        out, err = capsys.readouterr()
        assert code == USAGE
        assert [(one.code, one.about, one.value) for one in wrong.problems] == [("empty-class", "data", data)]
        assert why in wrong.problems[0].reason
        assert err.splitlines() == wrong.lines
        sentences(wrong.problems)
        assert ("30 .xcf" in out) == (harm is of_another_format), "files that were passed over are counted"
        assert list((room / "runs").iterdir()) == []


def test_weights_that_saw_the_samples_before_are_not_called_tested(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of another run that it began with, and its own of before a change of data or of what is held out."""
    data = pictures(room / "d1", "cat", "dog")
    learned(room, data)
    train(
        "classifier",
        name="child",
        data=data,
        data_dir=room / "data",
        init_from="run",
        evaluate_on="validation",
        **SMALL,
    )
    code, answer, _ = evaluated(room, capsys, "child")
    assert (code, answer["held_out"]) == (0, False)
    assert answer["notes"] == ["the run started from the weights of run, which may have seen these samples"]
    words = {"evaluate_on": "validation", "steps": 4, "allow_changes": True, "data_dir": room / "data"}
    train(resume="run", **words)
    code, answer, _ = evaluated(room, capsys, "run")
    assert (code, answer["held_out"]) == (0, False)
    assert answer["notes"] == ["the run learned from other samples earlier and may have seen these"]
    train(resume="run", steps=5, data_dir=room / "data")
    assert evaluated(room, capsys, "run")[1]["held_out"] is False, "nor later"


def test_all_of_a_folder_that_the_run_never_learned_from_can_be_evaluated(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the run itself held out for validation."""
    learned(room, pictures(room / "d1", "cat", "dog"), evaluate_on="validation")
    others = pictures(room / "d2", "cat", "dog", count=20)
    code, answer, _ = evaluated(room, capsys, "run", f"data={others}", "evaluate_on=all")
    assert (code, answer["samples"], answer["split"], answer["held_out"]) == (0, 40, "all", False)
    assert answer["notes"][0].startswith("the run learned from data=")
    assert evaluated(room, capsys, "run", f"data={others}", "evaluate_on=test")[1]["samples"] == 4
    main.command(["evaluate", "run", f"data={others}", "evaluate_on=all", "--data-dir", str(room / "data")])
    assert "40 samples, all of them" in capsys.readouterr().out


def test_all_of_what_a_run_learned_from_is_refused(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    data = pictures(room / "d1", "cat", "dog")
    learned(room, data)
    code, _, lines = evaluated(room, capsys, "run", "evaluate_on=all")
    assert code == CONFLICT
    refused = wrong.problems
    assert [(one.code, one.about, one.value) for one in refused] == [("learned-from", "evaluate_on", "all")]
    assert lines == wrong.lines
    sentences(refused)
    pictures(room / "d1", "cat", "dog", count=35)  # it has changed since
    code, _, lines = evaluated(room, capsys, "run", "evaluate_on=all")
    assert (code, wrong.problems, lines) == (CONFLICT, refused, wrong.lines)


def test_all_is_a_word_of_evaluate_and_not_of_training(room: Path, wrong: Wrong, sentences: Sentences) -> None:
    assert main.command(["train", "classifier", "evaluate_on=all"]) == USAGE
    assert [(one.about, one.value) for one in wrong.problems] == [("evaluate_on", "all")]
    sentences(wrong.problems)


def test_a_test_folder_is_evaluated_whole_and_never_learned_from(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong
) -> None:
    pictures(room / "pets" / "train", "cat", "dog", count=20)
    pictures(room / "pets" / "test", "cat", "dog", count=7, seed=1)
    learned(room, f"imagefolder:{room / 'pets'}")
    code, answer, _ = evaluated(room, capsys, "run")
    assert (code, answer["samples"], answer["held_out"]) == (0, 14, True)
    facts = json.loads((room / "runs/run/settings.json").read_text())["facts"]
    assert (facts["size"], facts["held_out"]) == (40, 14)
    code, _, _ = evaluated(room, capsys, "run", "evaluate_on=validation")
    assert (code, wrong.kinds) == (CONFLICT, [("learned-from", "evaluate_on")])


def test_images_that_lie_in_both_folders_are_told_and_not_called_held_out(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(room / "pets" / "train", "cat", "dog", count=20)
    pictures(room / "pets" / "test", "cat", "dog", count=7, seed=1)
    for number in range(3):
        shutil.copy(room / f"pets/train/cat/{number}.png", room / f"pets/test/cat/copy{number}.png")
    data = f"imagefolder:{room / 'pets'}"
    train("classifier", name="run", data=data, data_dir=room / "data", progress=True, **SMALL)
    line = "3 images to evaluate on are also training images"
    assert f"troupe: data={data}: {line}" in capsys.readouterr().out
    code, answer, _ = evaluated(room, capsys, "run")
    assert (code, answer["samples"], answer["held_out"], answer["notes"]) == (0, 17, False, [line])


def test_a_validation_folder_beside_a_test_folder_was_never_learned_from(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, (part, count) in enumerate((("train", 20), ("val", 5), ("test", 7))):
        pictures(room / "pets" / part, "cat", "dog", count=count, seed=seed)
    learned(room, f"imagefolder:{room / 'pets'}")
    for part, samples in (("test", 14), ("validation", 10)):
        code, answer, _ = evaluated(room, capsys, "run", f"evaluate_on={part}")
        assert (code, answer["samples"], answer["held_out"]) == (0, samples, True)


def test_too_few_images_for_a_verdict_are_told_with_how_many_it_takes(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    few, many = pictures(room / "few", "cat", count=12), pictures(room / "many", "cat", count=40)
    words = {"image_size": 16, "width": 4, "batch_size": 4, "microbatch_size": 2, "steps": 1}
    train("dcgan", name="run", data=few, data_dir=room / "data", progress=True, **words)
    takes = "of the 16 held-out images that a verdict needs"
    assert f"troupe: the data has 1 {takes}: nothing is evaluated" in capsys.readouterr().out
    code, _, lines = evaluated(room, capsys, "run", f"data={few}")
    assert (code, wrong.kinds) == (USAGE, [("nothing-held-out", "")])
    assert " 1 " in wrong.problems[0].reason
    assert "evaluate_on=all" in wrong.problems[0].hint
    assert lines == wrong.lines
    sentences(wrong.problems)
    again = pictures(room / "again", "cat", count=12, seed=1)
    code, _, lines = evaluated(room, capsys, "run", f"data={again}", "evaluate_on=all")
    assert (code, wrong.kinds) == (USAGE, [("nothing-held-out", "")])
    assert " 12 " in wrong.problems[0].reason
    assert "evaluate_on" not in wrong.problems[0].hint
    assert lines == wrong.lines
    sentences(wrong.problems)
    assert evaluated(room, capsys, "run", f"data={many}", "evaluate_on=all")[0] == 0


def test_a_run_that_prunes_meanwhile_is_evaluated_all_the_same(
    room: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned(room, pictures(room / "d1", "cat", "dog"), keep_checkpoints=1)
    opened = evaluate.open_for

    def then_trained_on(*given: Any) -> Any:
        data = opened(*given)
        train(resume="run", steps=5, data_dir=room / "data")
        return data

    monkeypatch.setattr(evaluate, "open_for", then_trained_on)
    code, answer, _ = evaluated(room, capsys, "run")
    assert code == 0
    assert answer["weights"].endswith("step_00000005")
