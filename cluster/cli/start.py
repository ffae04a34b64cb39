"""The command `troupe` in its first moments: what asks it to end while it is imported ends it, and nothing more."""

from __future__ import annotations

import os

from cluster.host.import_path import leave_folder


def main() -> None:
    """Run the command that was typed, and end the process with its exit code."""
    try:
        leave_folder()
        from cluster.host.signals import take_signals

        take_signals()
        from cluster.cli.main import main as carry_out
    except KeyboardInterrupt:  # nothing has begun
        os._exit(130)
    carry_out()
