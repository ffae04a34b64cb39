"""Where the runs of troupe run; each verb is a call from Python, as in `from cluster import train`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.cli.python_calls import (
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
    from trainers.base.errors import TroupeError

__all__ = [
    "TroupeError", "check", "datasets", "env", "evaluate", "export", "families", "jobs", "load_exported", "logs",
    "predict", "report", "runs", "sample", "search", "stop", "submit", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """A call, or the error that calls raise; nothing is imported before it is used."""
    if name == "TroupeError":
        from trainers.base.errors import TroupeError

        return TroupeError
    if name in __all__:
        from cluster.cli import python_calls

        return getattr(python_calls, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
