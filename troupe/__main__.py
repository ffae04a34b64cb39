"""The command `troupe`, and `python -m troupe`: our packages come first on the path during the import."""

import importlib
import os
import sys

from troupe import PACKAGES, ROOT, check_packages


def main() -> None:
    """Run the command in `sys.argv`, and end the process with its exit code."""
    try:
        sys.path.insert(0, ROOT)
        check_packages()
        for name in PACKAGES:  # cached from now on, so that no other package takes these names
            importlib.import_module(name)
        from cluster.cli.start import main as carry_out

        del sys.path[0]
    except ImportError as error:
        print(f"troupe: {error}", file=sys.stderr)
        os._exit(3)
    except KeyboardInterrupt:  # nothing has started
        os._exit(130)
    carry_out()


if __name__ == "__main__":
    main()
