"""Where the runs of troupe execute; each verb is a Python function, as in `from cluster import train`."""

from typing import TYPE_CHECKING, Any

__distribution__ = "troupe"

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
        recipes,
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
    "predict", "recipes", "report", "runs", "sample", "search", "stop", "submit", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """A call, or the error that calls raise, imported on first use."""
    if name == "TroupeError":
        from trainers.base.errors import TroupeError

        return TroupeError
    if name in __all__:
        from cluster.cli import python_calls

        return getattr(python_calls, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
