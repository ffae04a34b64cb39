"""Finds data sets by name: any module of this folder, or of PATH/data for each extra path, may define SOURCES."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import trainers.data
from trainers.base.errors import ENVIRONMENT, USAGE, TroupeError, describe_error, did_you_mean, lines_of_others
from trainers.base.paths import expanded
from trainers.base.problems import Problem
from trainers.data.images import Request, Source
from trainers.settings.config import parts_of


def all_sources(extra: Sequence[Path] = ()) -> dict[str, Source]:
    """Every data set by name, those of the package first."""
    modules = [
        importlib.import_module(f"trainers.data.{found.name}") for found in pkgutil.iter_modules(trainers.data.__path__)
    ]
    modules += [_load(file) for path in extra for file in sorted((Path(path) / "data").glob("[!_]*.py"))]
    sources: dict[str, Source] = {}
    for module in modules:
        declared = getattr(module, "SOURCES", {})
        if not isinstance(declared, Mapping) or not all(isinstance(source, Source) for source in declared.values()):
            reason = "needs SOURCES = {name: Source(...)}"
            raise TroupeError(Problem("own-code", str(module.__file__), reason), USAGE)
        for name, source in declared.items():
            if name in sources:
                reason = f"{name} is the name of another data set"
                raise TroupeError(Problem("name-in-use", str(module.__file__), reason, "rename it"), USAGE)
            sources[name] = source
    return sources


def check_source_name(
    data: str, extra: Sequence[Path] = (), input_kind: str = "images", must_exist: bool = True
) -> Problem | None:
    """What is wrong with `data=` for a family that learns from such samples, or None. With `must_exist`, its
    folder must be there."""
    sources = all_sources(extra)
    for part in parts_of(data):
        if problem := _malformed(part, sources) or (_missing_folder(part) if must_exist else None):
            return problem
    kind = "+".join(sources[part.partition(":")[0]].kind for part in parts_of(data))
    if kind == input_kind:
        return None
    known = [name for name, source in sources.items() if source.kind == input_kind]
    joined = f"use data={'+'.join(['A'] * (input_kind.count('+') + 1))}, where each A is a data set of its kind"
    nothing = joined if "+" in input_kind else "no data set has any: --families PATH adds those of PATH/data"
    hint = f"there are {', '.join(known)}" if known else nothing
    return Problem("data-kind", "data", f"contains {kind}, but {input_kind} are required", hint, data)


def missing(data: str, data_dir: Path, extra: Sequence[Path] = ()) -> Problem | None:
    """What `data=` lacks on this machine, or None. Opens nothing."""
    known = all_sources(extra)
    for part in parts_of(data):
        name, _, argument = part.partition(":")
        if problem := _malformed(part, known):
            return problem
        if argument and (problem := _missing_folder(part)):
            return problem
        if not argument and (absent := known[name].missing(Path(data_dir))):
            return absent
    return None


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
    folders: str = "auto",
    value_range: str | Sequence[float] = "auto",
) -> Any:
    """Open the data set that `data=` names, or the several that it joins.

    The driver passes `warn` and `progress`; workers print nothing, and pass the `fingerprint` that the driver found.
    """
    sources, parts = all_sources(extra), parts_of(data)
    for part in parts:
        for problem, code in ((_malformed(part, sources), USAGE), (_missing_folder(part), ENVIRONMENT)):
            if problem is not None:
                raise TroupeError(problem, code)
    opened = []
    for part in parts:
        name, _, argument = part.partition(":")
        known = fingerprint if len(parts) == 1 else None
        request = Request(
            argument, Path(data_dir), image_size, evaluate_on, warn, progress, known, folders, value_range
        )
        opened.append(_opened(part, sources[name], request))
    result: Any = opened[0] if len(opened) == 1 else Joined(opened)
    result.cache = Path(data_dir) / "computed"
    return result


def _opened(part: str, source: Source, request: Request) -> Any:
    """Open a data set, whose source may be custom. Raises TroupeError for what it raises or lacks."""
    try:
        data = source.open(request)
    except TroupeError:
        raise
    except (Exception, SystemExit) as error:
        if not lines_of_others(error):
            raise
        raise TroupeError(Problem("own-code", "data", describe_error(error), value=part), ENVIRONMENT) from error
    absent = [name for name in ("size", "held_out", "facts", "fingerprint", "batch") if not hasattr(data, name)]
    if absent:
        reason = f"its source returns a {type(data).__name__} without {', '.join(absent)}"
        raise TroupeError(Problem("own-code", "data", reason, value=part), ENVIRONMENT)
    return data


class Joined:
    """Several independent sets; a family's stream combines them (`parts`)."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.size = max(part.size for part in parts)
        self.held_out = min(part.held_out for part in parts)
        self.fingerprint = hashlib.sha256("+".join(part.fingerprint for part in parts).encode()).hexdigest()
        self.facts = {
            "kind": "+".join(part.facts["kind"] for part in parts),
            "size": self.size,
            "held_out": self.held_out,
            "parts": [dict(part.facts) for part in parts],
        }

    def to(self, device: Any) -> None:
        for part in self.parts:
            part.to(device)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        raise NotImplementedError("joined sets have no samples in common: use one of `parts`")

    held_out_batch = batch

    def preview(self, count: int) -> Any:
        """Images of the first set."""
        return self.parts[0].preview(count)


def _malformed(data: str, sources: dict[str, Source]) -> Problem | None:
    name, colon, argument = data.partition(":")
    if name not in sources:
        hint = did_you_mean(name, sources) or f"there are {', '.join(sources)}"
        return Problem("unknown-data", "data", "no such data set", hint, data)
    if sources[name].takes_path and not argument:
        return Problem("bad-value", "data", f"needs a folder: data={name}:PATH", value=data)
    if colon and not sources[name].takes_path:
        return Problem("bad-value", "data", f"{name} takes no path", f"use data={name}", data)
    return None


def _missing_folder(data: str) -> Problem | None:
    _, colon, argument = data.partition(":")
    if colon and not os.path.exists(expanded(argument)):
        return Problem("missing-folder", "data", "no such folder", "give the path of a folder", data)
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
    sys.modules[name] = module  # before it runs, since dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        reason = f"cannot be loaded ({describe_error(error)})"
        raise TroupeError(Problem("own-code", str(file), reason, "fix it"), USAGE) from error
    return module
