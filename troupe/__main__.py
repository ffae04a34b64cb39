"""The command `troupe`, and `python -m troupe`: only the standard library, and our packages, during their import."""

import os
import sys

from troupe import PACKAGES, ROOT, check_packages

STANDARD = os.path.dirname(os.__file__)


def main() -> None:
    """Run the command in `sys.argv`, and end the process with its exit code."""
    try:
        path = sys.path[:]
        sys.path[:] = _of_the_start(path)
        check_packages()
        for name in PACKAGES:  # cached from now on, so that no other package takes these names
            __import__(name)
        from cluster.cli.start import main as carry_out

        sys.path[:] = path
    except ImportError as error:
        print(f"troupe: {error}", file=sys.stderr)
        os._exit(3)
    except KeyboardInterrupt:  # nothing has started
        os._exit(130)
    carry_out()


def _of_the_start(path: list[str]) -> list[str]:
    """A search path that begins with the standard library and our packages; without the current folder, which has not
    been left yet, and without relative ones."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was removed, and holds no modules
        folder = ""
    return [STANDARD, ROOT, *(entry for entry in path if os.path.isabs(entry) and entry != folder)]


if __name__ == "__main__":
    main()
