"""Commands on a terminal of their own, of so many columns: what a person sees of them, line by line."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

from cluster.columns import columns_of

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
    """`troupe WORDS` on a pseudo-terminal; it is told its width by the terminal alone."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    without = ("COLUMNS", "LINES", "NO_COLOR", "TROUPE_ENVIRONMENT", "FORCE_COLOR")
    environment = {key: value for key, value in os.environ.items() if key not in without}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[1]), **variables}
    process = subprocess.Popen([sys.executable, "-m", "cluster.cli", *words], cwd=folder, stdin=theirs, stdout=theirs,
                               stderr=theirs, env=environment, start_new_session=True)  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # the other side has been closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return Seen(process.wait(60), shown.decode())
