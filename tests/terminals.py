"""Commands on a terminal of their own, of so many columns: what a person sees of them, line by line."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from cluster.cli import main
from cluster.terminal.tables import columns_of

RENEWED = "\r\x1b[K"  # the line before is cleared, and another one takes its place
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
OTHER = re.compile(r"\x1b|[\x00-\x08\x0b-\x1f]")  # whatever else moves the cursor
LINES = 24


class Seen(NamedTuple):
    """What was shown on a terminal, and the exit code."""

    code: int
    text: str

    @property
    def lines(self) -> list[str]:
        """All lines, those too that were renewed; a terminal ends lines with both marks."""
        return self.text.replace(RENEWED, "\n").replace("\r\n", "\n").split("\n")

    @property
    def longest(self) -> int:
        return max(columns_of(line) for line in self.lines)

    @property
    def strange(self) -> list[str]:
        """Lines that hold colours, or marks that no plain text has."""
        return [line for line in self.lines if COLOUR.search(line) or OTHER.search(line)]


def on_terminal(folder: Path, columns: int, *words: str, **variables: str) -> Seen:
    """`troupe WORDS` in this process, whose streams are a pseudo-terminal, which alone tells its width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other side has been closed
            while piece := os.read(ours, 1 << 16):
                shown.append(piece)

    reading = threading.Thread(target=read)
    reading.start()
    with (
        mock.patch.dict(os.environ, {"TERM": "xterm-256color", **variables}), contextlib.chdir(folder),
        open(theirs, "w", encoding="utf-8") as terminal, contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
    ):  # fmt: skip
        for name in {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"} - variables.keys():
            os.environ.pop(name, None)
        code = main.command(words)
    reading.join(10)
    os.close(ours)
    return Seen(code, b"".join(shown).decode())
