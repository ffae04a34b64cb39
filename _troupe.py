"""The command `troupe`, found by a name that no folder of a user has: `cluster` is ours from then on."""

import os
import sys


def main() -> None:
    """Run the command that was typed, and end the process with its exit code."""
    try:
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        from cluster.start import main as carry_out

        del sys.path[0]
    except KeyboardInterrupt:  # nothing has begun
        os._exit(130)
    carry_out()


if __name__ == "__main__":
    main()
