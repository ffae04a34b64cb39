"""Where a run runs. `from cluster import train` is the same as `troupe train`."""

from typing import Any


def train(family: str | None = None, **words: Any) -> dict[str, Any]:
    """Train a family, as `troupe train` does: see `cluster.launch.train`."""
    from cluster import launch  # nothing is imported before it is used

    return launch.train(family, **words)


__all__ = ["train"]
