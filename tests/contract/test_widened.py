"""What the contract carries besides image classifiers and GANs: texts, pairs, pictures that are learned, judges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sentences import Sentences
from torch import Tensor, nn
from wrong import Wrong

from cluster import train
from cluster.backend.process_pool import LocalGroup
from cluster.cli import main
from cluster.inspection import export
from tests.jobs import OWN_FAMILIES, last_state, plan_of, trained
from trainers.base.errors import FAILED, USAGE, Stopped, TroupeError
from trainers.contract.streams import Columns, InOrder, Shuffled, SideBySide
from trainers.distributed.ddp import Ddp
from trainers.distributed.process_group import World
from trainers.engine.control import Control
from trainers.families import registry
from trainers.run import run
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint
from trainers.storage.tensors import read_weights

OWN = ["--families", str(OWN_FAMILIES)]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and lines on stderr."""
    capsys.readouterr()
    code = main.command([*words, *OWN])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def tiny(family: str, **changes: Any) -> dict[str, Any]:
    return train(family, name="run", families=[OWN_FAMILIES],
                 **{**registry.config_class(family, (OWN_FAMILIES,)).tiny["tiny"], **changes})  # fmt: skip


# Streams


def test_columns_of_a_text_go_on_where_the_batch_before_ended() -> None:
    text = torch.arange(50)
    stream = Columns(text, columns=4, window=3)  # columns of 12 words, of which 3 windows have a next word each
    assert (stream.length, stream.windows) == (12, 3)
    first, second = stream.at(range(4)), stream.at(range(4, 8))
    assert first.tensors["words"][:, 0].tolist() == [0, 12, 24, 36]
    assert torch.equal(first.tensors["next"], first.tensors["words"] + 1)
    assert torch.equal(second.tensors["words"], first.tensors["words"] + 3)
    assert first.tensors["begins"].all()
    assert not second.tensors["begins"].any()
    again = stream.at(range(12, 16))
    assert torch.equal(again.tensors["words"], first.tensors["words"])
    assert (list(first.epochs), list(again.epochs)) == ([0] * 4, [1] * 4)
    parts = [stream.at(range(start, start + 2)).tensors["words"] for start in (4, 6)]
    assert torch.equal(torch.cat(parts), second.tensors["words"]), "cut into micro-batches it is the same"


def test_streams_side_by_side_know_nothing_of_each_other() -> None:
    a = Shuffled(lambda indices: {"x": torch.tensor(indices)}, 5, seed=0)
    b = Shuffled(lambda indices: {"x": torch.tensor(indices)}, 3, seed=1)
    both = SideBySide(a=a, b=b)
    drawn = both.at(range(15))
    assert both.length == 5
    for name, own, size in (("a_x", a, 5), ("b_x", b, 3)):
        assert drawn.tensors[name].tolist() == own.at(range(15)).tensors["x"].tolist()
        for start in range(0, 15, size):
            assert sorted(drawn.tensors[name][start : start + size].tolist()) == list(range(size))


def test_bare_places_are_for_what_is_made_of_noise_alone() -> None:
    drawn = InOrder(10).at(range(8, 12))
    assert (drawn.tensors, list(drawn.indices), list(drawn.epochs)) == ({}, [8, 9, 0, 1], [0, 0, 1, 1])


# A text


def test_a_text_is_learned_sampled_and_told_its_perplexity(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tiny("words", steps=150, sample_every=50, evaluate_every=50)
    assert result["metrics"]["eval_perplexity"] == pytest.approx(math.exp(result["metrics"]["eval_loss"]))
    assert result["metrics"]["eval_perplexity"] < 5, "a blind guess has 10"
    texts = sorted((room / "runs/run/grids").iterdir())
    assert [path.name for path in texts] == [f"step_{step:08d}.txt" for step in (0, 50, 100, 150)]
    assert texts[-1].read_text().startswith("--- 1\nthe ")
    assert result["timelapse"] is None
    assert not (room / "runs/run/real.png").exists()

    code, _, _ = said(capsys, "sample", "run", "prompt=a river", "length=3", "temperature=0.1", "--count", "2")
    assert code == 0
    lines = (room / "run-samples.txt").read_text().splitlines()
    assert lines[0::2] == ["--- 1", "--- 2"]
    assert all(len(line.split()) == 5 and line.startswith("a river ") for line in lines[1::2])


def test_what_is_asked_for_is_typed_and_all_mistakes_are_told(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    tiny("words", steps=1)
    code, _, lines = said(capsys, "sample", "run", "temperature=0", "promt=x", "count=3")
    assert code == USAGE
    assert wrong.kinds == [("unknown-setting", "count"), ("bad-value", "temperature"), ("unknown-setting", "promt")]
    assert lines == wrong.lines
    sentences(wrong.problems)


@pytest.mark.parametrize(
    ("family", "data", "advice"),
    [("words", "digits", "poem"), ("dcgan", "poem", "digits, imagefolder, "), ("pairs", "digits", "data=A+A"),
     ("dcgan", "digits+noise", "digits, imagefolder, ")],
)  # fmt: skip
def test_data_of_the_wrong_kind_is_told_before_anything_starts(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences, family: str, data: str,
    advice: str,
) -> None:  # fmt: skip
    code, _, lines = said(capsys, "train", family, f"data={data}")
    assert code == USAGE
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [("data-kind", "data", data)]
    assert advice in wrong.problems[0].hint
    assert lines == wrong.lines
    sentences(wrong.problems)
    assert not (room / "runs").exists()


def test_epochs_and_speed_count_what_is_drawn(room: Path) -> None:
    """The made-up family draws four batches in its first step and three... as its config says."""
    kind = registry.config_class("everything", (OWN_FAMILIES,))
    config = kind.of({"epochs": 1, "batch_size": 100, "microbatch_size": 50})
    steps = config.finalize({"size": 9000, "held_out": 0}).steps
    drawn = [config.batches_per_step(step) * 100 for step in range(steps)]
    assert sum(drawn) >= 9000 > sum(drawn[:-1])
    assert steps < 90
    text = registry.config_class("words", (OWN_FAMILIES,)).of({"epochs": 2, "batch_size": 8, "microbatch_size": 2})
    assert text.finalize({"size": 800, "held_out": 200}).steps == 2 * ((800 // 8 - 1) // 5)


# Others


def test_two_unpaired_sets_are_translated(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tiny("pairs", steps=30, evaluate_every=30)
    assert 0 < result["metrics"]["eval_cycle"] < 2
    pool = last_state(room / "runs/run")["carried"][0]["pool"]
    assert pool.abs().sum() > 0
    code, _, _ = said(capsys, "sample", "run", "--count", "9", "columns=9")
    assert code == 0
    with Image.open("run-samples.png") as sheet:
        assert sheet.width > 5 * sheet.height, "the columns that were asked for"


def test_pictures_are_painted_and_the_grid_shows_them(room: Path) -> None:
    result = tiny("painted", steps=12, log_every=1, sample_every=12)
    rows = [json.loads(line) for line in (room / "runs/run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["paint_loss"] < 0.05 * rows[0]["paint_loss"]
    state = last_state(room / "runs/run")
    assert set(state["apart"]["paint"]) == set(state["carried"]) == {0, 1, 2, 3}
    assert Path(result["grid"]).name == "step_00000012.png"
    begun, ended = ((room / f"runs/run/grids/step_{step:08d}.png").read_bytes() for step in (0, 12))
    assert begun != ended


def test_pictures_are_dreamt_octave_after_octave(room: Path) -> None:
    tiny("dream", steps=12, log_every=1, sample_every=6)
    rows = [json.loads(line) for line in (room / "runs/run/metrics.jsonl").read_text().splitlines()]
    for octave, steps in ((0, rows[:6]), (1, rows[6:])):
        climbed = [row[f"octave_{octave}_loss"] for row in steps]
        assert climbed[-1] < climbed[0] < 0
    state = last_state(room / "runs/run")
    assert [tensor.shape[-1] for tensor in state["carried"][3].values()] == [11, 16]
    assert set(state["apart"]) == {"octave_0", "octave_1"}
    grids = [path.read_bytes() for path in sorted((room / "runs/run/grids").iterdir())]
    assert len(set(grids)) == 3, "what each octave added is seen"


def test_features_of_a_frozen_network_are_computed_once_and_learned_from(room: Path) -> None:
    result = tiny("cached", data="digits", steps=150, batch_size=64, microbatch_size=32, features=64)
    assert result["metrics"]["eval_accuracy"] > 0.3, "a blind guess has 0.1"
    state = last_state(room / "runs/run")
    assert set(state["networks"]) == {"head"}
    assert {name: tuple(tensor.shape) for name, tensor in state["kept"].items()} == {
        "train": (9000, 64), "held_out": (1000, 64),
    }  # fmt: skip


@pytest.mark.slow
def test_sentences_are_translated_word_by_word(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tiny("translator", steps=500, hidden=32)
    assert result["metrics"]["eval_exact"] > 0.5, "of numbers that it never saw, all words right"
    code, _, _ = said(capsys, "sample", "run", "text=1 7", "--count", "1")
    assert code == 0
    assert (room / "run-samples.txt").read_text().splitlines()[1] == "seventeen"


def test_a_curve_is_fitted_to_points_without_end_until_it_is_good_enough(room: Path) -> None:
    result = tiny("curve", steps=2000, evaluate_every=20, target="eval_error:0.001", batch_size=64, microbatch_size=32)
    assert result["steps"] < 1000
    assert result["metrics"]["eval_error"] <= 0.001
    found = last_state(room / "runs/run")["networks"]["polynomial"]["coefficients"]
    assert found.tolist() == pytest.approx([0.9, 0.5, 3.0, 2.4], abs=0.3)


def test_a_judge_is_in_no_checkpoint_and_what_it_computed_is_kept(room: Path) -> None:
    result = tiny("judged", steps=40, evaluate_every=20)
    state = last_state(room / "runs/run")
    assert set(state["networks"]) == {"generator", "critic"}
    assert {name: tensor.dtype for name, tensor in state["kept"].items()} == {
        "mean": torch.float64, "covariance": torch.float64,
    }  # fmt: skip
    assert result["metrics"]["eval_frechet_distance"] > 0
    again = train(resume="run", steps=60, families=[OWN_FAMILIES])
    kept = last_state(room / "runs/run")["kept"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in state["kept"].items())
    assert again["best"]["metric"] == "eval_frechet_distance"


def test_an_export_holds_what_the_run_kept(room: Path) -> None:
    tiny("judged", steps=1)
    said_code = main.command(["export", "run", "--out", "out", *OWN])
    assert said_code == 0
    networks = export.load_exported(room / "out", [OWN_FAMILIES])
    assert set(networks) == {"generator", "critic", "judge"}
    state = last_state(room / "runs/run")
    assert torch.equal(read_weights(room / "out")["kept"]["mean"], state["kept"]["mean"])
    before = torch.get_rng_state()
    export.load_exported(room / "out", [OWN_FAMILIES])
    assert torch.equal(torch.get_rng_state(), before), "nobody's random numbers are moved"


def test_a_text_that_is_too_short_is_told(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    code, _, lines = said(capsys, "train", "words", "batch_size=512", "microbatch_size=256")
    assert code == USAGE
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [("data-misfit", "data", "poem")]
    assert lines == wrong.lines
    sentences(wrong.problems)


# Who watches, and what goes on


def test_every_row_is_reported_in_order_and_a_stop_after_an_evaluation_is_at_that_step(
    tmp_path: Path, sentences: Sentences
) -> None:
    plan = plan_of("classifier", "mlp_bn", tmp_path / "run", steps=9, log_every=2, evaluate_every=3)
    for part in ("checkpoints", "grids", "logs"):
        (tmp_path / "run" / part).mkdir(parents=True)
    reported: list[tuple[int, str]] = []
    control = Control()

    def report(step: int, row: Any) -> None:
        reported.append((step, "eval" if "eval_accuracy" in row else "train"))
        control.stop_requested |= (step, reported[-1][1]) == (6, "eval")

    control.report = report
    with pytest.raises(Stopped) as stopped:
        run(plan, World(), control)
    assert [(one.code, one.about) for one in stopped.value.problems] == [("stopped", "run")]
    sentences(stopped.value.problems)
    assert reported == [(2, "train"), (3, "eval"), (4, "train"), (6, "train"), (6, "eval")]
    assert checkpoint.all_in(tmp_path / "run" / "checkpoints")[-1].name == "step_00000006"


def test_a_checkpoint_is_cloned_into_another_run_which_goes_on_from_it(pool: LocalGroup, tmp_path: Path) -> None:
    plan = plan_of("dcgan", "tiny", tmp_path / "one", steps=4, checkpoint_every=2)
    state = trained(pool, plan, 2)
    other = plan_of("dcgan", "tiny", tmp_path / "two", steps=4, checkpoint_every=2)
    folder = RunFolder(other.folder)
    folder.checkpoints.mkdir(parents=True)
    copy = checkpoint.clone(RunFolder(plan.folder).checkpoints / "step_00000002", folder.checkpoints)
    assert checkpoint.damage_of(copy) is None
    again = trained(pool, other, 1)
    for name, network in state["networks"].items():
        assert all(torch.equal(tensor, again["networks"][name][key]) for key, tensor in network.items())


class Forked(nn.Module):
    """Leaves one of two weights out, as a micro-batch has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))])

    def forward(self, which: int, row: Tensor) -> Tensor:
        return (self.weights[which] * row).sum()


def no_requests() -> tuple[bool, ...]:
    """A worker that asks for neither a stop nor a checkpoint."""
    return False, False


def gradients_of_a_fork(world: World, choices: tuple[int, ...]) -> list[list[float]]:
    """Gradients that ddp leaves, where micro-batch i takes weight `choices[i]`; in two phases in a row."""
    network = Forked()
    grad_sync = Ddp(world, 4, {"net": network})
    parameters = list(network.parameters())
    found = []
    for taken in (choices, (0, 1, 0, 1)):
        networks = grad_sync.callables(("net",))

        def loss(index: int, taken: tuple[int, ...] = taken, networks: Any = networks) -> Tensor:
            value: Tensor = networks["net"](taken[index], torch.full((3,), index + 1.0))
            return value

        rows = {index: torch.ones(1, dtype=torch.float64) for index in grad_sync.share}
        grad_sync.reduce_gradients(parameters, lambda index: (loss(index), False), rows, no_requests, False, False)
        found.append([float(parameter.grad[0]) for parameter in parameters])  # type: ignore[index]
    grad_sync.close()
    return found


def test_ddp_is_right_where_a_micro_batch_leaves_a_parameter_out(pool: LocalGroup) -> None:
    told = pool.run(gradients_of_a_fork, (0, 1, 0, 1), workers=2)
    assert told[0] == told[1] == [[1.0, 1.5], [1.0, 1.5]]


def two_phases_of_one_optimizer(world: World) -> list[float]:
    """An optimizer of two networks, both learned in one phase and one alone in the next."""
    nets = {"one": nn.Linear(1, 1, bias=False), "two": nn.Linear(1, 1, bias=False)}
    grad_sync = Ddp(world, 2, nets)
    parameters = [parameter for net in nets.values() for parameter in net.parameters()]
    for names in (("one", "two"), ("one",), ("one", "two")):
        for name, net in nets.items():
            net.requires_grad_(name in names)
        networks = grad_sync.callables(names)

        def loss(index: int, networks: Any = networks) -> Tensor:
            value: Tensor = sum(networks[name](torch.ones(1, 1)).sum() for name in ("one", "two"))
            return value

        rows = {index: torch.ones(1, dtype=torch.float64) for index in grad_sync.share}
        grad_sync.reduce_gradients(parameters, lambda index: (loss(index), False), rows, no_requests, False, False)
        if names == ("one",):
            found = [float(parameter.grad) for parameter in parameters]  # type: ignore[arg-type]
    grad_sync.close()
    return found


def test_ddp_knows_which_parameters_a_phase_learns(pool: LocalGroup) -> None:
    assert pool.run(two_phases_of_one_optimizer, workers=2) == [[1.0, 0.0]] * 2


def forked_later(world: World) -> TroupeError | None:
    """Every micro-batch uses both weights at first, and one later."""
    network = nn.Module()
    network.both = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))])
    network.forward = lambda both: (network.both[0] + (network.both[1] if both else 0)).sum()  # type: ignore[method-assign]
    grad_sync = Ddp(world, 2, {"net": network})
    parameters = list(network.parameters())
    for both in (True, False):
        networks = grad_sync.callables(("net",))
        try:
            grad_sync.accumulate_gradients(
                parameters, lambda index, both=both, networks=networks: networks["net"](both), False
            )
        except TroupeError as error:
            return error
    return None


@pytest.mark.slow
def test_where_a_parameter_is_left_out_later_ddp_is_refused(fresh_pool: LocalGroup, sentences: Sentences) -> None:
    for error in fresh_pool.run(forked_later, workers=2):
        assert error.code == FAILED
        (problem,) = error.problems
        assert (problem.code, problem.about, problem.value) == ("exchange-misfit", "grad_sync", "ddp")
        sentences([problem])
