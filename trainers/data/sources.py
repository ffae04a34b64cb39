"""Finding data sets by name: any module of this folder, or of PATH/data for each extra path, may define SOURCES."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import trainers.data
from trainers.data.images import ImageData, Request, Source
from trainers.engine.errors import SURROUNDINGS, WORDS, TroupeError, did_you_mean
from trainers.engine.paths import expanded


def all_sources(extra: Sequence[Path] = ()) -> dict[str, Source]:
    """Every data set by name, those of the package first."""
    modules = [
        importlib.import_module(f"trainers.data.{found.name}") for found in pkgutil.iter_modules(trainers.data.__path__)
    ]
    modules += [_load(file) for path in extra for file in sorted((Path(path) / "data").glob("[!_]*.py"))]
    sources: dict[str, Source] = {}
    for module in modules:
        for name, source in getattr(module, "SOURCES", {}).items():
            if name in sources:
                raise TroupeError(f"{module.__file__}: {name} is the name of another data set; rename it", WORDS)
            sources[name] = source
    return sources


def check_name(data: str, extra: Sequence[Path] = ()) -> str | None:
    """What is wrong with `data=`, in a line, or None."""
    return _wrong_words(data, all_sources(extra)) or _missing_folder(data)


def open_data(
    data: str,
    *,
    data_dir: Path,
    image_size: int | None = None,
    evaluate_on: str = "test",
    extra: Sequence[Path] = (),
    warn: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    fingerprint: str | None = None,
) -> ImageData:
    """Open the data set that `data=` names.

    The driver gives `warn` and `progress`; workers keep silent, and give the `fingerprint` that the driver found.
    """
    sources = all_sources(extra)
    for mistake, code in ((_wrong_words(data, sources), WORDS), (_missing_folder(data), SURROUNDINGS)):
        if mistake:
            raise TroupeError(mistake, code)
    name, _, argument = data.partition(":")
    return sources[name].open(Request(argument, Path(data_dir), image_size, evaluate_on, warn, progress, fingerprint))


def _wrong_words(data: str, sources: dict[str, Source]) -> str | None:
    name, colon, argument = data.partition(":")
    if name not in sources:
        advice = did_you_mean(name, sources) or f"; there are {', '.join(sources)}"
        return f"data={data}: no such data set{advice}"
    if sources[name].takes_path and not argument:
        return f"data={data}: of which folder? say data={name}:PATH"
    if colon and not sources[name].takes_path:
        return f"data={data}: {name} takes no path; say data={name}"
    return None


def _missing_folder(data: str) -> str | None:
    _, colon, argument = data.partition(":")
    if colon and not os.path.isdir(expanded(argument)):
        return f"data={data}: no such folder; give the path of one"
    return None


def _load(file: Path) -> ModuleType:
    """Import a file from outside the package, once."""
    name = f"{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a .py file always has a spec"
    assert spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TroupeError(f"{file}: cannot be loaded ({type(error).__name__}: {error}); mend it", WORDS) from error
    return module
