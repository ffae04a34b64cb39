"""What shows a run and is none of its numbers: pictures, curves, films, event files. It may fail; the run may not.

All of it is made inside `Decorations.making`, and drawn with matplotlib inside `matplotlib_of_ours`.
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
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from trainers.base.errors import told_of
from trainers.base.problems import Problem, sentence

LIBRARY, BACKEND = "matplotlib", "MPLBACKEND"
NOT_MADE = "not-made"
EVENTS = "TensorBoard's event file"


class Decorations:
    """Those of one run: what fails is told once, by what it is and by its reason."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.told = set[str]()
        self.not_made = list[str]()  # the same as lines

    @contextlib.contextmanager
    def making(self, what: str) -> Iterator[None]:
        """Inside, something is made that no number needs: whatever exception that raises, the run goes on without it.

        Only what ends a process goes through: Ctrl-C and `sys.exit`.
        """
        try:
            yield
        except Exception as error:
            problem = not_made(what, error, "the run continues without it")
            if not self.told & {what, problem.reason}:
                self.not_made.append(sentence(problem))
                self.say(self.not_made[-1])
            self.told |= {what, problem.reason}


def not_made(what: str, error: Exception, hint: str = "") -> Problem:
    """Why something decorative could not be made."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else told_of(error)
    return Problem(NOT_MADE, what, f"cannot be made ({reason})", hint)


@contextlib.contextmanager
def matplotlib_of_ours() -> Iterator[None]:
    """Inside, matplotlib has its own defaults, whatever this process, its variables or its files say; afterwards it is
    as it was. The backend is never looked at: our figures have canvases of their own."""
    with _quiet():
        library = _loaded()
        with library.rc_context():
            with warnings.catch_warnings(action="ignore"):  # of settings that it will not have for long
                defaults = library.rcParamsDefault
                library.rcParams.update({name: defaults[name] for name in defaults if name != "backend"})
            yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, matplotlib logs nothing: of files of its user's that it does not understand, of fonts that it lacks."""
    logger = logging.getLogger(LIBRARY)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _loaded() -> Any:
    """matplotlib, as its user has set it; where it cannot be imported for that, as if nothing was set."""
    if LIBRARY in sys.modules:
        return importlib.import_module(LIBRARY)
    before = locale.setlocale(locale.LC_ALL)
    try:
        return importlib.import_module(LIBRARY)
    except ImportError:
        raise
    except Exception:  # an unknown backend, a file that is no text: of use to nobody in this process
        return _loaded_without_settings()
    finally:
        locale.setlocale(locale.LC_ALL, before)  # which a setting of it changes


def _loaded_without_settings() -> ModuleType:
    """matplotlib, imported with its own defaults: it asks for no backend, and every other file of settings is empty."""
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
    """A text file of the library's own folder; any other one is empty."""
    return open(path, mode, encoding=encoding) if Path(path).is_relative_to(folder) else io.StringIO()  # type: ignore[return-value]
