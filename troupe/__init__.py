"""`from troupe import train, search, ...`: the calls of `cluster`, under the name of the distribution."""

import os

TYPE_CHECKING = False  # `typing` could be a module of the current folder, which the command has not left yet
if TYPE_CHECKING:
    from typing import Any

    from cluster import *  # noqa: F403

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGES = ("cluster", "trainers", "searchspaces")
MARK = b'__distribution__ = "troupe"'  # in the `__init__.py` of each


def check_packages() -> None:
    """Raises ImportError if another distribution has a package with the name of one of ours, and precedes it on the
    path or has overwritten it."""
    import importlib.util

    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        file = found.origin if found is not None and found.origin else ""
        if os.path.dirname(os.path.dirname(os.path.abspath(file))) == ROOT:
            with open(file, "rb") as content:
                if MARK in content.read():
                    continue
        reason = f"another distribution has replaced the package {name} ({file or 'no file'})"
        raise ImportError(f"{reason}; install troupe in its own virtual environment")


def __getattr__(name: str) -> "Any":
    """A call of `cluster`, imported on first use."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_packages()
    return getattr(__import__("cluster"), name)


def __dir__() -> list[str]:
    check_packages()
    return sorted([*globals(), *__import__("cluster").__all__])
