"""Pictures, curves, films, event files and the progress line fail, each in ways of its own: the run does not."""

from __future__ import annotations

import builtins
import errno
import os
import pkgutil
import re
import resource
import signal
import subprocess
import sys
from asyncio import CancelledError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import assert_same_state, leftovers, metrics
from sentences import Sentences
from tiers import slow
from wrong import Wrong

from cluster.cli import main
from trainers.base.errors import ENDS, ENVIRONMENT
from trainers.base.problems import sentence
from trainers.base.timeouts import WAITS
from trainers.drawing import decoration, event_file, plots
from trainers.run_folders.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
RUN = ("train", "dcgan", "data=digits", "image_size=16", "width=8", "latent_dim=16", "batch_size=16",
       "microbatch_size=4", "steps=4", "log_every=1", "evaluate_every=2", "sample_every=2",
       "num_eval_samples=100", "device=cpu")  # fmt: skip
PARTS = ("steps", "metrics", "best", "verdict", "checkpoint", "worry", "restarts")
INLINE = "module://matplotlib_inline.backend_inline"  # of a notebook, whose library is in no other environment


class Panic(BaseException):
    """As code in Rust raises it."""


class Unprintable(OSError):
    """An error that cannot be shown either."""

    @property
    def strerror(self) -> str:  # type: ignore[override]
        raise ZeroDivisionError

    def __str__(self) -> str:
        raise SystemExit(3)


Break = Callable[[pytest.MonkeyPatch], None]


def raising(where: str, error: BaseException, when: Callable[..., bool] = lambda *_, **__: True) -> Break:
    """Lets a function raise an error, always or where its arguments are such."""

    def broken(patched: pytest.MonkeyPatch) -> None:
        before = pkgutil.resolve_name(where)

        def called(*arguments: Any, **words: Any) -> Any:
            if when(*arguments, **words):
                raise error
            return before(*arguments, **words)

        patched.setattr(where, called)

    return broken


def not_there(*modules: str) -> Break:
    """Lets imports of modules fail."""

    def broken(patched: pytest.MonkeyPatch) -> None:
        patched.delitem(sys.modules, "trainers.drawing.event_file", raising=False)
        for module in modules:
            patched.setitem(sys.modules, module, None)

    return broken


def full(ending: str) -> Break:
    """Lets no file be written whose name has this in it."""

    def broken(patched: pytest.MonkeyPatch) -> None:
        def opened(path: Any, mode: str = "r", *arguments: Any, **words: Any) -> Any:
            if ending in str(path) and "r" not in mode:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return before(path, mode, *arguments, **words)

        before = builtins.open
        patched.setattr(builtins, "open", opened)

    return broken


BROKEN: dict[str, tuple[Break, set[str]]] = {  # how, and what the run is then without
    "matplotlib": (not_there("matplotlib"), {"curves.png", "verdict.png", "copies.png"}),
    "its canvas": (raising("matplotlib.backends.backend_agg.FigureCanvasAgg.draw", RuntimeError("no canvas")),
                   {"curves.png", "verdict.png", "copies.png"}),
    "curves": (raising("trainers.drawing.plots.write_curves", MemoryError()), {"curves.png"}),
    "the family's pictures": (raising("trainers.families.adversarial.judging.draw_verdict", ZeroDivisionError("by")),
                              {"verdict.png", "copies.png"}),
    "a picture's file": (full(".verdict.png."), {"verdict.png"}),
    "Pillow": (raising("PIL.Image.Image.save", SystemError("no encoder")),
               {"curves.png", "verdict.png", "copies.png", "real.png", "grids", "timelapse.gif"}),
    "grids": (raising("trainers.drawing.pictures.grid", RecursionError("deep")),
              {"real.png", "grids", "timelapse.gif"}),
    "the timelapse": (raising("PIL.Image.Image.save", OSError("no GIF"), lambda *_, format, **__: format == "GIF"),
                      {"timelapse.gif"}),
    "tensorboardX": (not_there("tensorboardX"), {"events"}),
    "the event file": (full("events.out"), {"events"}),
    "an event": (raising("tensorboardX.summary.scalar", TypeError("no scalar")), set()),
    "a picture that exits": (raising("trainers.drawing.plots.write_curves", SystemExit(0)), {"curves.png"}),
    "a panic": (raising("trainers.drawing.pictures.grid", Panic("index out of bounds")),
                {"real.png", "grids", "timelapse.gif"}),
    "an error that cannot be shown": (raising("trainers.families.adversarial.judging.draw_verdict", Unprintable()),
                                      {"verdict.png", "copies.png"}),
    "the progress line": (raising("cluster.terminal.progress.describe", KeyError("step")), set()),
}  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run in which nothing fails."""
    room = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(room)
        assert main.command([*RUN, "--name", "run"]) == 0
    return room / "runs" / "run", RunFolder(room / "runs" / "run").read_result()


def without_place(line: str) -> str:
    """A line without that of this file through which an error came."""
    return re.sub(r" \(line \d+ of test_decoration.py\)", "", line)


def there(run: Path) -> set[str]:
    """What a run has to show."""
    found = {path.name for path in run.iterdir() if path.suffix in (".png", ".gif")}
    found |= {"grids"} if any((run / "grids").iterdir()) else set()
    return found | ({"events"} if [*run.glob("events.out*")] else set())


FIRST = ("Pillow", "a picture that exits", "the event file", "the progress line")


@pytest.mark.parametrize("what", [*FIRST, *slow(*(what for what in BROKEN if what not in FIRST))])
def test_a_run_is_whole_without_whatever_shows_it(
    what: str, straight: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], sentences: Sentences,
) -> None:  # fmt: skip
    whole, expected = straight
    broken, lost = BROKEN[what]
    monkeypatch.chdir(tmp_path)
    broken(monkeypatch)
    monkeypatch.setattr(WAITS, "plain_line", 0.0)
    assert main.command([*RUN, "--name", "run"]) == 0
    monkeypatch.undo()
    out, err = capsys.readouterr()
    run = tmp_path / "runs" / "run"
    told = [line for line in out.splitlines() if "cannot be made" in line]
    assert len(told) == 1, out
    assert (err, "Traceback" in out) == ("", False)
    sentences(without_place(line) for line in told)
    result = RunFolder(run).read_result()
    assert {name: result[name] for name in PARTS if name in result} == {
        name: expected[name] for name in PARTS if name in expected
    }
    assert result["not_made"] == ([] if what == "the progress line" else [told[0].removeprefix("troupe: ")])
    assert {*result["pictures"], *filter(None, [result["timelapse"]])} <= there(run)
    assert there(run) == there(whole) - lost
    assert metrics(run) == metrics(whole)
    assert_same_state(run, whole)
    assert leftovers(run) == []


@pytest.mark.parametrize("end", ENDS)
def test_what_asks_for_an_end_is_no_failure_of_a_decoration(end: type[BaseException]) -> None:
    said: list[str] = []
    with pytest.raises(end), decoration.Decorations(said.append).making("curves.png"):
        raise end
    assert said == []


class Unnamed:
    def __repr__(self) -> str:
        raise Panic


@pytest.mark.parametrize(
    "failure",
    [
        SystemExit(),
        SystemExit(Unnamed()),
        Panic("deep"),
        Unprintable(),
        OSError(5, Unnamed()),
        CancelledError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_anything_else_is_one(failure: BaseException, sentences: Sentences) -> None:
    said: list[str] = []
    with decoration.Decorations(said.append).making("curves.png"):
        raise failure
    sentences(without_place(line) for line in said)
    assert len(said) == 1


@pytest.mark.parametrize("end", [SystemExit, TimeoutError])
def test_what_a_signal_handler_raises_is_no_failure_of_a_decoration(end: type[BaseException]) -> None:
    """As of a program that sets a time limit for a call."""

    class Limit:
        def over(self, *_: object) -> None:
            raise end

    said: list[str] = []
    before = signal.signal(signal.SIGUSR1, Limit().over)
    try:
        with pytest.raises(end), decoration.Decorations(said.append).making("the progress line"):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert said == []


def test_a_full_disk_still_ends_a_run_where_a_number_or_a_checkpoint_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong
) -> None:
    monkeypatch.chdir(tmp_path)
    full("metrics.jsonl")(monkeypatch)
    assert main.command([*RUN, "--name", "run"]) == ENVIRONMENT
    assert [problem.code for problem in wrong.problems] == ["no-space"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    raising("trainers.storage.checkpoint.save", OSError(errno.ENOSPC, "full"))(monkeypatch)
    assert main.command([*RUN, "--name", "other"]) == ENVIRONMENT
    assert [problem.code for problem in wrong.problems] == ["no-space"]


@pytest.mark.parametrize(
    "error", [MemoryError(), *slow(RuntimeError("no canvas"), OSError("broken data stream"), SystemExit(0))]
)
def test_evaluate_says_that_its_pictures_cannot_be_made(
    error: BaseException, straight: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    wrong: Wrong, sentences: Sentences,
) -> None:  # fmt: skip
    monkeypatch.chdir(straight[0].parents[1])
    raising("trainers.families.adversarial.judging.draw_pairs", error)(monkeypatch)
    assert main.command(["evaluate", "run", "--out", str(tmp_path / "seen")]) == ENVIRONMENT
    (problem,) = wrong.problems
    assert (problem.code, problem.about, problem.value) == ("not-made", "--out", str(tmp_path / "seen"))
    sentences([without_place(sentence(problem))])


DRAWN = """if True:
    import locale, os, pathlib, sys
    before = dict(os.environ), locale.setlocale(locale.LC_ALL)
    from trainers.drawing import decoration, plots
    with decoration.matplotlib_of_ours():
        plots.write_curves(pathlib.Path(sys.argv[1]), [{"step": step, "loss": 2.0 / step} for step in (1, 2, 3)])
    assert (dict(os.environ), locale.setlocale(locale.LC_ALL)) == before
    import matplotlib
    assert "open" not in vars(matplotlib)
    print(dict.__getitem__(matplotlib.rcParams, "font.size"))
"""


@pytest.mark.parametrize(
    ("variables", "settings", "size"),
    [({"MPLBACKEND": INLINE}, b"font.size: 30\n", "10.0"),
     *slow(({}, b"\xff\xfe\x00", "10.0"), ({}, b"font.size: 30\nbackend: nope\nnot a line\n", "30.0"),
           ({"MPLBACKEND": "nonsense"}, b"", "10.0"),
           ({"LC_ALL": "xx_YY"}, b"axes.formatter.use_locale: True\n", "10.0"))],
)  # fmt: skip
def test_no_setting_of_its_user_is_in_the_way_of_matplotlib_or_changes_a_picture(
    variables: dict[str, str], settings: bytes, size: str, tmp_path: Path
) -> None:
    """And what its user has set stays, where it can be."""
    (tmp_path / "matplotlibrc").write_bytes(settings)
    done = subprocess.run(
        [sys.executable, "-c", DRAWN, "theirs.png"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{size}\n", "")
    with decoration.matplotlib_of_ours():
        plots.write_curves(tmp_path / "ours.png", [{"step": step, "loss": 2.0 / step} for step in (1, 2, 3)])
    assert (tmp_path / "theirs.png").read_bytes() == (tmp_path / "ours.png").read_bytes()


def test_what_a_caller_has_set_for_matplotlib_changes_no_picture_and_stays(tmp_path: Path) -> None:
    import matplotlib

    rows = [{"step": step, "loss": 2.0 / step, "eval_accuracy": step / 4} for step in (1, 2, 3)]
    with decoration.matplotlib_of_ours():
        plots.write_curves(tmp_path / "plain.png", rows)
    theirs = {"font.size": 30.0, "text.usetex": True, "axes.facecolor": "black", "lines.linewidth": 9.0,
              "figure.autolayout": True, "path.sketch": (1, 100, 2), "axes.formatter.use_locale": True}  # fmt: skip
    with matplotlib.rc_context():
        matplotlib.rcParams.update(theirs)
        before = {name: dict.__getitem__(matplotlib.rcParams, name) for name in matplotlib.rcParams}
        with decoration.matplotlib_of_ours():
            plots.write_curves(tmp_path / "mine.png", rows)
        with pytest.raises(ZeroDivisionError), decoration.matplotlib_of_ours():
            raise ZeroDivisionError
        assert {name: dict.__getitem__(matplotlib.rcParams, name) for name in matplotlib.rcParams} == before
    assert (tmp_path / "mine.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_half_an_event_hides_none_that_follows(tmp_path: Path) -> None:
    file = event_file.EventFile(tmp_path, 0)
    file.scalars({"loss": 1.0}, 1)
    whole = file.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 7, limits[1]))
    try:
        with pytest.raises(OSError):
            file.scalars({"loss": 2.0}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.path.read_bytes() == whole
