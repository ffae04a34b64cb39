"""Who may write to a run: one process at a time, and none any more from whom the run was taken over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sentences import Sentences

from trainers.base.errors import CONFLICT, TroupeError
from trainers.base.timeouts import WAITS
from trainers.run_folders.run_locks import Writer, is_held

pytestmark = pytest.mark.timeout(60)

OLD = """
import sys
from pathlib import Path
from trainers.base.errors import TroupeError
from trainers.run_folders.run_locks import Writer

folder = Path(sys.argv[1])
writer = Writer(folder, "mine")
with writer.holding(0):
    for line in sys.stdin:  # print one line, or stay in the middle of a write
        try:
            with writer.writing():
                (folder / "rows").open("a").write("old\\n")
                print("written", flush=True)
                if line == "stay\\n":
                    sys.stdin.readline()
        except TroupeError as error:
            print(*(one.code for one in error.problems), flush=True)
print("left", flush=True)
"""


class Old:
    """A process that writes to a run when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def told(self, word: str) -> str:
        self.tell(word)
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Old]:
    writer = Old(tmp_path)
    assert writer.told("write") == "written"
    yield writer
    writer.process.kill()
    writer.process.communicate()


def test_who_has_lost_a_run_cannot_write_to_it_any_more(tmp_path: Path, old: Old) -> None:
    new = Writer(tmp_path, "mine")
    with new.holding(patience=0.1):
        with new.writing():
            (tmp_path / "rows").write_text("new\n")
        assert old.told("write") == "taken-over"
        assert (tmp_path / "rows").read_text() == "new\n"
        out, _ = old.process.communicate(timeout=10)
        assert out == "left\n"
        assert is_held(tmp_path), "the old one gives back what is its own, and no more"
        with new.writing():
            pass
    assert not is_held(tmp_path)


def test_a_run_is_not_taken_over_in_the_middle_of_a_write(
    tmp_path: Path, old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert old.told("stay") == "written"
    monkeypatch.setattr(WAITS, "write_before", 0.3)
    with pytest.raises(TroupeError) as caught, Writer(tmp_path, "mine").holding(patience=0.1):
        pass
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about) for one in caught.value.problems] == [("held", "mine")]
    assert caught.value.problems[0].hint
    old.tell("")  # that write is at its end
    monkeypatch.setattr(WAITS, "write_before", 10)
    with Writer(tmp_path, "mine").holding(patience=0.1):
        assert old.told("write") == "taken-over"


def test_who_has_let_go_of_a_run_cannot_write_to_it(tmp_path: Path, sentences: Sentences) -> None:
    writer = Writer(tmp_path, "mine")
    with writer.holding(patience=0):
        pass
    with pytest.raises(TroupeError) as caught, writer.writing():
        pass
    assert [(one.code, one.about) for one in caught.value.problems] == [("taken-over", "mine")]
    sentences(caught.value.problems)
