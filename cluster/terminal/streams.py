"""The streams of a command, whatever they are: closed ones lead nowhere, none refuses a character, and what somebody
has put in their place need only have `write`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def open_streams() -> None:
    """Let what is closed lead nowhere: a file that is opened later would else be taken for the screen."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = os.O_WRONLY if number else os.O_RDONLY
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, mode)  # takes the lowest number that is free, which is this one
                os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def never_refuse(stream: TextIO) -> None:
    """Let what a stream's encoding lacks be written as `\\u4e2d`."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at it. What an editor or a notebook puts in the place of a stream may not know."""
    try:
        return bool(stream.isatty())
    except (AttributeError, NotImplementedError, OSError, ValueError):  # ValueError: it is closed
        return False


def flush(stream: TextIO) -> None:
    """Let out what it holds back, where it can be asked to. Raises what that raises."""
    if (let_out := getattr(stream, "flush", None)) is not None:
        let_out()


def descriptor(stream: TextIO) -> int | None:
    """The file behind it, where there is one."""
    try:
        return stream.fileno()
    except (AttributeError, NotImplementedError, OSError, ValueError):
        return None


class Whole(io.TextIOBase):
    """A stream that answers all that one is asked, and writes to another one that may not."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        flush(self.stream)


@contextlib.contextmanager
def whole_streams() -> Iterator[None]:
    """Inside, libraries may ask the streams whatever streams are asked."""
    with contextlib.ExitStack() as held:
        if descriptor(sys.stdout) is None:
            held.enter_context(contextlib.redirect_stdout(Whole(sys.stdout)))
        if descriptor(sys.stderr) is None:
            held.enter_context(contextlib.redirect_stderr(Whole(sys.stderr)))
        yield
