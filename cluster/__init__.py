"""Where a run runs. `from cluster import train, search` are the same as `troupe train` and `troupe search`."""

from typing import Any


def train(family: str | None = None, **words: Any) -> dict[str, Any]:
    """Train a family, as `troupe train` does: see `cluster.launch.train`."""
    from cluster import launch  # nothing is imported before it is used

    return launch.train(family, **words)


def search(family: str | None = None, **words: Any) -> dict[str, Any]:
    """Search a family's settings, as `troupe search` does: see `cluster.searching.search`."""
    from cluster import searching

    return searching.search(family, **words)


__all__ = ["search", "train"]
