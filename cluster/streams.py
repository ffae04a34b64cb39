"""The streams of a command, whatever they are: closed ones lead nowhere, and none refuses a character."""

from __future__ import annotations

import contextlib
import os
import sys
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
