"""The command `troupe` in its first moments: Ctrl-C while it is imported ends it, and nothing more."""

from __future__ import annotations

import os

from cluster.folder import leave_folder


def main() -> None:
    """Run the command that was typed, and end the process with its exit code."""
    try:
        leave_folder()
        from cluster.cli import main as carry_out
    except KeyboardInterrupt:  # nothing has begun
        os._exit(130)
    carry_out()
