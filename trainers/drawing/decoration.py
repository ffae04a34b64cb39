"""Decorations of a run that affect none of its numbers: images, curves, films, event files. Their errors never fail it.

All of them are made inside `Decorations.making`, and drawn with matplotlib inside `matplotlib_of_ours`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import locale
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from trainers.base.errors import ENDS, describe_error, message_of
from trainers.base.problems import Problem, sentence

LIBRARY, BACKEND = "matplotlib", "MPLBACKEND"
NOT_MADE = "not-made"
EVENTS = "TensorBoard's event file"


class Decorations:
    """The decorations of one run: each failure is reported once, by item and by reason."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.notify = notify
        self.reported = set[str]()
        self.not_made = list[str]()  # the reported lines

    @contextlib.contextmanager
    def making(self, what: str) -> Iterator[None]:
        """Inside, a decoration is made; on any exception the run continues without it, also on `sys.exit`.

        Only requests for an end propagate: Ctrl-C, and what a signal handler raises.
        """
        try:
            yield
        except ENDS:
            raise
        except BaseException as error:
            if _by_signal(error):
                raise
            problem = not_made(what, error, "the run continues without it")
            if not self.reported & {what, problem.reason}:
                self.not_made.append(sentence(problem))
                self.notify(self.not_made[-1])
            self.reported |= {what, problem.reason}


def not_made(what: str, error: BaseException, hint: str = "") -> Problem:
    """Why a decoration could not be made."""
    reason = message_of(error, lambda: error.strerror or "") if isinstance(error, OSError) else ""
    return Problem(NOT_MADE, what, f"cannot be made ({reason or describe_error(error)})", hint)


def _by_signal(error: BaseException) -> bool:
    """Whether a signal handler has raised an error, as those of our caller can: a time limit, an exit."""
    handlers = [getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()]
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


@contextlib.contextmanager
def matplotlib_of_ours() -> Iterator[None]:
    """Inside, matplotlib has its own defaults, regardless of this process, its environment or its files; they are
    restored afterwards. The backend is never resolved: these figures have their own canvases."""
    with _quiet():
        library = _loaded()
        with library.rc_context():
            with warnings.catch_warnings(action="ignore"):  # of deprecated settings
                defaults = library.rcParamsDefault
                library.rcParams.update({name: defaults[name] for name in defaults if name != "backend"})
            yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, matplotlib logs nothing, such as invalid user files or missing fonts."""
    logger = logging.getLogger(LIBRARY)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _loaded() -> Any:
    """matplotlib with the user's configuration; if that prevents the import, without it."""
    if LIBRARY in sys.modules:
        return importlib.import_module(LIBRARY)
    before = locale.setlocale(locale.LC_ALL)
    try:
        return importlib.import_module(LIBRARY)
    except ImportError:
        raise
    except Exception:  # an unknown backend, a binary file: unusable in this process
        return _loaded_without_settings()
    finally:
        locale.setlocale(locale.LC_ALL, before)  # which a matplotlib setting changes


def _loaded_without_settings() -> ModuleType:
    """matplotlib, imported with its own defaults: no backend from the environment, and all user files read as empty."""
    for name in [name for name in sys.modules if name.startswith(f"{LIBRARY}.")]:  # of the import that failed
        del sys.modules[name]
    spec = importlib.util.find_spec(LIBRARY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)["open"] = functools.partial(_own_file, Path(str(spec.origin)).parent)
    sys.modules[LIBRARY] = module
    backend = os.environ.pop(BACKEND, None)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[LIBRARY]
        raise
    finally:
        if backend is not None:
            os.environ[BACKEND] = backend
    del vars(module)["open"]
    return module


def _own_file(folder: Path, path: str, mode: str = "r", encoding: str = "utf-8") -> io.TextIOBase:
    """Open a text file in the library's own folder; any other file reads as empty."""
    return open(path, mode, encoding=encoding) if Path(path).is_relative_to(folder) else io.StringIO()  # type: ignore[return-value]
