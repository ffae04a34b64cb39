"""Commands that cannot be carried out: every mistake at once, a line each, the right exit code, and no traceback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sentences import Sentences
from wrong import Wrong

from cluster import train
from cluster.cli import main, verbs
from cluster.cli.parser import options_of
from cluster.host import hardware
from cluster.ranking import leaderboard
from cluster.requests.models import REQUESTS, SearchRequest
from cluster.searching import prepare_search
from cluster.training import launch_run
from trainers.base.errors import CONFLICT, ENVIRONMENT, FAILED, USAGE, TroupeError
from trainers.base.problems import Problem, sentence
from trainers.families import registry
from trainers.run_folders import bucket, run_folder
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint


class Told(NamedTuple):
    code: int
    problems: Sequence[Problem]
    lines: list[str]  # on stderr, without `troupe: `: where the code is not 0, the sentences of the problems
    out: str

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """The code of each problem, and what it is about."""
        return [(one.code, one.about) for one in self.problems]

    @property
    def values(self) -> list[tuple[str, Any]]:
        """What each problem is about, and the value that was given for it."""
        return [(one.about, one.value) for one in self.problems]


class Command:
    """Runs commands in this process, in a folder of their own, on a machine of two cores without a GPU."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong) -> None:
        self.folder, self.capsys, self.wrong = folder, capsys, wrong

    def __call__(self, *words: str) -> Told:
        code = main.command(words)
        problems = self.wrong.problems
        out, err = self.capsys.readouterr()
        assert "Traceback" not in out + err
        lines = err.splitlines()
        if code:
            assert out == "" or "--json" in words
            assert lines
            assert lines == [f"troupe: {sentence(one)}" for one in problems]
            assert "internal" not in [one.code for one in problems], "a bug of ours"
        return Told(code, problems, [line.removeprefix("troupe: ") for line in lines], out)

    def run_folder(self, name: str, **settings: Any) -> RunFolder:
        """A run of this name that has made its first steps."""
        words = {**registry.config_class("dcgan").tiny["tiny"], **settings}
        config = registry.config_class("dcgan").of(words)
        settings = {**config.model_dump(), "device": "cpu", "grad_sync": "exact"}
        told = {"family": "dcgan", "settings": settings, "facts": {}, "data": "x", "versions": {}}
        return run_folder.create(self.folder / "runs", "dcgan", name, lambda folder: folder.write_settings(told))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def started(*_: Any) -> Any:
        raise AssertionError("a run was started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "cores", lambda: 2)
    monkeypatch.setattr(hardware, "gpus", lambda: 0)
    monkeypatch.setattr(launch_run, "open_for", started)
    monkeypatch.setattr(launch_run, "_run_locally", started)
    monkeypatch.setattr(launch_run, "_on_ray", started)
    return Command(tmp_path, capsys, Wrong(monkeypatch))


def short(text: str) -> str:
    """A text without what repeats in it: `9...` for many digits."""
    return re.sub(r"(.)\1{99,}", r"\1...", text)


def without_why(lines: Sequence[str]) -> list[str]:
    """Sentences without what others say of the reason, which has other words elsewhere."""
    return [line.partition(" (")[0] for line in lines]


TRAIN = ("train", "dcgan")
HUGE = "99999999999999999999999"


WRONG = [
    (("train", "dcgn"), "unknown-family", "dcgn"),
    (("train",), "missing", "train"),
    ((*TRAIN, "learning_rat=1"), "unknown-setting", "learning_rat"),
    ((*TRAIN, "data=digts"), "unknown-data", "data"),
    ((*TRAIN, "data=imagefolder:/no/such"), "missing-folder", "data"),
    ((*TRAIN, "data=imagefolder:~nouserx/pics"), "missing-folder", "data"),
    ((*TRAIN, f"data=imagefolder:{'x' * 300}"), "missing-folder", "data"),
    ((*TRAIN, "--init-from", "x" * 300), "unknown-run", "--init-from"),
    ((*TRAIN, "--init-from", f"{'x' * 300}.safetensors"), "missing-file", "--init-from"),
    ((*TRAIN, "--init-from", "~nouserx/run"), "unknown-run", "--init-from"),
    ((*TRAIN, "--config", "~nouserx/c.yaml"), "not-read", "--config"),
    ((*TRAIN, "--families", "x" * 300), "missing-folder", "--families"),
    ((*TRAIN, "--families", "~nouserx/own"), "missing-folder", "--families"),
    (("datasets", "--remove", "~nouserx/pics"), "unknown-data", "--remove"),
    ((*TRAIN, "learning_rate=fast"), "bad-value", "learning_rate"),
    ((*TRAIN, "steps=1.5"), "bad-value", "steps"),
    ((*TRAIN, "beta1=1"), "bad-value", "beta1"),
    ((*TRAIN, "learning_rate=0"), "bad-value", "learning_rate"),
    ((*TRAIN, "upsample=nearst"), "bad-value", "upsample"),
    ((*TRAIN, "image_size=20"), "bad-value", "image_size"),
    ((*TRAIN, "learning_rate=1e-4,1e-3"), "bad-value", "learning_rate"),
    ((*TRAIN, "microbatch_size=15"), "settings-conflict", "microbatch_size"),
    ((*TRAIN, "workers=8"), "settings-conflict", "workers"),
    ((*TRAIN, "workers=0"), "bad-value", "workers"),
    ((*TRAIN, "--name", "../x"), "bad-name", "--name"),
    ((*TRAIN, "--name="), "missing", "--name"),
    ((*TRAIN, "--name", "dcgan"), "name-in-use", "--name"),
    ((*TRAIN, "--config", "missing.yaml"), "not-read", "--config"),
    ((*TRAIN, "--families", "missing"), "missing-folder", "--families"),
    ((*TRAIN, "--init-from", "missing"), "unknown-run", "--init-from"),
    ((*TRAIN, "--nam", "x"), "unknown-option", "--nam"),
    ((*TRAIN, "--batch-size", "4"), "unknown-option", "--batch-size"),
    (("train", "--batch-size", "4", "dcgan"), "unknown-option", "--batch-size"),
    ((*TRAIN, "--batch-size=4"), "unknown-option", "--batch-size"),
    ((*TRAIN, "--lr", "0.1"), "unknown-option", "--lr"),
    ((*TRAIN, f"batch_size={HUGE}"), "bad-value", "batch_size"),
    ((*TRAIN, "batch_size=999983", "microbatch_size=2"), "settings-conflict", "microbatch_size"),
    ((*TRAIN, f"workers=2..{HUGE}"), "bad-value", "workers"),
    ((*TRAIN, f"workers=2..{'9' * 5000}"), "bad-value", "workers"),
    ((*TRAIN, "checkpoint_every=10mins"), "bad-value", "checkpoint_every"),
    (("sample", "x", "--count", HUGE), "bad-value", "--count"),
    (("sample", "x", "--count", "9" * 5000), "bad-value", "--count"),
    (("sample", "x", "--seed", HUGE), "bad-value", "--seed"),
    (("sample", "x", "--top", HUGE), "bad-value", "--top"),
    (("logs", "x", "--rank", HUGE), "bad-value", "--rank"),
    ((*TRAIN, "again"), "too-many", "again"),
    (("tran", "dcgan"), "unknown-verb", "tran"),
    (("verify",), "missing", "verify"),
    (("verify", "dcgn"), "unknown-family", "dcgn"),
    (("sample",), "missing", "sample"),
    (("sample", "x", "--count", "none"), "bad-value", "--count"),
    (("sample", "missing"), "unknown-run", "missing"),
    (("sample", "x" * 300), "unknown-run", "x" * 300),
    (("export", "missing"), "unknown-run", "missing"),
    (("runs", "--remove"), "missing", "--remove"),
    (("runs", "missing"), "unknown-run", "missing"),
    (("datasets", "--remove", "missing"), "unknown-data", "--remove"),
]


@pytest.mark.parametrize(("words", "code", "about"), WRONG, ids=[short(" ".join(words)) for words, *_ in WRONG])
def test_wrong_words_are_told_in_one_line_with_code_2(
    command: Command, sentences: Sentences, words: tuple[str, ...], code: str, about: str
) -> None:
    told = command(*words)
    assert (told.code, told.kinds) == (USAGE, [(code, about)])
    assert len(told.lines) == 1
    sentences(short(line) for line in told.lines)


WRONG_SEARCHES = [
    (["dcgan", "widht=1,2"], [("unknown-setting", "widht")]),
    (["gan"], [("unknown-family", "gan")]),
    ([], [("missing", "search")]),
    (["dcgan", "--trials", "0"], [("bad-value", "--trials")]),
    (["dcgan", "--time-budget", "soon"], [("bad-value", "--time-budget")]),
    (
        ["dcgan", "--trials", HUGE, "--seed", HUGE, "--keep-best", HUGE, "--disk-budget", "1e30"],
        [
            ("bad-value", "--trials"),
            ("bad-value", "--seed"),
            ("bad-value", "--disk-budget"),
            ("bad-value", "--keep-best"),
        ],
    ),
    (["dcgan", "--space", "none", "width=8,16", "--confirm", "3"], [("too-few-points", "--confirm")]),
    (["dcgan", "--space", "none", "seed=1,2,3", "--confirm", "2"], [("too-few-points", "--confirm")]),
    (["dcgan", "--scheduler", "pbt", "--confirm", "2"], [("settings-conflict", "--confirm")]),
    (
        ["dcgan", "--confirm", "1", "--confirm-seeds", "1"],
        [("bad-value", "--confirm"), ("bad-value", "--confirm-seeds")],
    ),
    (["dcgan", "--confirm-seeds", "4"], [("missing", "--confirm-seeds")]),
    (["dcgan", "--space", "none", "seed=1,2", "--algorithm", "optuna"], [("settings-conflict", "--algorithm")]),
    (["dcgan", "--scheduler", "ahsa"], [("bad-value", "--scheduler")]),
    (["dcgan", "--metric", "frechet"], [("unknown-metric", "--metric")]),
    (["dcgan", "width=16,32", "--metric", "eval_recal"], [("unknown-metric", "--metric")]),
    (["classifier", "evaluate_every=0"], [("evaluates-nothing", "")]),
    (["dcgan", "--space", "none", "width=16"], [("nothing-to-search", "")]),
    (["dcgan", "--algorithm", "grid"], [("settings-conflict", "--algorithm")]),
    (["dcgan", "--scheduler", "pb2"], [("settings-conflict", "--scheduler")]),
    (["dcgan", "--scheduler", "pbt", "seed=1,2"], [("settings-conflict", "--scheduler")]),
    (["dcgan", "--scheduler", "pbt", "--max-concurrent", "2"], [("settings-conflict", "--max-concurrent")]),
    (
        ["dcgan", "width=8,16", "beta1=0,0.5", "--space", "none", "--algorithm", "grid", "--trials", "3"],
        [("settings-conflict", "--trials")],
    ),
    (
        ["dcgan", "width=4..2", "steps=x", "--mode", "up"],
        [("bad-value", "--mode"), ("bad-value", "width"), ("bad-value", "steps")],
    ),
    (["--resume", "nothing"], [("unknown-run", "--resume")]),
]


@pytest.mark.parametrize(
    ("words", "kinds"), WRONG_SEARCHES, ids=[short(" ".join(["search", *words])) for words, *_ in WRONG_SEARCHES]
)
def test_what_is_wrong_with_a_search_is_told_before_anything_starts(
    command: Command, sentences: Sentences, words: list[str], kinds: list[tuple[str, str]]
) -> None:
    told = command("search", *words)
    assert (told.code, told.kinds) == (USAGE, kinds)
    sentences(told.problems)
    assert not (command.folder / "runs").exists() or not any((command.folder / "runs").iterdir())


def test_a_search_that_this_machine_has_no_room_for_is_refused_with_code_3(
    command: Command, sentences: Sentences
) -> None:
    told = command("search", "dcgan", "width=8,16", "microbatch_size=8", "workers=3", "--space", "none")
    assert (told.code, told.kinds) == (ENVIRONMENT, [("no-room", "workers")])
    sentences(told.problems)
    told = command("search", "dcgan", "width=8,16", "--trials-per-gpu", "2", "--space", "none")
    assert (told.code, told.kinds) == (ENVIRONMENT, [("settings-conflict", "--trials-per-gpu")])
    sentences(told.problems)


def test_what_is_fixed_from_python_is_fixed_when_the_search_goes_on(command: Command) -> None:
    words = {"widths": (64, 128, 128), "learning_rate": "0.3..4"}
    prepared = prepare_search.prepare_search(
        SearchRequest(family="cifar_speed", settings=words, space="none", runs=command.folder)
    )
    found = leaderboard.Search(command.folder / "s", prepared.terms)
    found.path.mkdir()
    found.write()
    again = prepare_search.prepare_search(SearchRequest(resume="s", runs=command.folder))
    assert again.space.domains == prepared.space.domains
    assert again.config.widths == prepared.config.widths == (64, 128, 128)  # type: ignore[attr-defined]


def test_a_name_in_use_is_refused_for_a_search_too(command: Command, sentences: Sentences) -> None:
    command.run_folder("mine")
    (command.folder / "runs" / "a-search").mkdir()
    (command.folder / "runs" / "a-search" / "search.json").write_text("{}")
    for name, verb in (("mine", "train"), ("a-search", "search")):
        told = command("search", "dcgan", "width=8,16", "--space", "none", "--name", name)
        assert (told.code, told.kinds, told.values) == (CONFLICT, [("name-in-use", "--name")], [("--name", name)])
        assert f"`troupe {verb} --resume {name}`" in told.problems[0].hint
        sentences(told.problems)


def test_every_mistake_of_a_command_is_told_at_once(command: Command, sentences: Sentences) -> None:
    told = command(
        *TRAIN, "learning_rat=1", "steps=many", "beta1=2", "data=digts", "workers=9", "seed=1", "seed=2", "again",
        "--name", "../x", "--resum", "y", "-json", "--init-from", "nothing",
    )  # fmt: skip
    assert told.code == USAGE
    assert sorted(told.kinds) == sorted([
        ("unknown-setting", "learning_rat"), ("bad-value", "steps"), ("bad-value", "beta1"), ("unknown-data", "data"),
        ("settings-conflict", "workers"), ("said-twice", "seed"), ("too-many", "again"), ("bad-name", "--name"),
        ("unknown-option", "--resum"), ("unknown-option", "-json"), ("unknown-run", "--init-from"),
    ])  # fmt: skip
    sentences(told.problems)


def test_a_name_is_checked_where_the_family_is_wrong_too(command: Command, sentences: Sentences) -> None:
    told = command("train", "dcgn", "--name", "dcgan", "--config", "missing")
    assert told.code == USAGE
    assert told.kinds == [("not-read", "--config"), ("unknown-family", "dcgn"), ("name-in-use", "--name")]
    sentences(told.problems)


@pytest.mark.parametrize(
    ("content", "code", "about"),
    [
        (b"steps: [1", "bad-value", "--config"),
        (b"\xff\xfe\x00", "bad-value", "--config"),
        (b"- steps\n- 4\n", "bad-value", "--config"),
        (b"", "bad-value", "--config"),
        (b"learning_rat: 1\n", "unknown-setting", "learning_rat"),
        (b"steps: many\n", "bad-value", "steps"),
        (b"learning_rate: .inf\n", "bad-value", "learning_rate"),
        (b"learning_rate:\n", "bad-value", "learning_rate"),
        (b"learning_rate: {a: 1}\n", "bad-value", "--config"),
        (b"data: 7\n", "unknown-data", "data"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_told_with_code_2(
    command: Command, sentences: Sentences, content: bytes, code: str, about: str
) -> None:
    (command.folder / "broken.yaml").write_bytes(content)
    told = command(*TRAIN, "--config", "broken.yaml")
    assert (told.code, told.kinds) == (USAGE, [(code, about)])
    whole = about == "--config"  # and no setting in it
    assert not whole or told.problems[0].value == "broken.yaml"
    sentences(without_why(told.lines) if whole else told.lines)


def test_a_family_in_a_config_file_must_be_one(command: Command, sentences: Sentences) -> None:
    for family in ("7", "dcgn"):
        (command.folder / "c.yaml").write_text(f"family: {family}\n")
        told = command("train", "--config", "c.yaml")
        assert (told.code, told.kinds) == (USAGE, [("unknown-family", family)])
        sentences(told.problems)


def test_words_of_the_command_line_win_over_those_of_the_config_file(command: Command) -> None:
    (command.folder / "c.yaml").write_text("family: dcgan\nsteps: 1e3\nseed: 5\nlearning_rate: 0.001\n")
    told = command("train", "--config", "c.yaml", "seed=6", "--dry-run", "--json")
    settings = json.loads(told.out)["result"]["settings"]
    assert (settings["steps"], settings["seed"], settings["learning_rate"]) == (1000, 6, 0.001)


def test_a_config_file_is_read_as_words_are(command: Command) -> None:
    (command.folder / "c.yaml").write_text(
        "family: darknet\nblocks: 1:2:4:6:3\ncycle_momentum: [0.9, 0.8]\nlearning_rate: 1e-3\nepochs: 3\nflip: none\n"
    )
    told = command("train", "--config", "c.yaml", "data=digits", "steps=5", "evaluate_every=1", "--dry-run", "--json")
    settings = json.loads(told.out)["result"]["settings"]
    assert settings["blocks"] == [1, 2, 4, 6, 3]
    assert settings["cycle_momentum"] == [0.9, 0.8]
    assert (settings["learning_rate"], settings["flip"]) == (0.001, "none")
    assert (settings["steps"], settings["epochs"]) == (5, None)  # what is typed wins over the file


def test_settings_that_change_nothing_are_told(command: Command) -> None:
    words = ["train", "classifier", "model=mlp", "steps=50", "--dry-run"]
    told = command(*words, "momentum=0.5", "decay_at=0.5", "target=eval_accuracy:0.9", "evaluate_every=100")
    assert told.code == 0
    assert told.out.splitlines()[-3:] == [
        "target=eval_accuracy:0.9: is checked only at the end of the run (evaluate_every=100, steps=50); use "
        "evaluate_every=5 for more",
        "decay_at=0.5: has no effect with schedule=one_cycle; it is for step",
        "momentum=0.5: has no effect with schedule=one_cycle; use cycle_momentum=0.5:0.5",
    ]


def test_beta1_gives_way_to_the_cycle_too(command: Command) -> None:
    told = command("train", "dcgan", "beta1=0.3", "schedule=one_cycle", "--dry-run")
    assert told.out.splitlines()[-1] == ("beta1=0.3: has no effect with schedule=one_cycle; use cycle_momentum=0.3:0.3")


def test_names_that_other_tools_use_are_answered_with_ours(command: Command, sentences: Sentences) -> None:
    told = command("train", "classifier", "lr=0.1", "decay_at=0.3,0.6", "warmup=5")
    for word in ("resnet20", "vgg16"):
        answer = command("train", word)
        assert answer.kinds == [("unknown-family", word)]
        assert f"classifier model={word}" in answer.problems[0].hint
        sentences(answer.problems)
    assert told.code == USAGE
    assert told.kinds == [("unknown-setting", "lr"), ("bad-value", "decay_at"), ("bad-value", "warmup")]
    assert "learning_rate" in told.problems[0].hint
    sentences(told.problems)


def test_a_dry_run_draws_the_momentum_where_it_moves(command: Command) -> None:
    for family in ("dcgan", "classifier"):
        words = ("train", family, "steps=50", "schedule=one_cycle", "cycle_momentum=0.9:0.8", "--dry-run", "--json")
        course = json.loads(command(*words).out)["result"]["momentum"]
        assert (course[0], min(course)) == (0.9, pytest.approx(0.8, abs=0.01))
    told = json.loads(command("train", "dcgan", "schedule=cosine", "--dry-run", "--json").out)
    assert "momentum" not in told["result"]


def test_more_workers_than_cpus_are_refused_with_code_3(command: Command, sentences: Sentences) -> None:
    told = command(*TRAIN, "workers=8", "microbatch_size=4")
    assert (told.code, told.kinds) == (ENVIRONMENT, [("no-room", "workers")])
    assert "--oversubscribe" in told.problems[0].hint
    sentences(told.problems)
    assert command(*TRAIN, "workers=8", "microbatch_size=4", "--oversubscribe", "--dry-run").code == 0
    assert command(*TRAIN, "workers=2", "threads_per_worker=2").code == ENVIRONMENT
    assert command(*TRAIN, "workers=2", "--dry-run").code == 0


def test_a_gpu_that_is_not_there_is_told_with_code_3(command: Command, sentences: Sentences) -> None:
    told = command(*TRAIN, "device=cuda")
    assert (told.code, told.kinds) == (ENVIRONMENT, [("no-room", "device")])
    sentences(told.problems)


def test_more_workers_than_gpus_are_refused_with_code_3(
    command: Command, sentences: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: 1)
    told = command(*TRAIN, "device=cuda", "workers=2")
    assert (told.code, told.kinds) == (ENVIRONMENT, [("no-room", "workers")])
    assert told.problems[0].hint == "use workers=1"
    sentences(told.problems)


def test_a_runs_folder_that_cannot_be_written_is_told_with_code_3(command: Command, sentences: Sentences) -> None:
    (command.folder / "file").write_text("")
    for runs in ("file/runs", "file"):
        told = command(*TRAIN, "--runs-dir", runs)
        assert (told.code, told.kinds) == (ENVIRONMENT, [("not-written", "--runs-dir")])
        assert told.problems[0].value == runs
        sentences(told.lines if runs == "file/runs" else without_why(told.lines))


def test_all_that_is_missing_is_told_at_once(command: Command) -> None:
    (command.folder / "file").write_text("")
    told = command(*TRAIN, "device=cuda", "--runs-dir", "file/runs")
    assert (told.code, told.kinds) == (ENVIRONMENT, [("no-room", "device"), ("not-written", "--runs-dir")])
    assert len(told.lines) == 2


def test_a_name_in_use_is_refused_with_code_4(command: Command, sentences: Sentences) -> None:
    command.run_folder("mine")
    told = command(*TRAIN, "--name", "mine")
    assert (told.code, told.kinds) == (CONFLICT, [("name-in-use", "--name")])
    sentences(told.problems)


def test_wrong_words_are_decided_before_what_is_missing_and_that_before_conflicts(command: Command) -> None:
    command.run_folder("mine")
    (command.folder / "runs" / "broken").mkdir()
    (command.folder / "runs" / "broken" / "settings.json").write_text("{")
    words = (*TRAIN, "--name", "mine")
    assert command(*words, "device=cuda", "steps=many").code == USAGE
    assert command(*words, "device=cuda").code == ENVIRONMENT
    assert command(*words).code == CONFLICT
    assert command("train", "--resume", "broken", "--bogus").code == USAGE
    assert command("train", "--resume", "broken", "--name", "x").code == USAGE
    assert command("train", "--resume", "broken").code == CONFLICT


def test_a_run_that_is_not_there_cannot_go_on(command: Command, sentences: Sentences) -> None:
    command.run_folder("mine")
    told = command("train", "--resume", "mina")
    assert (told.code, told.kinds, told.values) == (USAGE, [("unknown-run", "--resume")], [("--resume", "mina")])
    assert told.problems[0].hint == "did you mean mine?"
    sentences(told.problems)


def test_a_run_that_goes_on_keeps_its_name_and_its_family(command: Command, sentences: Sentences) -> None:
    command.run_folder("mine")
    told = command("train", "wgan", "--resume", "mine", "--name", "other", "--init-from", "mine", "steps=many")
    assert told.code == USAGE
    assert told.kinds[:3] == [("settings-conflict", about) for about in ("--name", "--init-from", "wgan")]
    assert ("bad-value", "steps") in told.kinds
    sentences(told.problems)
    assert command("train", "dcgan", "--resume", "mine", "--dry-run").code == 0


def test_other_settings_are_refused_with_every_difference_unless_that_is_allowed(
    command: Command, sentences: Sentences
) -> None:
    command.run_folder("mine")
    words = (
        "train",
        "--resume",
        "mine",
        "learning_rate=1e-3",
        "beta1=0.9",
        "keep_checkpoints=7",
        "workers=2",
        "steps=9",
    )
    told = command(*words)
    assert told.code == CONFLICT
    assert told.kinds == [("settings-differ", about) for about in ("learning_rate", "beta1", "")]
    assert [("--allow-changes" in one.hint) for one in told.problems] == [False, False, True]
    sentences(told.problems)
    assert command(*words, "--allow-changes", "--dry-run").code == 0


def test_running_settings_and_more_steps_are_no_difference(command: Command) -> None:
    command.run_folder("mine")
    words = (
        "workers=2",
        "keep_checkpoints=7",
        "checkpoint_every=5",
        "sample_every=5",
        "log_every=5",
        "max_restarts=0",
        "steps=9",
    )
    assert command("train", "--resume", "mine", *words, "--dry-run").code == 0


def test_a_run_cannot_go_back_behind_the_steps_it_has_made(command: Command, sentences: Sentences) -> None:
    folder = command.run_folder("mine")
    checkpoint.save(folder.checkpoints, "step_00000003", {}, {"step": 3})
    told = command("train", "--resume", "mine", "steps=2")
    assert (told.code, told.kinds) == (CONFLICT, [("bad-value", "steps")])
    sentences(told.problems)
    assert command("train", "--resume", "mine", "steps=3", "--dry-run").code == 0


def test_too_few_steps_are_told_with_what_else_differs(command: Command, sentences: Sentences) -> None:
    folder = command.run_folder("mine")
    checkpoint.save(folder.checkpoints, "step_00000003", {}, {"step": 3})
    words = ("train", "--resume", "mine", "steps=2", "learning_rate=1e-3", "beta1=0.9")
    told = command(*words)
    assert told.code == CONFLICT
    steps = ("bad-value", "steps")
    assert told.kinds == [steps, *(("settings-differ", about) for about in ("learning_rate", "beta1", ""))]
    sentences(told.problems)
    told = command(*words, "--allow-changes")
    assert told.kinds == [steps]
    sentences(told.problems)


def test_of_many_checkpoints_only_the_newest_whole_one_is_read(
    command: Command, sentences: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = command.run_folder("mine")
    for step in range(5):
        checkpoint.save(folder.checkpoints, checkpoint.checkpoint_name(step), {}, {"step": step})
    (folder.checkpoints / "step_00000004" / "manifest.json").write_text("[]")
    read: list[str] = []
    digest = checkpoint.digest_of_file
    monkeypatch.setattr(checkpoint, "digest_of_file", lambda path: read.append(path.parent.name) or digest(path))
    told = command("train", "--resume", "mine", "steps=2")
    assert told.kinds == [("bad-value", "steps")]
    sentences(told.problems)  # which say how many steps it has made
    assert read == ["step_00000003"]


def test_runs_are_removed_all_or_none(command: Command, sentences: Sentences) -> None:
    command.run_folder("mine")
    told = command("runs", "--remove", "mine", "yours", "theirs")
    assert (told.code, told.kinds) == (USAGE, [("unknown-run", "yours"), ("unknown-run", "theirs")])
    sentences(told.problems)
    assert (command.folder / "runs" / "mine").is_dir()
    assert command("runs", "--remove", "mine").code == 0
    assert not (command.folder / "runs" / "mine").exists()


def test_only_runs_of_the_runs_folder_are_removed(
    command: Command, sentences: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project with a settings.json of its own, as editors write, with folders of that kind here and there."""
    settings = "{}"
    project = command.folder
    own = command.run_folder("mine")
    for folder in (project, project / "app", project / "runs" / "vscode", project / "runs", own.path / "inner"):
        folder.mkdir(exist_ok=True)
        (folder / "settings.json").write_text(settings)
    told = json.loads(own.settings.read_text())
    elsewhere = run_folder.create(project / "other", "dcgan", "theirs", lambda folder: folder.write_settings(told))
    (project / "runs" / "alias").symlink_to(elsewhere.path)
    outside = ("..", ".", "app", str(project), "mine/..", "mine/inner", "alias", str(elsewhere.path))
    for name in (*outside, "vscode"):
        told = command("runs", "--remove", "mine", name)
        assert (told.code, told.kinds) == (USAGE, [("elsewhere" if name in outside else "not-a-run", name)])
        sentences(told.problems)
    assert all((path / "settings.json").exists() for path in (own.path, project / "app", project, elsewhere.path))
    monkeypatch.chdir(project / "runs")
    told = command("runs", "--remove", "..")
    assert (told.code, told.kinds) == (USAGE, [("elsewhere", "..")])
    sentences(told.problems)
    assert (project / "settings.json").exists()
    monkeypatch.chdir(project)
    shutil.rmtree(own.path / "inner")
    assert command("runs", "--remove", "mine", "runs/mine", str(own.path)).code == 0
    assert not own.path.exists()


def test_a_damaged_run_is_removed_where_a_checkpoint_proves_what_it_is(command: Command, sentences: Sentences) -> None:
    damaged = command.run_folder("mine")
    damaged.settings.write_text("{")
    told = command("runs", "--remove", "mine")
    assert (told.code, told.kinds) == (USAGE, [("not-a-run", "mine")])
    sentences(told.problems)
    checkpoint.save(damaged.checkpoints, "step_00000003", {}, {"step": 3})
    assert command("runs", "--remove", "mine").code == 0
    assert not damaged.path.exists()


def test_a_run_that_holds_what_somebody_has_put_there_is_not_removed(command: Command, sentences: Sentences) -> None:
    run = command.run_folder("mine")
    (run.path / "paper").mkdir()
    (run.path / "paper" / "draft.tex").write_text("important")
    for words in (["--dry-run"], []):
        told = command("runs", "--remove", "mine", *words)
        assert (told.code, told.kinds) == (CONFLICT, [("not-ours", "mine")])
        assert "(paper/, paper/draft.tex)" in told.problems[0].reason
        sentences(told.problems)
    assert (run.path / "paper" / "draft.tex").read_text() == "important"


def test_a_run_without_a_checkpoint_cannot_be_drawn_from(command: Command, sentences: Sentences) -> None:
    command.run_folder("mine")
    for verb in ("sample", "export"):
        told = command(verb, "mine")
        assert (told.code, told.kinds) == (CONFLICT, [("no-checkpoint", "mine")])
        sentences(told.problems)
    told = command(*TRAIN, "--init-from", "mine")
    assert (told.kinds, told.values) == ([("no-checkpoint", "--init-from")], [("--init-from", "mine")])
    sentences(told.problems)


def test_a_list_beside_weights_tells_nothing_of_them(command: Command, sentences: Sentences) -> None:
    Path("weights.pth").write_bytes(b"no weights")
    Path("config.json").write_text("[]")
    Path("manifest.json").write_text("[]")
    told = command(*TRAIN, "--init-from", "weights.pth", "--dry-run")
    assert (told.kinds, told.values) == ([("no-weights", "--init-from")], [("--init-from", "weights.pth")])
    sentences(told.problems)


def test_a_wrong_address_of_a_bucket_is_told_with_all_other_mistakes(command: Command, sentences: Sentences) -> None:
    told = command(*TRAIN, "stpes=1", "--nope", "--runs-dir", "s3x://b")
    assert told.code == USAGE
    assert told.kinds == [("unknown-option", "--nope"), ("bad-value", "--runs-dir"), ("unknown-setting", "stpes")]
    sentences(told.problems)


def test_a_dry_run_names_the_folder_that_the_run_gets(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    there = type("Bucket", (), {"names": lambda self: ["dcgan-1", "dcgan-3"]})()
    command.run_folder("dcgan-2")
    monkeypatch.setattr(bucket, "bucket_for", lambda runs: there)
    assert "folder: runs/dcgan-4\n" in command(*TRAIN, "--dry-run").out


def test_a_run_of_a_family_of_ones_own_says_which_it_was(command: Command, sentences: Sentences) -> None:
    folder = command.run_folder("mine")
    told = json.loads(folder.settings.read_text())
    folder.write_settings({**told, "family": "painted", "families": ["/my/families"]})
    Path("a.png").write_bytes(b"")
    for words in (("predict", "mine", "a.png"), ("train", "--resume", "mine")):
        told_of_it = command(*words)
        assert told_of_it.kinds == [("unknown-family", "mine")]
        assert told_of_it.problems[0].hint == "use --families /my/families"
        sentences(told_of_it.problems)


def test_a_run_whose_weights_are_taken_is_left_as_it_is(command: Command, sentences: Sentences) -> None:
    folder = command.run_folder("mine")
    for step in (1, 2):
        checkpoint.save(folder.checkpoints, checkpoint.checkpoint_name(step), {}, {"step": step})
    (folder.checkpoints / "step_00000002" / "state.pt").write_bytes(b"damaged")
    told = command(*TRAIN, "--init-from", "mine", "--dry-run")
    assert told.kinds == [("weights-misfit", "--init-from")] * 2  # two networks, of the one before, which is whole
    sentences(told.problems)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step_00000001", "step_00000002"]


def test_a_damaged_run_is_listed_as_such(command: Command) -> None:
    command.run_folder("mine").settings.write_text("{")
    told = command("runs")
    assert told.code == 0
    assert "damaged" in told.out


@pytest.mark.parametrize(
    "content", ['{"settings": {}, "family": "dcgan"}', '{"settings": [], "family": "dcgan", "facts": {}}', "[]", "7"]
)
def test_a_damaged_run_never_hides_the_others(command: Command, sentences: Sentences, content: str) -> None:
    command.run_folder("damaged").settings.write_text(content)
    command.run_folder("good", steps=7)
    rows = json.loads(command("runs", "--json").out)["result"]["runs"]
    assert [(row["name"], row["step"], row["steps"]) for row in rows] == [("damaged", None, None), ("good", 0, 7)]
    told = command("train", "--resume", "damaged")
    about = str(command.folder / "runs" / "damaged" / "settings.json")
    assert (told.code, told.kinds) == (CONFLICT, [("damaged", about)])
    sentences(without_why(told.lines))


@pytest.mark.parametrize("content", ["[]", '{"step": null}', '{"step": 4, "seconds": "long"}', "{"])
def test_a_damaged_manifest_is_no_reason_to_list_nothing(command: Command, content: str) -> None:
    folder = command.run_folder("mine", steps=7)
    for step in (3, 4):
        checkpoint.save(folder.checkpoints, checkpoint.checkpoint_name(step), {}, {"step": step, "seconds": 61})
    (folder.checkpoints / "step_00000004" / "manifest.json").write_text(content)
    (row,) = json.loads(command("runs", "--json").out)["result"]["runs"]
    assert (row["step"], row["steps"], row["seconds"], row["state"]) == (3, 7, 61, "stopped")
    assert "3/7    stopped  1m01s" in command("runs").out


def test_a_family_that_cannot_be_loaded_is_told_in_one_line(command: Command, sentences: Sentences) -> None:
    folder = command.folder / "own" / "broken_family"
    folder.mkdir(parents=True)
    (folder / "training.py").write_text("")
    (folder / "config.py").write_text("import nothing_of_this_name\n")
    told = command("train", "broken_family", "--families", "own", "steps=4")
    assert (told.code, told.kinds) == (USAGE, [("own-code", str(folder / "config.py"))])
    assert len(told.lines) == 1
    sentences(told.problems)


def test_data_from_outside_that_cannot_be_loaded_is_told_with_the_rest(command: Command, sentences: Sentences) -> None:
    (command.folder / "own" / "data").mkdir(parents=True)
    (command.folder / "own" / "data" / "dots.py").write_text("import nothing_of_this_name\n")
    told = command(*TRAIN, "--families", "own", "steps=many")
    assert told.code == USAGE
    assert told.kinds == [("bad-value", "steps"), ("own-code", str(command.folder / "own" / "data" / "dots.py"))]
    sentences(told.problems)


def test_with_json_errors_are_on_stderr_for_people_and_in_the_object_for_programs(
    command: Command, sentences: Sentences
) -> None:
    told = command(*TRAIN, "--json", "steps=many", "seed=-1")
    sentences(told.lines)
    answer = json.loads(told.out)
    assert (answer["exit_code"], answer["result"]) == (USAGE, None)
    assert [error["text"] for error in answer["errors"]] == told.lines
    error = answer["errors"][0]
    assert (error["code"], error["about"], error["value"]) == ("bad-value", "steps", "many")


def test_python_gets_the_same_mistakes_and_the_code(command: Command, sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as caught:
        train("dcgan", steps="many", learning_rat=1, name="../x")
    assert caught.value.code == USAGE
    kinds = [("bad-value", "steps"), ("unknown-setting", "learning_rat"), ("bad-name", "--name")]
    assert sorted((one.code, one.about) for one in caught.value.problems) == sorted(kinds)
    sentences(caught.value.problems)


def test_a_bug_is_told_as_ours_in_one_line_and_debug_shows_where(
    command: Command, sentences: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*words: Any) -> Any:
        raise ValueError("first line\nsecond line")

    monkeypatch.setitem(verbs.VERBS, "env", verbs.Verb(broken))
    assert main.command(["env"]) == FAILED
    (problem,) = command.wrong.problems
    assert (problem.code, problem.about) == ("internal", "ValueError")
    line = command.capsys.readouterr().err
    assert line == f"troupe: {sentence(problem)}\n"
    sentences([problem])
    assert main.command(["env", "--debug"]) == FAILED
    err = command.capsys.readouterr().err
    assert "Traceback" in err
    assert line in err


def test_debug_shows_where_a_mistake_was_found(command: Command) -> None:
    assert main.command([*TRAIN, "steps=many", "--debug"]) == USAGE
    err = command.capsys.readouterr().err
    assert "Traceback" in err
    (problem,) = command.wrong.problems
    assert (problem.code, problem.about) == ("bad-value", "steps")
    assert f"troupe: {sentence(problem)}" in err


def test_a_dry_run_shows_every_setting_and_makes_nothing(command: Command) -> None:
    told = command(*TRAIN, "seed=7", "--dry-run")
    assert told.code == 0
    shown = dict(line.split(" = ") for line in told.out.splitlines() if " = " in line)
    assert set(shown) == set(registry.config_class("dcgan").model_fields)
    assert [shown[name].split()[0] for name in ("seed", "device", "grad_sync")] == ["7", "cpu", "exact"]
    assert "folder: runs/dcgan-1" in told.out
    assert list(command.folder.iterdir()) == []


def test_a_dry_run_tells_where_each_setting_is_from_that_is_not_at_its_default(command: Command) -> None:
    (command.folder / "c.yaml").write_text("keep_checkpoints: 5\nlog_every: 7\n")
    words = (*TRAIN, "seed=7", "log_every=10", "--config", "c.yaml", "--dry-run")
    found = json.loads(command(*words, "--json").out)["result"]
    typed = dict.fromkeys([word.split("=")[0] for word in TRAIN[2:]], "command line")
    machine = dict.fromkeys(("device", "grad_sync"), "this machine")
    expected = {
        **machine,
        **typed,
        "seed": "command line",
        "log_every": "command line",
        "keep_checkpoints": "config file",
    }
    assert {name: found["origins"].get(name) for name in expected} == expected
    rest = {name: origin for name, origin in found["origins"].items() if name not in expected}
    assert rest.pop("evaluate_every") == "data"
    assert set(rest.values()) == {"family"}
    assert not {"patience", "worker_timeout", "latent_dim"} & found["origins"].keys()
    text = command(*words).out
    assert re.search(r"^keep_checkpoints = 5 +\(config file\)$", text, re.MULTILINE)
    assert "\npatience = 5\n" in text


def test_a_config_file_without_settings_is_no_family(command: Command) -> None:
    (command.folder / "c.yaml").write_text("{}\n")
    told = command("train", "--config", "c.yaml")
    assert (told.code, told.kinds) == (USAGE, [("missing", "train")])


def test_a_dry_run_of_verify_shows_the_small_config(command: Command) -> None:
    told = command("verify", "dcgan", "seed=7", "--dry-run", "--json")
    assert told.code == 0
    assert json.loads(told.out)["result"]["settings"]["seed"] == 7
    assert list(command.folder.iterdir()) == []


@pytest.mark.parametrize("family", sorted(registry.families()))
def test_help_shows_every_setting_with_default_bounds_unit_kind_and_source(
    command: Command, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    told = command("train", family, "--help")
    assert told.code == 0
    lines = {line.split(" ")[0]: line for line in told.out.split("Settings of")[1].splitlines() if line}
    for row in registry.config_class(family).described():
        marked = ["*"] if row.kind == "running" else []
        assert lines[row.name].split()[1 : 2 + len(marked)] == [*marked, row.default]
        for part in (row.bounds, row.unit, row.help, row.source):
            assert part in lines[row.name], f"{row.name}: {part}"


def test_help_lists_every_verb_and_every_option(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = command("--help")
    assert told.code == 0
    for name, verb in REQUESTS.items():
        assert f"  {name} " in told.out
        assert verb.summary in told.out
        text = command(name, "--help").out
        assert verb.example in text
        for option in options_of(name):
            assert f"--{option.name}" in text
            assert option.help in text
    assert command().out == told.out


def test_help_for_an_unknown_family_or_verb_is_a_wrong_word(command: Command) -> None:
    told = command("train", "dcgn", "--help")
    assert (told.code, told.kinds) == (USAGE, [("unknown-family", "dcgn")])
    told = command("tran", "--help")
    assert (told.code, told.kinds) == (USAGE, [("unknown-verb", "tran")])


def test_the_version_is_told(command: Command) -> None:
    told = command("--version")
    assert told.code == 0
    assert told.out.startswith("troupe ")


LIGHT = """
import sys
from cluster.cli.main import command
wrong = [["train", "dcgan", "learning_rat=1", "data=digts"], ["train", "dcgn"], ["verify", "dcgan", "steps=many"],
         ["sample", "nothing"], ["export", "nothing"], ["runs", "nothing"], ["train", "dcgan", "--name", "../x"]]
assert [command(words) for words in wrong] == [2] * len(wrong)
assert command(["train", "dcgan", "--help"]) == 0
heavy = [name for name in ("torch", "ray", "torchvision", "tensorboardX", "safetensors") if name in sys.modules]
assert not heavy, heavy
"""


def test_wrong_words_are_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_ends_with_its_code_and_one_line_for_each_mistake(tmp_path: Path, sentences: Sentences) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "troupe", "train", "dcgan", "steps=many", "--bogus"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == USAGE
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(":")[:2] for line in lines] == [["troupe", " --bogus"], ["troupe", " steps=many"]]
    sentences(lines)


@pytest.mark.parametrize("verb", ["train", "search"])
def test_a_settings_file_that_cannot_be_read_is_all_that_is_told(
    command: Command, sentences: Sentences, verb: str
) -> None:
    """Its family may stand in it: nobody is told that one is missing."""
    (command.folder / "bad.yaml").write_text("a: [")
    for name, code in (("bad.yaml", "bad-value"), ("none.yaml", "not-read")):
        told = command(verb, "--config", name)
        assert (told.code, told.kinds, told.values) == (USAGE, [(code, "--config")], [("--config", name)])
        sentences(without_why(told.lines))


def test_one_process_proves_nothing(command: Command, sentences: Sentences) -> None:
    told = command("verify", "dcgan", "workers=1")
    assert (told.code, told.kinds) == (USAGE, [("bad-value", "workers")])
    sentences(told.problems)
