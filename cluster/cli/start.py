"""Start of the command `troupe`: a signal during its imports ends it, without a traceback."""

from __future__ import annotations

import os

from cluster.host.import_path import leave_folder


def main() -> None:
    """Run the command in `sys.argv`, and end the process with its exit code."""
    try:
        leave_folder()
        from cluster.host.signals import take_signals

        take_signals()
        from cluster.cli.main import main as carry_out
    except KeyboardInterrupt:  # nothing has started
        os._exit(130)
    carry_out()
