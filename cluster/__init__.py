"""Where a run runs. `from cluster import train, search, report` are the same as the commands of these names."""

from typing import Any


def train(family: str | None = None, **words: Any) -> dict[str, Any]:
    """Train a family, as `troupe train` does: see `cluster.launch.train`."""
    from cluster import launch  # nothing is imported before it is used

    return launch.train(family, **words)


def search(family: str | None = None, **words: Any) -> dict[str, Any]:
    """Search a family's settings, as `troupe search` does: see `cluster.searching.search`."""
    from cluster import searching

    return searching.search(family, **words)


def predict(name: str, *files: Any, **words: Any) -> dict[str, Any]:
    """What a classifier takes images for, as `troupe predict` does: see `cluster.predicting.predict`."""
    from cluster import predicting

    return predicting.predict(name, *files, **words)


def report(*names: str, **words: Any) -> dict[str, Any]:
    """Write one page over searches or runs, as `troupe report` does: see `cluster.page.make.report`."""
    from cluster.page import make

    return make.report(*names, **words)


__all__ = ["predict", "report", "search", "train"]
