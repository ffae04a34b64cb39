"""What each verb does, on tiny runs in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentences import Sentences
from tiers import long, slow
from wrong import Wrong

from cluster import load_exported, train
from cluster.cli.main import command
from cluster.inspection.verify import compare
from tests.jobs import OWN_FAMILIES, last_state
from trainers.base.errors import CONFLICT, USAGE, TroupeError
from trainers.families import registry
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint

TINY = (
    "image_size=16",
    "width=4",
    "latent_dim=8",
    "batch_size=8",
    "microbatch_size=2",
    "device=cpu",
    "evaluate_every=0",
)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(path: Path) -> dict[str, Any]:
    return last_state(path)


def test_a_run_leaves_its_pictures_metrics_and_events(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["train", "dcgan", *TINY, "steps=6", "sample_every=2", "log_every=2"]) == 0
    told = capsys.readouterr().out
    run = room / "runs/dcgan-1"
    for part in ("grids/step_00000006.png", "timelapse.gif", "checkpoints/step_00000006"):
        assert f"runs/dcgan-1/{part}" in told
        assert (run / part).exists()
    grid = np.asarray(Image.open(run / "grids/step_00000006.png"))
    assert grid.std() > 1
    assert Image.open(run / "timelapse.gif").n_frames == 4
    assert Image.open(run / "real.png").size == Image.open(run / "grids/step_00000006.png").size
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "generator_loss" in row] == [2, 4, 6]
    assert [row["step"] for row in rows if "watch_diversity" in row] == [2, 4, 6]
    assert rows[-2].keys() >= {"discriminator_loss", "generator_loss", "samples_per_second", "seconds"}
    (events,) = run.glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert b"generator_loss" in content
    assert b"PNG" in content
    assert json.loads((run / "result.json").read_text())["grid"] == "grids/step_00000006.png"


def test_raising_steps_goes_on_with_the_bits_of_one_run(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    assert command(["train", "dcgan", *TINY, "steps=6", "--name", "straight"]) == 0
    assert command(["train", "dcgan", *TINY, "steps=3", "--name", "parts"]) == 0
    capsys.readouterr()
    assert command(["train", "--resume", "parts"]) == 0
    assert "already finished at step 3; increase steps to continue" in capsys.readouterr().out
    assert command(["train", "--resume", "parts", "steps=6"]) == 0
    assert all(d.relative == 0 for d in compare(ended(room / "runs/straight"), ended(room / "runs/parts")))
    assert command(["train", "--resume", "parts", "steps=2"]) == CONFLICT
    assert wrong.kinds == [("bad-value", "steps")]
    sentences(wrong.problems)


def test_other_settings_are_refused_with_each_difference(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    assert command(["train", "dcgan", *TINY, "steps=2"]) == 0
    capsys.readouterr()
    words = ["train", "--resume", "dcgan-1", "steps=4", "learning_rate=1e-3", "seed=5", "keep_checkpoints=1"]
    assert command(words) == CONFLICT
    assert wrong.kinds == [("settings-differ", "learning_rate"), ("settings-differ", "seed"), ("settings-differ", "")]
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)
    assert checkpoint.all_in(room / "runs/dcgan-1/checkpoints")[-1].name == "step_00000002"
    assert command([*words, "--allow-changes"]) == 0
    stored = json.loads((room / "runs/dcgan-1/settings.json").read_text())["settings"]
    assert (stored["learning_rate"], stored["seed"], stored["keep_checkpoints"]) == (1e-3, 5, 1)
    assert len(checkpoint.all_in(room / "runs/dcgan-1/checkpoints")) == 1


def test_a_folder_of_images_that_changed_is_other_data(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    (room / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(random.integers(0, 255, (20, 24, 3), np.uint8)).save(room / f"pictures/{number}.png")
    words = ["--data-dir", "data"]
    assert command(["train", "dcgan", *TINY, "data=imagefolder:pictures", "steps=2", *words]) == 0
    assert command(["train", "--resume", "dcgan-1", "steps=3", *words]) == 0
    Image.fromarray(random.integers(0, 255, (20, 24, 3), np.uint8)).save(room / "pictures/30.png")
    capsys.readouterr()
    assert command(["train", "--resume", "dcgan-1", "steps=4", *words]) == CONFLICT
    assert wrong.kinds == [("data-differ", "data")]
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)
    assert command(["train", "--resume", "dcgan-1", "steps=4", "--allow-changes", *words]) == 0


def test_a_run_can_begin_with_the_weights_of_another(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    assert command(["train", "dcgan", *TINY, "steps=2", "--name", "first"]) == 0
    assert command(["export", "first", "--out", "exported"]) == 0
    assert command(["train", "dcgan", *TINY, "steps=0", "--init-from", "first", "--name", "second"]) == 0
    assert command(["train", "dcgan", *TINY, "steps=0", "--init-from", "exported", "--name", "third"]) == 0
    first, second, third = (ended(room / "runs" / name) for name in ("first", "second", "third"))
    assert all(difference.relative == 0 for difference in compare(first["networks"], second["networks"]))
    averaged = {**first["networks"], **first["ema"]}  # is what an export holds
    assert all(difference.relative == 0 for difference in compare(averaged, third["networks"]))
    shutil.rmtree(room / "runs/first")
    assert command(["train", "--resume", "second", "steps=1"]) == 0
    capsys.readouterr()
    wider = [word for word in TINY if not word.startswith("width")]
    assert (
        command(["train", "dcgan", *wider, "width=8", "steps=1", "--init-from", "third", "--name", "wide"]) == CONFLICT
    )
    assert not (room / "runs/wide").exists()
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [("settings-differ", "--init-from", "third")]
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)
    torch.save({name: torch.zeros(1) for name in ("generator.a", "discriminator.b")}, room / "other.pt")
    assert command(["train", "dcgan", *TINY, "steps=1", "--init-from", "other.pt", "--name", "wide"]) == CONFLICT
    assert not (room / "runs/wide").exists()
    assert wrong.kinds == [("weights-misfit", "--init-from")] * 2
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)


def test_weights_of_another_family_are_refused_before_anything_is_started(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    assert command(["train", "dcgan", *TINY, "steps=0", "--name", "first"]) == 0
    capsys.readouterr()
    for more in ("workers=2", "--dry-run"):
        assert (
            command(["train", "wgan", *TINY, "steps=1", "--init-from", "first", "--name", "second", more]) == CONFLICT
        )
        told = capsys.readouterr()
        assert not told.out
        assert [(one.code, one.about, one.value) for one in wrong.problems] == [
            ("weights-misfit", "--init-from", "first")
        ]
        assert "critic" in wrong.problems[0].reason
        assert told.err.splitlines() == wrong.lines
        sentences(wrong.problems)
    assert not (room / "runs/second").exists()


def test_the_settings_of_the_networks_come_with_the_weights(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["train", "dcgan", *TINY, "steps=0", "upsample=nearest", "--name", "first"]) == 0
    capsys.readouterr()
    words = [word for word in TINY if word.split("=")[0] in ("batch_size", "microbatch_size", "evaluate_every")]
    assert command(["train", "dcgan", *words, "steps=1", "--init-from", "first", "--name", "second"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--init-from" in line]
    assert "width=4" in line
    assert "upsample=nearest" in line
    assert line.endswith("come with its weights")
    assert command(["train", "dcgan", *words, "--init-from", "first", "--dry-run", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["result"]
    assert f"troupe: {expected['warnings'][0]}" == line
    assert expected["settings"]["width"] == 4
    first, second = (RunFolder(room / "runs" / name).read_settings()["settings"] for name in ("first", "second"))
    names = registry.config_class("dcgan").network_settings()
    assert {name: first[name] for name in names} == {name: second[name] for name in names}


def test_weights_that_are_not_finite_are_begun_with_by_nobody(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    assert command(["train", "dcgan", *TINY, "steps=0", "--name", "first"]) == 0
    assert command(["export", "first", "--out", "exported"]) == 0
    weights = load_file(room / "exported/weights.safetensors")
    name = next(name for name in weights if name.startswith("generator") and name.endswith("weight"))
    weights[name][:] = torch.inf
    save_file(weights, room / "exported/weights.safetensors")
    capsys.readouterr()
    assert command(["train", "dcgan", *TINY, "steps=1", "--init-from", "exported", "--name", "second"]) == CONFLICT
    assert wrong.kinds == [("not-finite", "--init-from")]
    assert name in wrong.problems[0].reason
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)
    assert not (room / "runs/second").exists()


def test_a_runs_settings_are_taken_as_a_config(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        command(
            [
                "train",
                "classifier",
                "model=mlp",
                "data=digits",
                "steps=1",
                "image_size=8",
                "evaluate_every=0",
                "--name",
                "first",
            ]
        )
        == 0
    )
    capsys.readouterr()
    config = str(room / "runs/first/settings.json")
    assert command(["train", "--config", config, "seed=3", "--name", "second"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        f"troupe: --config {config}: from a run of classifier; only its settings are used "
        "(not data, facts, from, versions)"
    )
    first, second = (RunFolder(room / "runs" / name).read_settings()["settings"] for name in ("first", "second"))
    assert second == {**first, "seed": 3}


def test_samples_and_exports_come_from_the_newest_checkpoint(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong
) -> None:
    assert command(["train", "dcgan", *TINY, "steps=2", "ema=0.5"]) == 0
    assert command(["sample", "dcgan-1", "--count", "9", "--seed", "3", "--out", "nine.png"]) == 0
    assert command(["sample", "dcgan-1", "--count", "9", "--seed", "4", "--out", "other.png"]) == 0
    assert (room / "nine.png").read_bytes() != (room / "other.png").read_bytes()
    assert command(["export", "dcgan-1"]) == 0
    networks = load_exported("dcgan-1-export")
    state = ended(room / "runs/dcgan-1")
    wanted = {**state["networks"], **state["ema"]}
    for name, weights in wanted.items():
        for key, tensor in networks[name].state_dict().items():
            assert torch.equal(tensor, weights[key])
    assert not networks["generator"].training
    capsys.readouterr()
    assert command(["sample", "dcgan-1", "--count", "0"]) == USAGE
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [("bad-value", "--count", "0")]


def test_a_class_of_a_conditional_run_is_drawn_by_name_or_number(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    assert command(["train", "dcgan", *TINY, "steps=1", "conditional=true"]) == 0
    with Image.open(room / "runs/dcgan-1/grids/step_00000001.png") as grid:
        assert grid.size == (2 * (8 * 18 + 2), 2 * (10 * 18 + 2)), "a row of eight for each digit"
    assert command(["sample", "dcgan-1", "class=7", "--count", "4", "--out", "seven.png"]) == 0
    assert command(["sample", "dcgan-1", "class=3", "--count", "4", "--out", "three.png"]) == 0
    assert (room / "seven.png").read_bytes() != (room / "three.png").read_bytes()
    capsys.readouterr()
    assert command(["sample", "dcgan-1", "class=cat"]) == USAGE
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [("unknown-class", "class", "cat")]
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)


def test_runs_are_listed_with_sizes_and_removed(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    assert command(["runs"]) == 0
    assert "no runs in runs" in capsys.readouterr().out
    for _ in range(2):
        assert command(["train", "dcgan", *TINY, "steps=1"]) == 0
    capsys.readouterr()
    assert command(["runs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["result"]["runs"]
    assert [(row["name"], row["step"], row["steps"], row["state"]) for row in rows] == [
        ("dcgan-1", 1, 1, "finished"),
        ("dcgan-2", 1, 1, "finished"),
    ]
    assert command(["runs", "--remove", "dcgan-1", "dcgan-9"]) == USAGE
    assert wrong.kinds == [("unknown-run", "dcgan-9")]
    sentences(wrong.problems)
    assert (room / "runs/dcgan-1").exists()
    capsys.readouterr()
    assert command(["runs", "--remove", "dcgan-1", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("dcgan-1: would be removed, ")
    assert (room / "runs/dcgan-1").exists()
    assert command(["runs", "--dry-run"]) == USAGE
    assert wrong.kinds == [("missing", "--dry-run")]
    sentences(wrong.problems)
    with RunFolder((room / "runs/dcgan-1").resolve()).driven():
        assert command(["runs", "--remove", "dcgan-1", "--dry-run"]) == CONFLICT
    assert wrong.kinds == [("held", "dcgan-1")]
    sentences(wrong.problems)
    assert command(["runs", "--remove", "dcgan-1"]) == 0
    assert not (room / "runs/dcgan-1").exists()
    assert [path.name for path in (room / "runs").iterdir()] == ["dcgan-2"]


def test_json_is_one_object_and_progress_goes_to_stderr(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["train", "dcgan", *TINY, "steps=1", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["result"]["steps"] == 1
    assert "training 1 step of" in told.err
    assert command(["train", "dcgan", "--dry-run", "--json", "width=7"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["settings"]["width"] == 7


def test_a_config_file_says_settings_and_the_command_line_wins(room: Path) -> None:
    lines = ("family: dcgan", "image_size: 16", "width: 4", "latent_dim: 8", "steps: 1", "seed: 3", "evaluate_every: 0")
    (room / "small.yaml").write_text("\n".join(lines))
    assert command(["train", "--config", "small.yaml", "seed=4"]) == 0
    stored = json.loads((room / "runs/dcgan-1/settings.json").read_text())["settings"]
    assert (stored["width"], stored["seed"]) == (4, 4)


def test_python_says_the_same_words(room: Path, sentences: Sentences) -> None:
    words = dict(word.split("=") for word in TINY)
    result = train("dcgan", steps=2, **words)
    assert result["steps"] == 2
    assert Path(result["grid"]).exists()
    with pytest.raises(TroupeError) as raised:
        train("dcgan", stps=2, width=-1)
    assert raised.value.code == USAGE
    assert [(one.code, one.about) for one in raised.value.problems] == [
        ("unknown-setting", "stps"), ("bad-value", "width"),
    ]  # fmt: skip
    sentences(raised.value.problems)


@pytest.mark.parametrize("size", [16, pytest.param(64, marks=pytest.mark.slow), *long(32, 128)])
@pytest.mark.parametrize("upsample", ["transposed", *slow("nearest")])
def test_dcgan_takes_any_power_of_two(room: Path, size: int, upsample: str) -> None:
    words = [
        f"image_size={size}",
        "width=2",
        "latent_dim=4",
        "batch_size=4",
        "microbatch_size=2",
        "evaluate_every=0",
        f"upsample={upsample}",
    ]
    assert command(["train", "dcgan", *words, "steps=1", "device=cpu"]) == 0
    assert Image.open(room / "runs/dcgan-1/grids/step_00000001.png").size[0] > 8 * size


@pytest.mark.parametrize(
    ("name", "kind"), [("x.jpg", "JPEG"), *slow(("x.PNG", "PNG"), ("x.webp", "WEBP"), ("x", "PNG"))]
)
def test_samples_are_written_as_the_ending_of_their_file_says(room: Path, name: str, kind: str) -> None:
    train("dcgan", name="run", steps=1, **dict(word.split("=") for word in TINY))
    assert command(["sample", "run", "--count", "4", "--out", name]) == 0
    with Image.open(room / name) as picture:
        assert picture.format == kind


def test_samples_are_not_written_over_a_folder(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    train("dcgan", name="run", steps=1, **dict(word.split("=") for word in TINY))
    (room / "pictures").mkdir()
    assert command(["sample", "run", "--out", "pictures"]) == USAGE
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [("bad-value", "--out", "pictures")]
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)


@pytest.mark.parametrize(
    "evaluates", [{}, *slow({"evaluate_every": 100, "num_eval_samples": 100, "features": "pixels"})]
)
def test_a_run_whose_last_step_was_made_before_it_was_the_last_ends_as_one_that_knew(
    room: Path, evaluates: dict[str, Any]
) -> None:
    words = {
        **dict(word.split("=") for word in TINY),
        "sample_every": 100,
        "checkpoint_every": 1,
        "keep_checkpoints": 10,
    } | evaluates
    straight = train("dcgan", name="straight", steps=2, **words)
    train("dcgan", name="run", steps=4, **words)
    (room / "runs/run/result.json").unlink()
    for step in (3, 4):
        shutil.rmtree(room / f"runs/run/checkpoints/step_{step:08d}")
    result = train(resume="run", steps=2, allow_changes=True)
    assert Path(result["grid"]).name == "step_00000002.png"
    assert Path(result["grid"]).read_bytes() == Path(straight["grid"]).read_bytes()
    assert {key: value for key, value in result["metrics"].items() if key.startswith("eval_")} == {
        key: value for key, value in straight["metrics"].items() if key.startswith("eval_")
    }
    rows = [row["step"] for row in RunFolder(room / "runs/run").read_metrics()[0] if any("eval_" in key for key in row)]
    assert rows == ([2] if evaluates else [])


def test_an_ending_that_no_picture_has_is_refused(room: Path, wrong: Wrong, sentences: Sentences) -> None:
    train("dcgan", name="run", steps=1, **dict(word.split("=") for word in TINY))
    for name in ("x.txt", "x.foo"):
        assert command(["sample", "run", "--out", name]) == USAGE
        assert [(one.code, one.about, one.value) for one in wrong.problems] == [("bad-value", "--out", name)]
        sentences(wrong.problems)
        assert not (room / name).exists()


def odd(weights: dict[str, Any], kind: str) -> dict[str, Any]:
    """Weights that fit, of a kind that no network can take."""
    makes = {"sparse tensors": lambda tensor: tensor.to_sparse(), "complex numbers": lambda tensor: tensor.cfloat(),
             "tensors without data": lambda tensor: tensor.to("meta")}  # fmt: skip
    return {key: makes[kind](tensor) if tensor.is_floating_point() else tensor for key, tensor in weights.items()}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize("kind", ["sparse tensors", *slow("complex numbers", "tensors without data")])
def test_weights_that_no_network_can_take_are_told_in_one_line(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences, kind: str
) -> None:
    train("dcgan", name="run", steps=1, **dict(word.split("=") for word in TINY))
    networks = ended(room / "runs/run")["networks"]
    weights = {f"{name}.{key}": tensor for name, part in networks.items() for key, tensor in part.items()}
    torch.save(odd(weights, kind), room / "odd.pt")
    capsys.readouterr()
    assert command(["train", "dcgan", *TINY, "steps=1", "--init-from", "odd.pt", "--name", "other"]) == CONFLICT
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [("no-weights", "--init-from", "odd.pt")]
    assert kind in wrong.problems[0].reason
    assert not (room / "runs/other").exists()
    capsys.readouterr()
    assert command(["evaluate", "dcgan", *TINY[:3], "--weights", "odd.pt"]) == CONFLICT
    assert wrong.kinds == [("no-weights", "odd.pt")]
    assert kind in wrong.problems[0].reason
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)


def test_a_run_of_a_family_of_ones_own_says_where_that_was(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong
) -> None:
    own = ["--families", str(OWN_FAMILIES)]
    assert command(["train", "curve", "steps=2", "batch_size=8", "microbatch_size=2", "--name", "run", *own]) == 0
    assert command(["export", "run", "--out", "exported", *own]) == 0
    capsys.readouterr()
    for words in (["train", "--resume", "run"], ["evaluate", "run"], ["sample", "run"], ["export", "run"]):
        assert command(words) == USAGE
        assert wrong.kinds == [("unknown-family", "run")]
        assert "curve" in wrong.problems[0].reason
        assert str(OWN_FAMILIES) in wrong.problems[0].hint
        assert capsys.readouterr().err.splitlines() == wrong.lines
        assert command([*words, *own]) in (0, USAGE)  # a curve draws no samples
        assert "unknown-family" not in [one.code for one in wrong.problems]
        capsys.readouterr()
    with pytest.raises(TroupeError) as raised:
        load_exported(room / "exported")
    (problem,) = raised.value.problems
    assert (problem.code, problem.about) == ("unknown-family", str(room / "exported"))
    assert "curve" in problem.reason
    assert str(OWN_FAMILIES) in problem.hint


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        (
            '{"mistake": "min"}',
            "the family declares mistake as its main metric, but its evaluation returns eval_error: "
            "no evaluation counts as the best; make both agree",
        ),
        *slow(
            (
                '{"mistake": "min", "error": "min"}',
                "the evaluation returns no eval_mistake: the best is chosen by eval_error",
            )
        ),
    ],
)
def test_a_metric_that_is_declared_under_another_name_is_told_once(
    room: Path, capsys: pytest.CaptureFixture[str], declared: str, line: str
) -> None:
    shutil.copytree(OWN_FAMILIES / "curve", room / "mine/bent")
    shutil.copytree(OWN_FAMILIES / "data", room / "mine/data")
    config = room / "mine/bent/config.py"
    config.write_text(config.read_text().replace('{"error": "min"}', declared))
    words = ["steps=6", "batch_size=8", "microbatch_size=2", "evaluate_every=2", "--families", "mine"]
    assert command(["train", "bent", *words]) == 0
    told = [one for one in capsys.readouterr().out.splitlines() if "mistake" in one]
    assert told == [f"troupe: {line}"]
