"""Whatever a command says fits its terminal: every verb at 60, 80 and 200 columns, wide characters counted as two."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from PIL import Image
from tiers import long, slow

from cluster.terminal.tables import columns_of
from tests.commands import DCGAN
from tests.searches import make_search
from tests.terminals import LINES, on_terminal
from trainers.run_folders import run_folder

WIDTHS = (60, 80, 200)
CLASSES = ("猫の名前はまだないのである", "собака", "a-name-that-is-as-long-as-somebody-wanted-it-to-be")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs and searches of all kinds, and images of classes in several scripts."""
    room = tmp_path_factory.mktemp("room")
    make_search(room / "runs", "search", trials=12)
    told = {"family": "classifier", "facts": {}, "versions": {},
            "settings": {"steps": 4, "data": f"imagefolder:/somewhere/{CLASSES[0]}/{'x' * 70}"}}  # fmt: skip
    for name in ("y" * 100, "short"):
        run = run_folder.create(room / "runs", "classifier", name, lambda folder: folder.write_settings(told))
        run.note_restart("worker lost", "worker 1 died (killed, or out of memory, process 12345), " * 3)
    (room / "runs" / "damaged").mkdir()
    (room / "runs" / "damaged" / "settings.json").write_text("{")
    for place, name in enumerate(CLASSES):
        (room / "images" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (16, 16), 40 * place + number).save(room / "images" / name / f"{number}.png")
    assert on_terminal(room, 80, "train", *DCGAN, "steps=2", "workers=1", "--name", "made").code == 0
    return room


def fits(room: Path, columns: int, *words: str, code: int = 0, **variables: str) -> str:
    """What is seen of a command, none of whose lines is longer than its terminal."""
    seen = on_terminal(room, columns, *words, **variables)
    assert seen.code == code, seen
    assert seen.longest <= columns, max(seen.lines, key=columns_of)
    assert seen.strange == []
    return seen.text


SAID = [
    ("--help",), ("train", "dcgan", "--help"), ("search", "--help"), ("report", "--help"), ("submit", "--help"),
    ("families",), ("datasets",), ("env",), ("runs",), ("runs", "search"), ("check", "dcgan"),
    ("train", "classifier", "model=mlp", "schedule=cosine", "--dry-run"), ("verify", "dcgan", "--dry-run"),
    ("sample", "made"), ("export", "made", "--out", "an/export"), ("report", "search"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "columns"),
    [*product(SAID, WIDTHS), (("evaluate", "made"), WIDTHS[0]), *slow(*product([("evaluate", "made")], WIDTHS[1:]))],
    ids=lambda value: value if isinstance(value, int) else " ".join(value),
)
def test_what_a_command_says_fits(room: Path, words: tuple[str, ...], columns: int) -> None:
    fits(room, columns, *words)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    ("words", "code"),
    [(("train", "classifier", "model=mlpp", "data=nothing", "learning_rat=1", f"--{CLASSES[0]}"), 2),
     (("runs", f"{CLASSES[0] * 8}"), 2), (("stop", "made"), 4), (("logs", "made", "--rank", "7"), 2),
     (("jobs",), 2), (("submit", "train", "dcgan"), 2), (("train", "--resume", "damaged"), 4)],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_what_is_wrong_fits(room: Path, words: tuple[str, ...], code: int, columns: int) -> None:
    fits(room, columns, *words, code=code)


@pytest.mark.parametrize("columns", [WIDTHS[0], *slow(*WIDTHS[1:])])
def test_a_run_from_its_first_line_to_its_last_fits_and_its_end_is_seen_without_scrolling(
    room: Path, columns: int
) -> None:
    words = ("train", "classifier", "model=mlp", "data=imagefolder:images", "batch_size=8", "microbatch_size=2",
             "steps=60", "evaluate_every=20", "workers=1")  # fmt: skip
    text = fits(room, columns, *words)
    assert "猫" in text
    last = text.replace("\r\n", "\n").rstrip().split("\n")[-LINES:]
    assert any("eval_accuracy" in line for line in last)
    assert any("60 steps in" in line for line in last)
    assert any("step" in line and "/60" in line for line in text.split("\r"))


def test_a_dumb_terminal_is_sent_plain_lines(room: Path) -> None:
    words = ("train", *DCGAN, "steps=4", "log_every=1", "workers=1")
    assert "\x1b" in on_terminal(room, 60, *words).text, "another one renews its line"
    text = fits(room, 60, *words, TERM="dumb")
    assert "\x1b" not in text
    assert "\r" not in text.replace("\r\n", "\n")


@pytest.mark.parametrize("words", [("runs",), ("train", "dcgan", "--help")], ids=" ".join)
def test_there_are_no_colours_to_be_turned_off(room: Path, words: tuple[str, ...]) -> None:
    """NO_COLOR changes nothing, and neither does asking for colours."""
    plain = fits(room, 80, *words)
    assert fits(room, 80, *words, NO_COLOR="1") == fits(room, 80, *words, FORCE_COLOR="1") == plain


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("columns", [WIDTHS[0], *long(*WIDTHS[1:])])
def test_a_search_fits_and_its_best_is_seen_without_scrolling(room: Path, columns: int) -> None:
    words = ("search", *DCGAN, "learning_rate=1e-4,2e-4", "steps=2", "--space", "none", "--metric",
             "discriminator_loss", "log_every=1")  # fmt: skip
    assert "learning_rate" in fits(room, columns, *words, "--dry-run")
    text = fits(room, columns, *words, "--name", f"tried-{columns}")
    last = " ".join(text.split("\r\n")[-LINES:])
    (best,) = [trial for trial in json.loads((room / "runs" / f"tried-{columns}" / "search.json").read_text())["trials"]
               if f"best            tried-{columns}/{trial['number']:04d}, discriminator_loss" in last]  # fmt: skip
    assert best["value"] is not None
