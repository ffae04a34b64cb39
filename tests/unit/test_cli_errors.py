"""Commands that cannot be carried out: every mistake at once, a line each, the right exit code, and no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster import checks, cli, launch, leaderboard, prepare_search, train, verbs
from cluster.prepare_search import SearchCommand
from cluster.words import VERBS
from trainers import registry
from trainers.engine import bucket, checkpoint, runfolder
from trainers.engine.errors import CONFLICT, FAILED, SURROUNDINGS, WORDS, TroupeError
from trainers.engine.runfolder import RunFolder


class Told(NamedTuple):
    code: int
    lines: list[str]  # on stderr, without `troupe: `
    out: str


class Command:
    """Runs commands in this process, in a folder of their own, on a machine of two cores without a GPU."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *words: str) -> Told:
        code = cli.command(words)
        out, err = self.capsys.readouterr()
        assert "Traceback" not in out + err
        lines = err.splitlines()
        if code:
            assert out == "" or "--json" in words
            assert lines
            assert all(line.startswith("troupe: ") for line in lines)
            assert "a bug of ours" not in err
        return Told(code, [line.removeprefix("troupe: ") for line in lines], out)

    def run_folder(self, name: str, **settings: Any) -> RunFolder:
        """A run of this name that has made its first steps."""
        words = {**registry.config_class("dcgan").tiny["tiny"], **settings}
        config = registry.config_class("dcgan").of(words)
        settings = {**config.model_dump(), "device": "cpu", "exchange": "exact"}
        told = {"family": "dcgan", "settings": settings, "facts": {}, "data": "x", "versions": {}}
        return runfolder.create(self.folder / "runs", "dcgan", name, lambda folder: folder.write_settings(told))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def started(*_: Any) -> Any:
        raise AssertionError("a run was started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "cores", lambda: 2)
    monkeypatch.setattr(checks, "gpus", lambda: 0)
    monkeypatch.setattr(launch, "open_for", started)
    monkeypatch.setattr(launch, "_here", started)
    monkeypatch.setattr(launch, "_on_ray", started)
    return Command(tmp_path, capsys)


TRAIN = ("train", "dcgan")
HUGE = "99999999999999999999999"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("train", "dcgn"), "dcgn: no such family; did you mean dcgan?; `troupe families` lists them"),
        (("train",), "train: needs a family, as in `troupe train dcgan data=digits`, or --resume NAME"),
        ((*TRAIN, "learning_rat=1"), "learning_rat: no such setting of dcgan; did you mean learning_rate?"),
        ((*TRAIN, "data=digts"), "data=digts: no such data set; did you mean digits?"),
        ((*TRAIN, "data=imagefolder:/no/such"), "data=imagefolder:/no/such: no such folder; give the path of one"),
        ((*TRAIN, "data=imagefolder:~nouserx/pics"),
         "data=imagefolder:~nouserx/pics: no such folder; give the path of one"),
        ((*TRAIN, f"data=imagefolder:{'x' * 300}"),
         f"data=imagefolder:{'x' * 300}: no such folder; give the path of one"),
        ((*TRAIN, "--from", "x" * 300), f"--from {'x' * 300}: neither a run nor a file of weights"),
        ((*TRAIN, "--from", f"{'x' * 300}.safetensors"), f"--from {'x' * 300}.safetensors: no such file"),
        ((*TRAIN, "--from", "~nouserx/run"), "--from ~nouserx/run: neither a run nor a file of weights"),
        ((*TRAIN, "--config", "~nouserx/c.yaml"), "--config ~nouserx/c.yaml: No such file or directory"),
        ((*TRAIN, "--families", "x" * 300), None),
        ((*TRAIN, "--families", "~nouserx/own"), None),
        (("datasets", "--remove", "~nouserx/pics"),
         "--remove ~nouserx/pics: no packed copy of it; `troupe datasets` lists them"),
        ((*TRAIN, "learning_rate=fast"), "learning_rate=fast: is not a number"),
        ((*TRAIN, "steps=1.5"), "steps=1.5: is not a whole number"),
        ((*TRAIN, "beta1=1"), "beta1=1: must be below 1"),
        ((*TRAIN, "learning_rate=0"), "learning_rate=0: must be above 0"),
        ((*TRAIN, "upsample=nearst"), "upsample=nearst: is none of transposed, nearest; did you mean nearest?"),
        ((*TRAIN, "image_size=20"),
         "image_size=20: the networks make images of 16, 32, 64 or 128 pixels; say one of these"),
        ((*TRAIN, "learning_rate=1e-4,1e-3"),
         "learning_rate=1e-4,1e-3: one value is needed here; choices (a,b) and ranges (a..b) are for a search"),
        ((*TRAIN, "microbatch_size=15"),
         "microbatch_size=15: does not divide batch_size=64; say microbatch_size=16"),
        ((*TRAIN, "workers=8"),
         "workers=8: more workers than the 4 micro-batches of a batch (batch_size=64 / microbatch_size=16); "
         "say microbatch_size=8"),
        ((*TRAIN, "workers=0"), "workers=0: must be at least 1"),
        ((*TRAIN, "--name", "../x"),
         "--name ../x: a run's name is letters, digits, '.', '_' and '-', and begins with a letter or digit"),
        ((*TRAIN, "--name="), "--name: is empty; it needs a value, --name NAME"),
        ((*TRAIN, "--name", "dcgan"), "--name dcgan: is the name of a family; take another, as dcgan-first"),
        ((*TRAIN, "--config", "missing.yaml"), "--config missing.yaml: No such file or directory"),
        ((*TRAIN, "--families", "missing"), None),
        ((*TRAIN, "--from", "missing"), "--from missing: neither a run nor a file of weights"),
        ((*TRAIN, "--nam", "x"), "--nam: no such option of train; did you mean --name, or nam=x?"),
        ((*TRAIN, "--batch-size", "4"),
         "--batch-size: no such option of train; settings have no dashes: batch_size=4"),
        (("train", "--batch-size", "4", "dcgan"),
         "--batch-size: no such option of train; settings have no dashes: batch_size=4"),
        ((*TRAIN, "--batch-size=4"), "--batch-size: no such option of train; settings have no dashes: batch_size=4"),
        ((*TRAIN, "--lr", "0.1"), "--lr: no such option of train; settings have no dashes: learning_rate=0.1"),
        ((*TRAIN, f"batch_size={HUGE}"), f"batch_size={HUGE}: must be at most 1000000"),
        ((*TRAIN, "batch_size=999983", "microbatch_size=2"),
         "microbatch_size=2: does not divide batch_size=999983; say microbatch_size=1"),
        ((*TRAIN, f"workers=2..{HUGE}"), f"workers={HUGE}: must be at most 4096"),
        ((*TRAIN, f"workers=2..{'9' * 5000}"), f"workers={'9' * 5000}: is not a finite number"),
        ((*TRAIN, "checkpoint_every=10mins"),
         "checkpoint_every=10mins: mins is no unit of time here; there are s, min and h, as in 10min"),
        (("sample", "x", "--count", HUGE), f"--count {HUGE}: must be a whole number, at most 100000"),
        (("sample", "x", "--count", "9" * 5000), f"--count {'9' * 5000}: must be a whole number, at most 100000"),
        (("sample", "x", "--seed", HUGE), f"--seed {HUGE}: must be a whole number, at most {2**63 - 1}"),
        (("sample", "x", "--top", HUGE), f"--top {HUGE}: must be a whole number, at most 1000"),
        (("logs", "x", "--rank", HUGE), f"--rank {HUGE}: must be a whole number, at most 1000000000"),
        ((*TRAIN, "again"), "again: one name too many"),
        (("tran", "dcgan"), "tran: no such verb; did you mean train?; `troupe --help` lists them"),
        (("verify",), "verify: needs a family, as in `troupe verify dcgan workers=4`"),
        (("verify", "dcgn"), "dcgn: no such family; did you mean dcgan?; `troupe families` lists them"),
        (("sample",), "sample: needs a name, as in `troupe sample dcgan-1 --count 100`"),
        (("sample", "x", "--count", "none"), "--count none: must be a whole number, at least 1"),
        (("sample", "missing"), "missing: no such run in runs"),
        (("sample", "x" * 300), f"{'x' * 300}: no such run in runs"),
        (("export", "missing"), "missing: no such run in runs"),
        (("runs", "--remove"), "--remove: name the runs to remove, as in `troupe runs --remove dcgan-1`"),
        (("runs", "missing"), "missing: no such run in runs"),
        (("datasets", "--remove", "missing"), "--remove missing: no packed copy of it; `troupe datasets` lists them"),
    ],
)  # fmt: skip
def test_wrong_words_are_told_in_one_line_with_code_2(
    command: Command, words: tuple[str, ...], line: str | None
) -> None:
    told = command(*words)
    assert told.code == WORDS
    assert len(told.lines) == 1
    assert line is None or told.lines == [line]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["dcgan", "widht=1,2"], ["widht: no such setting of dcgan; did you mean width?"]),
        (["gan"], ["gan: no such family; did you mean wgan?; `troupe families` lists them"]),
        ([], ["search: needs a family, as in `troupe search wgan_gp n_critic=1,2,5`, or --resume NAME"]),
        (["dcgan", "--trials", "0"], ["--trials 0: must be a whole number, at least 1"]),
        (["dcgan", "--time-budget", "soon"], ["--time-budget soon: must be a number above 0"]),
        (["dcgan", "--trials", HUGE, "--seed", HUGE, "--keep-best", HUGE, "--disk-budget", "1e30"],
         [f"--trials {HUGE}: must be a whole number, at most 100000",
          f"--seed {HUGE}: must be a whole number, at most {2**32 - 1}",
          "--disk-budget 1e30: must be a number above 0, at most 1000000000",
          f"--keep-best {HUGE}: must be a whole number, at most 100000"]),
        (["dcgan", "--scheduler", "ahsa"], ["--scheduler ahsa: is none of fifo, asha, pbt, pb2; did you mean asha?"]),
        (["dcgan", "--metric", "frechet"],
         ["--metric frechet: names no metric of dcgan; did you mean eval_frechet_distance?"]),
        (["dcgan", "width=16,32", "--metric", "eval_recal"],
         ["--metric eval_recal: names no metric of dcgan; did you mean eval_recall?"]),
        (["classifier", "evaluate_every=0"],
         ["classifier with evaluate_every=0 evaluates nothing that trials could be compared by; say --metric, as "
          "--metric loss"]),
        (["dcgan", "--space", "none", "width=16"],
         ["nothing to search: every setting has one value; name choices (n_critic=1,2,5) or a range "
          "(learning_rate=1e-4..1e-2), or use `troupe train`"]),
        (["dcgan", "--algorithm", "grid"],
         ["--algorithm grid: learning_rate is a range; name values for a grid, as learning_rate=a,b,c"]),
        (["dcgan", "--scheduler", "pb2"], ["--scheduler pb2: moves ranges only; beta1 has choices"]),
        (["dcgan", "--scheduler", "pbt", "seed=1,2"],
         ["--scheduler pbt: its trials take over from others, whatever their seed; give one"]),
        (["dcgan", "--scheduler", "pbt", "--max-concurrent", "2"],
         ["--max-concurrent: with --scheduler pbt all trials live at once and take turns"]),
        (["dcgan", "width=8,16", "beta1=0,0.5", "--space", "none", "--algorithm", "grid", "--trials", "3"],
         ["--trials 3: the grid has 4 points; leave one of both out"]),
        (["dcgan", "width=4..2", "steps=x", "--mode", "up"],
         ["--mode up: is none of max, min", "width=4..2: the range is reversed; say 2..4", "steps=x: is not a number"]),
        (["--resume", "nothing"], ["--resume nothing: no such search in runs"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_search_is_told_before_anything_starts(
    command: Command, words: list[str], lines: list[str]
) -> None:
    told = command("search", *words)
    assert told.lines == lines
    assert told.code == WORDS
    assert not (command.folder / "runs").exists() or not any((command.folder / "runs").iterdir())


def test_a_search_that_this_machine_has_no_room_for_is_refused_with_code_3(command: Command) -> None:
    told = command("search", "dcgan", "width=8,16", "workers=3", "--space", "none")
    assert told.code == SURROUNDINGS
    assert told.lines[0].startswith("workers=3: needs 3 CPUs, this machine has 2")
    told = command("search", "dcgan", "width=8,16", "--trials-per-gpu", "2", "--space", "none")
    assert told.code == SURROUNDINGS
    assert told.lines == ["--trials-per-gpu 2: device=cpu has no GPU; leave it out"]


def test_what_is_fixed_from_python_is_fixed_when_the_search_goes_on(command: Command) -> None:
    words = {"widths": (64, 128, 128), "learning_rate": "0.3..4"}
    prepared = prepare_search.prepare(SearchCommand("cifar_speed", words, space="none", runs_dir=command.folder))
    found = leaderboard.Search(command.folder / "s", prepared.told)
    found.path.mkdir()
    found.write()
    again = prepare_search.prepare(SearchCommand(resume="s", runs_dir=command.folder))
    assert again.space.domains == prepared.space.domains
    assert again.config.widths == prepared.config.widths == (64, 128, 128)  # type: ignore[attr-defined]


def test_a_name_in_use_is_refused_for_a_search_too(command: Command) -> None:
    command.run_folder("mine")
    (command.folder / "runs" / "a-search").mkdir()
    (command.folder / "runs" / "a-search" / "search.json").write_text("{}")
    for name, verb in (("mine", "train"), ("a-search", "search")):
        told = command("search", "dcgan", "width=8,16", "--space", "none", "--name", name)
        assert told.code == CONFLICT
        assert told.lines == [
            f"--name {name}: in use; go on with `troupe {verb} --resume {name}`, or take another name"
        ]


def test_every_mistake_of_a_command_is_told_at_once(command: Command) -> None:
    told = command(
        *TRAIN, "learning_rat=1", "steps=many", "beta1=2", "data=digts", "workers=9", "seed=1", "seed=2", "again",
        "--name", "../x", "--resum", "y", "-json", "--from", "nothing",
    )  # fmt: skip
    assert told.code == WORDS
    heads = [line.split(":")[0] for line in told.lines]
    assert sorted(heads) == sorted([
        "learning_rat", "steps=many", "beta1=2", "data=digts", "workers=9", "seed", "again", "--name ../x", "--resum",
        "-json", "--from nothing",
    ])  # fmt: skip


def test_a_name_is_checked_where_the_family_is_wrong_too(command: Command) -> None:
    told = command("train", "dcgn", "--name", "dcgan", "--config", "missing")
    assert told.code == WORDS
    assert [line.split(":")[0] for line in told.lines] == ["--config missing", "dcgn", "--name dcgan"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"steps: [1", "--config broken.yaml: neither YAML nor JSON ("),
        (b"\xff\xfe\x00", "--config broken.yaml: neither YAML nor JSON ("),
        (b"- steps\n- 4\n", "--config broken.yaml: needs lines of the form `setting: value`"),
        (b"", "--config broken.yaml: needs lines of the form `setting: value`"),
        (b"learning_rat: 1\n", "learning_rat: no such setting of dcgan; did you mean learning_rate?"),
        (b"steps: many\n", "steps=many: is not a number"),
        (b"learning_rate: .inf\n", "learning_rate=.inf: is not a number"),
        (b"learning_rate:\n", "learning_rate=none: "),
        (b"learning_rate: {a: 1}\n", "--config broken.yaml: learning_rate: needs one value, or a list of values"),
        (b"data: 7\n", "data=7: "),
    ],
)
def test_a_config_file_that_cannot_be_used_is_told_with_code_2(command: Command, content: bytes, line: str) -> None:
    (command.folder / "broken.yaml").write_bytes(content)
    told = command(*TRAIN, "--config", "broken.yaml")
    assert told.code == WORDS
    assert told.lines[0].startswith(line)
    assert len({told.split(":")[0].split("=")[0] for told in told.lines}) == 1


def test_a_family_in_a_config_file_must_be_one(command: Command) -> None:
    for family in ("7", "dcgn"):
        (command.folder / "c.yaml").write_text(f"family: {family}\n")
        told = command("train", "--config", "c.yaml")
        assert told.code == WORDS
        assert told.lines[0].startswith(f"{family}: no such family")


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
        "target=eval_accuracy:0.9: is looked at when the run is over only (evaluate_every=100, steps=50); say "
        "evaluate_every=5 for more",
        "decay_at=0.5: changes nothing with schedule=one_cycle; it is of step",
        "momentum=0.5: changes nothing with schedule=one_cycle; say cycle_momentum=0.5:0.5",
    ]


def test_beta1_gives_way_to_the_cycle_too(command: Command) -> None:
    told = command("train", "dcgan", "beta1=0.3", "schedule=one_cycle", "--dry-run")
    assert told.out.splitlines()[-1] == (
        "beta1=0.3: changes nothing with schedule=one_cycle; say cycle_momentum=0.3:0.3"
    )


def test_names_that_other_tools_use_are_answered_with_ours(command: Command) -> None:
    told = command("train", "classifier", "lr=0.1", "decay_at=0.3,0.6", "warm_up=5")
    for word in ("resnet20", "vgg16"):
        answer = f"{word}: no such family; did you mean classifier model={word}?; `troupe families` lists them"
        assert command("train", word).lines == [answer]
    assert told.code == WORDS
    assert told.lines == [
        "lr: no such setting of classifier; did you mean learning_rate?",
        "decay_at=0.3,0.6: the parts of a list are separated by colons, as in 0.3:0.6",
        "warm_up=5: must be below 1 (a part of the run, as in 0.3)",
    ]


def test_a_dry_run_draws_the_momentum_where_it_moves(command: Command) -> None:
    for family in ("dcgan", "classifier"):
        words = ("train", family, "steps=50", "schedule=one_cycle", "cycle_momentum=0.9:0.8", "--dry-run", "--json")
        course = json.loads(command(*words).out)["result"]["momentum"]
        assert (course[0], min(course)) == (0.9, pytest.approx(0.8, abs=0.01))
    told = json.loads(command("train", "dcgan", "schedule=cosine", "--dry-run", "--json").out)
    assert "momentum" not in told["result"]


def test_more_workers_than_cpus_are_refused_with_code_3(command: Command) -> None:
    told = command(*TRAIN, "workers=8", "microbatch_size=8")
    assert told.code == SURROUNDINGS
    assert told.lines == [
        "workers=8: needs 8 CPUs, this machine has 2; take fewer workers, or let them share cores with --oversubscribe"
    ]
    assert command(*TRAIN, "workers=8", "microbatch_size=8", "--oversubscribe", "--dry-run").code == 0
    assert command(*TRAIN, "workers=2", "threads_per_worker=2").code == SURROUNDINGS
    assert command(*TRAIN, "workers=2", "--dry-run").code == 0


def test_a_gpu_that_is_not_there_is_told_with_code_3(command: Command) -> None:
    told = command(*TRAIN, "device=cuda")
    assert (told.code, told.lines) == (SURROUNDINGS, ["device=cuda: there is no GPU here; say device=cpu"])


def test_more_workers_than_gpus_are_refused_with_code_3(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "gpus", lambda: 1)
    told = command(*TRAIN, "device=cuda", "workers=2")
    assert told.code == SURROUNDINGS
    assert told.lines == ["workers=2: one GPU each is needed, there are 1; say workers=1"]


def test_a_runs_folder_that_cannot_be_written_is_told_with_code_3(command: Command) -> None:
    (command.folder / "file").write_text("")
    told = command(*TRAIN, "--runs-dir", "file/runs")
    assert told.code == SURROUNDINGS
    assert told.lines == ["--runs-dir file/runs: cannot be written (Not a directory)"]
    told = command(*TRAIN, "--runs-dir", "file")
    assert told.code == SURROUNDINGS
    assert told.lines[0].startswith("--runs-dir file: cannot be written (")


def test_all_that_is_missing_is_told_at_once(command: Command) -> None:
    (command.folder / "file").write_text("")
    told = command(*TRAIN, "device=cuda", "--runs-dir", "file/runs")
    assert told.code == SURROUNDINGS
    assert len(told.lines) == 2


def test_a_name_in_use_is_refused_with_code_4(command: Command) -> None:
    command.run_folder("mine")
    told = command(*TRAIN, "--name", "mine")
    assert told.code == CONFLICT
    assert told.lines == ["--name mine: in use; go on with `troupe train --resume mine`, or take another name"]


def test_wrong_words_are_decided_before_what_is_missing_and_that_before_conflicts(command: Command) -> None:
    command.run_folder("mine")
    (command.folder / "runs" / "broken").mkdir()
    (command.folder / "runs" / "broken" / "settings.json").write_text("{")
    words = (*TRAIN, "--name", "mine")
    assert command(*words, "device=cuda", "steps=many").code == WORDS
    assert command(*words, "device=cuda").code == SURROUNDINGS
    assert command(*words).code == CONFLICT
    assert command("train", "--resume", "broken", "--bogus").code == WORDS
    assert command("train", "--resume", "broken", "--name", "x").code == WORDS
    assert command("train", "--resume", "broken").code == CONFLICT


def test_a_run_that_is_not_there_cannot_go_on(command: Command) -> None:
    command.run_folder("mine")
    told = command("train", "--resume", "mina")
    assert told.code == WORDS
    assert told.lines == ["--resume mina: no such run in runs; did you mean mine?"]


def test_a_run_that_goes_on_keeps_its_name_and_its_family(command: Command) -> None:
    command.run_folder("mine")
    told = command("train", "wgan", "--resume", "mine", "--name", "other", "--from", "mine", "steps=many")
    assert told.code == WORDS
    assert [line.split(":")[0] for line in told.lines[:3]] == ["--name other", "--from mine", "wgan"]
    assert "steps=many: is not a number" in told.lines
    assert command("train", "dcgan", "--resume", "mine", "--dry-run").code == 0


def test_another_recipe_is_refused_with_every_difference_unless_it_is_allowed(command: Command) -> None:
    command.run_folder("mine")
    words = ("train", "--resume", "mine", "learning_rate=1e-3", "beta1=0.9", "keep=7", "workers=2", "steps=9")
    told = command(*words)
    assert told.code == CONFLICT
    assert told.lines == [
        "learning_rate: mine has 0.0002, you said 0.001",
        "beta1: mine has 0.5, you said 0.9",
        "mine was begun with another recipe; --allow-changes goes on all the same",
    ]
    assert command(*words, "--allow-changes", "--dry-run").code == 0


def test_running_settings_and_more_steps_are_no_other_recipe(command: Command) -> None:
    command.run_folder("mine")
    words = ("workers=2", "keep=7", "checkpoint_every=5", "sample_every=5", "log_every=5", "max_restarts=0", "steps=9")
    assert command("train", "--resume", "mine", *words, "--dry-run").code == 0


def test_a_run_cannot_go_back_behind_the_steps_it_has_made(command: Command) -> None:
    folder = command.run_folder("mine")
    checkpoint.save(folder.checkpoints, "step_00000003", {}, {"step": 3})
    told = command("train", "--resume", "mine", "steps=2")
    assert (told.code, told.lines) == (CONFLICT, ["steps=2: mine has made 3 steps already"])
    assert command("train", "--resume", "mine", "steps=3", "--dry-run").code == 0


def test_too_few_steps_are_told_with_what_else_is_another_recipe(command: Command) -> None:
    folder = command.run_folder("mine")
    checkpoint.save(folder.checkpoints, "step_00000003", {}, {"step": 3})
    words = ("train", "--resume", "mine", "steps=2", "learning_rate=1e-3", "beta1=0.9")
    told = command(*words)
    assert told.code == CONFLICT
    assert told.lines == [
        "steps=2: mine has made 3 steps already",
        "learning_rate: mine has 0.0002, you said 0.001",
        "beta1: mine has 0.5, you said 0.9",
        "mine was begun with another recipe; --allow-changes goes on all the same",
    ]
    assert command(*words, "--allow-changes").lines == ["steps=2: mine has made 3 steps already"]


def test_of_many_checkpoints_only_the_newest_whole_one_is_read(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = command.run_folder("mine")
    for step in range(5):
        checkpoint.save(folder.checkpoints, checkpoint.name_of(step), {}, {"step": step})
    (folder.checkpoints / "step_00000004" / "manifest.json").write_text("[]")
    read: list[str] = []
    digest = checkpoint.digest
    monkeypatch.setattr(checkpoint, "digest", lambda path: read.append(path.parent.name) or digest(path))
    assert command("train", "--resume", "mine", "steps=2").lines == ["steps=2: mine has made 3 steps already"]
    assert read == ["step_00000003"]


def test_runs_are_removed_all_or_none(command: Command) -> None:
    command.run_folder("mine")
    told = command("runs", "--remove", "mine", "yours", "theirs")
    assert told.code == WORDS
    assert [line.split(":")[0] for line in told.lines] == ["yours", "theirs"]
    assert (command.folder / "runs" / "mine").is_dir()
    assert command("runs", "--remove", "mine").code == 0
    assert not (command.folder / "runs" / "mine").exists()


def test_only_runs_of_the_runs_folder_are_removed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with a settings.json of its own, as editors write, with folders of that kind here and there."""
    settings = "{}"
    project = command.folder
    own = command.run_folder("mine")
    for folder in (project, project / "app", project / "runs" / "vscode", project / "runs", own.path / "inner"):
        folder.mkdir(exist_ok=True)
        (folder / "settings.json").write_text(settings)
    told = json.loads(own.settings.read_text())
    elsewhere = runfolder.create(project / "other", "dcgan", "theirs", lambda folder: folder.write_settings(told))
    (project / "runs" / "alias").symlink_to(elsewhere.path)
    for name, line in {
        "..": "..: does not lie in runs itself; name a run that does",
        ".": ".: does not lie in runs itself; name a run that does",
        "app": "app: does not lie in runs itself; name a run that does",
        str(project): f"{project}: does not lie in runs itself; name a run that does",
        "mine/..": "mine/..: does not lie in runs itself; name a run that does",
        "mine/inner": "mine/inner: does not lie in runs itself; name a run that does",
        "alias": "alias: does not lie in runs itself; name a run that does",
        str(elsewhere.path): f"{elsewhere.path}: does not lie in runs itself; name a run that does",
        "vscode": "vscode: its settings.json is not that of a run, or damaged; remove it by hand",
    }.items():
        told = command("runs", "--remove", "mine", name)
        assert (told.code, told.lines) == (WORDS, [line])
    assert all((path / "settings.json").exists() for path in (own.path, project / "app", project, elsewhere.path))
    monkeypatch.chdir(project / "runs")
    told = command("runs", "--remove", "..")
    assert (told.code, told.lines) == (WORDS, ["..: does not lie in runs itself; name a run that does"])
    assert (project / "settings.json").exists()
    monkeypatch.chdir(project)
    shutil.rmtree(own.path / "inner")
    assert command("runs", "--remove", "mine", "runs/mine", str(own.path)).code == 0
    assert not own.path.exists()


def test_a_damaged_run_is_removed_where_a_checkpoint_proves_what_it_is(command: Command) -> None:
    damaged = command.run_folder("mine")
    damaged.settings.write_text("{")
    told = command("runs", "--remove", "mine")
    assert (told.code, told.lines) == (
        WORDS, ["mine: its settings.json is not that of a run, or damaged; remove it by hand"]
    )  # fmt: skip
    checkpoint.save(damaged.checkpoints, "step_00000003", {}, {"step": 3})
    assert command("runs", "--remove", "mine").code == 0
    assert not damaged.path.exists()


def test_a_run_that_holds_what_somebody_has_put_there_is_not_removed(command: Command) -> None:
    run = command.run_folder("mine")
    (run.path / "paper").mkdir()
    (run.path / "paper" / "draft.tex").write_text("important")
    for words in (["--dry-run"], []):
        told = command("runs", "--remove", "mine", *words)
        assert told.code == CONFLICT
        assert told.lines == ["mine: holds what troupe has not made (paper/, paper/draft.tex); move that away, or "
                              "remove the folder by hand"]  # fmt: skip
    assert (run.path / "paper" / "draft.tex").read_text() == "important"


def test_a_run_without_a_checkpoint_cannot_be_drawn_from(command: Command) -> None:
    command.run_folder("mine")
    for verb in ("sample", "export"):
        told = command(verb, "mine")
        assert (told.code, told.lines) == (CONFLICT, ["mine: it has no checkpoint that is whole"])
    assert command(*TRAIN, "--from", "mine").lines == ["--from mine: the run has no checkpoint"]


def test_a_list_beside_weights_tells_nothing_of_them(command: Command) -> None:
    Path("weights.pth").write_bytes(b"no weights")
    Path("config.json").write_text("[]")
    Path("manifest.json").write_text("[]")
    (line,) = command(*TRAIN, "--from", "weights.pth", "--dry-run").lines
    assert line.startswith("--from weights.pth: no weights can be read (damaged, or something else)")


def test_a_wrong_address_of_a_bucket_is_told_with_all_other_mistakes(command: Command) -> None:
    told = command(*TRAIN, "stpes=1", "--nope", "--runs-dir", "s3x://b")
    assert told.code == WORDS
    assert [line.split(":")[0] for line in told.lines] == ["--nope", "--runs-dir s3x", "stpes"]


def test_a_dry_run_names_the_folder_that_the_run_gets(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    there = type("Bucket", (), {"names": lambda self: ["dcgan-1", "dcgan-3"]})()
    command.run_folder("dcgan-2")
    monkeypatch.setattr(bucket, "of", lambda runs: there)
    assert "folder: runs/dcgan-4\n" in command(*TRAIN, "--dry-run").out


def test_a_run_of_a_family_of_ones_own_says_which_it_was(command: Command) -> None:
    folder = command.run_folder("mine")
    told = json.loads(folder.settings.read_text())
    folder.write_settings({**told, "family": "painted", "families": ["/my/families"]})
    Path("a.png").write_bytes(b"")
    for words in (("predict", "mine", "a.png"), ("train", "--resume", "mine")):
        assert command(*words).lines == [
            "mine: was begun with a family of one's own, painted; say --families /my/families"
        ]


def test_a_run_whose_weights_are_taken_is_left_as_it_is(command: Command) -> None:
    folder = command.run_folder("mine")
    for step in (1, 2):
        checkpoint.save(folder.checkpoints, checkpoint.name_of(step), {}, {"step": step})
    (folder.checkpoints / "step_00000002" / "state.pt").write_bytes(b"damaged")
    line, _ = command(*TRAIN, "--from", "mine", "--dry-run").lines
    assert line.startswith("--from mine: the weights do not fit generator: ")  # of the one before, which is whole
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step_00000001", "step_00000002"]


def test_a_damaged_run_is_listed_as_such(command: Command) -> None:
    command.run_folder("mine").settings.write_text("{")
    told = command("runs")
    assert told.code == 0
    assert "damaged" in told.out


@pytest.mark.parametrize(
    "content", ['{"settings": {}, "family": "dcgan"}', '{"settings": [], "family": "dcgan", "facts": {}}', "[]", "7"]
)
def test_a_damaged_run_never_hides_the_others(command: Command, content: str) -> None:
    command.run_folder("damaged").settings.write_text(content)
    command.run_folder("good", steps=7)
    rows = json.loads(command("runs", "--json").out)["result"]["runs"]
    assert [(row["name"], row["step"], row["steps"]) for row in rows] == [("damaged", None, None), ("good", 0, 7)]
    told = command("train", "--resume", "damaged")
    assert told.code == CONFLICT
    assert told.lines[0].startswith("runs/damaged/settings.json: damaged (") or "/runs/damaged/" in told.lines[0]


@pytest.mark.parametrize("content", ["[]", '{"step": null}', '{"step": 4, "seconds": "long"}', "{"])
def test_a_damaged_manifest_is_no_reason_to_list_nothing(command: Command, content: str) -> None:
    folder = command.run_folder("mine", steps=7)
    for step in (3, 4):
        checkpoint.save(folder.checkpoints, checkpoint.name_of(step), {}, {"step": step, "seconds": 61})
    (folder.checkpoints / "step_00000004" / "manifest.json").write_text(content)
    (row,) = json.loads(command("runs", "--json").out)["result"]["runs"]
    assert (row["step"], row["steps"], row["seconds"], row["state"]) == (3, 7, 61, "stopped")
    assert "3/7    stopped  1m01s" in command("runs").out


def test_a_family_that_cannot_be_loaded_is_told_in_one_line(command: Command) -> None:
    folder = command.folder / "own" / "broken_family"
    folder.mkdir(parents=True)
    (folder / "training.py").write_text("")
    (folder / "config.py").write_text("import nothing_of_this_name\n")
    told = command("train", "broken_family", "--families", "own", "steps=4")
    assert told.code == WORDS
    (line,) = told.lines
    assert "config.py: ModuleNotFoundError" in line


def test_data_from_outside_that_cannot_be_loaded_is_told_with_the_rest(command: Command) -> None:
    (command.folder / "own" / "data").mkdir(parents=True)
    (command.folder / "own" / "data" / "dots.py").write_text("import nothing_of_this_name\n")
    told = command(*TRAIN, "--families", "own", "steps=many")
    assert told.code == WORDS
    assert any("dots.py" in line for line in told.lines)
    assert any(line.startswith("steps=many") for line in told.lines)


def test_with_json_errors_are_on_stderr_for_people_and_in_the_object_for_programs(command: Command) -> None:
    told = command(*TRAIN, "--json", "steps=many", "seed=-1")
    assert told.lines[0] == "steps=many: is not a number"
    answer = json.loads(told.out)
    assert (answer["exit_code"], answer["result"]) == (WORDS, None)
    assert [error["text"] for error in answer["errors"]] == told.lines
    error = answer["errors"][0]
    assert (error["code"], error["about"], error["value"]) == ("bad-value", "steps", "many")


def test_python_gets_the_same_mistakes_and_the_code(command: Command) -> None:
    with pytest.raises(TroupeError) as caught:
        train("dcgan", steps="many", learning_rat=1, name="../x")
    assert caught.value.code == WORDS
    assert len(caught.value.mistakes) == 3


def test_a_bug_is_told_as_ours_in_one_line_and_debug_shows_where(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*words: Any) -> Any:
        raise ValueError("first line\nsecond line")

    monkeypatch.setitem(verbs.VERBS, "env", broken)
    assert cli.command(["env"]) == FAILED
    assert command.capsys.readouterr().err == (
        "troupe: ValueError: first line (a bug of ours: --debug shows where; please report it with `troupe env`)\n"
    )
    assert cli.command(["env", "--debug"]) == FAILED
    err = command.capsys.readouterr().err
    assert "Traceback" in err
    assert "troupe: ValueError: first line (a bug of ours" in err


def test_debug_shows_where_a_mistake_was_found(command: Command) -> None:
    assert cli.command([*TRAIN, "steps=many", "--debug"]) == WORDS
    err = command.capsys.readouterr().err
    assert "Traceback" in err
    assert "troupe: steps=many: is not a number" in err


def test_a_dry_run_shows_every_setting_and_makes_nothing(command: Command) -> None:
    told = command(*TRAIN, "seed=7", "--dry-run")
    assert told.code == 0
    shown = dict(line.split(" = ") for line in told.out.splitlines() if " = " in line)
    assert set(shown) == set(registry.config_class("dcgan").model_fields)
    assert (shown["seed"], shown["device"], shown["exchange"]) == ("7", "cpu", "exact")
    assert "folder: runs/dcgan-1" in told.out
    assert list(command.folder.iterdir()) == []


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
    recipe, running = told.out.split("Running settings")
    parts = {"recipe": recipe.split("Settings of")[1], "running": running}
    for row in registry.config_class(family).described():
        lines = {line.split(" ")[0]: line for line in parts[row.kind].splitlines() if line}
        assert lines[row.name].split()[1] == row.default
        for part in (row.bounds, row.unit, row.help, row.source):
            assert part in lines[row.name], f"{row.name}: {part}"


def test_help_lists_every_verb_and_every_option(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = command("--help")
    assert told.code == 0
    for name, verb in VERBS.items():
        assert f"  {name} " in told.out
        assert verb.summary in told.out
        text = command(name, "--help").out
        assert verb.example in text
        for option in verb.options:
            assert f"--{option.name}" in text
            assert option.help in text
    assert command().out == told.out


def test_help_for_an_unknown_family_or_verb_is_a_wrong_word(command: Command) -> None:
    assert command("train", "dcgn", "--help").code == WORDS
    assert command("tran", "--help").code == WORDS


def test_the_version_is_told(command: Command) -> None:
    told = command("--version")
    assert told.code == 0
    assert told.out.startswith("troupe ")


LIGHT = """
import sys
from cluster.cli import command
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


def test_the_command_ends_with_its_code_and_one_line_for_each_mistake(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "train", "dcgan", "steps=many", "--bogus"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == WORDS
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "troupe: --bogus: no such option of train; settings have no dashes: bogus=...",
        "troupe: steps=many: is not a number",
    ]


@pytest.mark.parametrize("verb", ["train", "search"])
def test_a_settings_file_that_cannot_be_read_is_all_that_is_told(command: Command, verb: str) -> None:
    """Its family may stand in it: nobody is told that one is missing."""
    (command.folder / "bad.yaml").write_text("a: [")
    for name, why in (("bad.yaml", "neither YAML nor JSON ("), ("none.yaml", "No such file or directory")):
        told = command(verb, "--config", name)
        assert told.code == WORDS
        (line,) = told.lines
        assert line.startswith(f"--config {name}: {why}")


def test_one_process_proves_nothing(command: Command) -> None:
    told = command("verify", "dcgan", "workers=1")
    assert (told.code, told.lines) == (
        WORDS, ["workers=1: there is nothing to compare one process with; say workers=2, or more"],
    )  # fmt: skip
