"""Locks on files, and whatever a file system answers that gives none: a line that says what it is, and no waiting."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest
from sentences import Sentences

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.data import imagefolder
from trainers.run_folders.run_locks import Writer, hold, is_held
from trainers.storage.file_locks import Lock, LockHeld

ANSWERS = ("ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EIO", "EACCES", "EPERM", "ESTALE", "EBADF", "EROFS",
           "ENOTCONN", "ETIMEDOUT")  # fmt: skip


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A file system that answers this to whoever wants a lock."""
    code: int = getattr(errno, request.param)

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return code


@pytest.mark.parametrize("answer", ANSWERS, indirect=True)
def test_a_file_system_that_locks_nothing_is_told_at_once(answer: int, tmp_path: Path) -> None:
    began = time.monotonic()
    for held in (hold(tmp_path, "mine", "run", patience=5), Writer(tmp_path, "mine").holding(patience=5)):
        with pytest.raises(TroupeError) as caught, held:
            pass
        assert caught.value.code == ENVIRONMENT
        assert [problem.code for problem in caught.value.problems] == ["not-written"]
        assert os.strerror(answer) in caught.value.problems[0].reason
        assert "lock" in caught.value.problems[0].reason
    with pytest.raises(TroupeError) as caught:
        imagefolder.remove_packed_folder(tmp_path / "packed")
    assert caught.value.code == ENVIRONMENT
    assert time.monotonic() - began < 1
    assert not is_held(tmp_path)


@pytest.mark.parametrize("answer", ["ENOLCK"], indirect=True)
def test_what_is_told_of_it(answer: int, tmp_path: Path, sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as caught, hold(tmp_path, "mine", "run"):
        pass
    sentences(caught.value.problems)


def test_a_lock_is_had_by_one_at_a_time_and_waited_for(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock", patience=0.1)
    with first:
        began = time.monotonic()
        with pytest.raises(LockHeld):
            second.acquire()
        assert 0.1 <= time.monotonic() - began < 2
        second.release()  # which it does not have: the first one keeps its own
        with pytest.raises(LockHeld):
            second.acquire()
    with second:
        pass


def test_a_lock_does_not_change_the_file(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("said")
    with Lock(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == "said"
