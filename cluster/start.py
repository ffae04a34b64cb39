"""The command `troupe` in its first moments: streams that are closed, and Ctrl-C before anything can be told of it.

Imports nothing that takes time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TextIO

STOPPED = 130
ASKED = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run the command that was typed, and end the process with its exit code."""
    try:
        from cluster.cli import main as carry_out
    except KeyboardInterrupt:  # nothing has begun
        os._exit(STOPPED)
    carry_out()


def open_streams() -> None:
    """Let what is closed lead nowhere: a file that is opened later would else be taken for the screen."""
    for number, (name, mode) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, mode)  # takes the lowest number that is free, which is this one
                os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115


def backslashes(stream: TextIO) -> None:
    """Let what a stream's encoding lacks be written as `\\u4e2d`."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]


def hold_signals() -> None:
    """Let Ctrl-C and SIGTERM wait, also while this process is replaced by another program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)


def take_signals() -> None:
    """Hear them: each is a KeyboardInterrupt, also before there is anything to save; one that waited is told now."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
