"""Where a run runs. `from cluster import train, search, ...`: each verb is a call from Python, see `cluster.calls`."""

import sys
from typing import TYPE_CHECKING, Any

from cluster.folder import leave_folder

if sys.argv[:1] == ["-m"] and "cluster.cli" in sys.orig_argv:  # `python -m cluster.cli`, before its imports
    leave_folder()

if TYPE_CHECKING:
    from cluster.calls import (
        check,
        datasets,
        env,
        evaluate,
        export,
        families,
        jobs,
        load_exported,
        logs,
        predict,
        report,
        runs,
        sample,
        search,
        stop,
        submit,
        train,
        verify,
    )
    from trainers.engine.errors import TroupeError

__all__ = [
    "TroupeError", "check", "datasets", "env", "evaluate", "export", "families", "jobs", "load_exported", "logs",
    "predict", "report", "runs", "sample", "search", "stop", "submit", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """A call, or the error that calls raise; nothing is imported before it is used."""
    if name == "TroupeError":
        from trainers.engine.errors import TroupeError

        return TroupeError
    if name in __all__:
        from cluster import calls

        return getattr(calls, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
