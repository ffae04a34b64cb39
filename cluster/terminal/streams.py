"""The streams of a command: closed ones become /dev/null, every character can be written, and a replacement of a stream
only needs `write`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def open_streams() -> None:
    """Open closed streams on /dev/null; else a file that is opened later would get the number of a stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = os.O_WRONLY if number else os.O_RDONLY
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, mode)  # takes the lowest free number, which is this one
                os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def never_refuse(stream: TextIO) -> None:
    """Write characters that a stream's encoding lacks as `\\u4e2d`."""
    with contextlib.suppress(Exception):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal. The replacements in editors and notebooks can have any `isatty`, or none."""
    try:
        return bool(stream.isatty())
    except Exception:  # it may also be closed
        return False


def flush(stream: TextIO) -> None:
    """Flush a stream, if it can be flushed. Raises what its `flush` raises."""
    if callable(let_out := getattr(stream, "flush", None)):
        let_out()


def descriptor(stream: TextIO) -> int | None:
    """The file descriptor of a stream, or None."""
    try:
        number = stream.fileno()
    except Exception:  # as of `isatty`
        return None
    return number if isinstance(number, int) and number >= 0 else None


class RealStream(io.TextIOBase):
    """A stream with the complete interface, which writes to one that can lack parts of it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        flush(self.stream)


@contextlib.contextmanager
def real_streams() -> Iterator[None]:
    """Inside, libraries can use the complete interface of the streams."""
    with contextlib.ExitStack() as stack:
        if descriptor(sys.stdout) is None:
            stack.enter_context(contextlib.redirect_stdout(RealStream(sys.stdout)))
        if descriptor(sys.stderr) is None:
            stack.enter_context(contextlib.redirect_stderr(RealStream(sys.stderr)))
        yield
