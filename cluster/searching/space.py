"""Search spaces: choices and ranges of settings, parsed from arguments, sampled, and moved within.

`a,b,c` are choices (`1:2:4` is one value, a list), `lo..hi` is a range, sampled on a log scale if the setting is
declared so; `linear:lo..hi` and `log:lo..hi` set the scale explicitly. Imports neither torch nor Ray.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import searchspaces
from trainers.base.errors import USAGE, TroupeError, describe_error
from trainers.base.problems import Problem, show_value
from trainers.settings.config import Config
from trainers.settings.fields import read_value

NOTHING = "nothing-to-search"  # problem code: all settings of a search have one value

DIGITS = 4  # of a drawn number, so that it can be typed
NEAR, FAR = 0.8, 1.2  # factors by which a number is moved (Jaderberg et al. 2017, section 4.1)
REDRAW = 0.25  # share of the moves that draw a new value


@dataclass(frozen=True)
class Choice:
    """A choice between values."""

    values: tuple[Any, ...]

    @property
    def probes(self) -> tuple[Any, ...]:
        """If a setting accepts these values, it accepts all of the domain."""
        return self.values

    def draw(self, generator: random.Random) -> Any:
        return generator.choice(self.values)

    def moved(self, value: Any, generator: random.Random) -> Any:
        """The previous or the next value."""
        index = self.values.index(value) + generator.choice((-1, 1)) if value in self.values else 0
        return self.values[min(max(index, 0), len(self.values) - 1)]

    def __str__(self) -> str:
        return ",".join(map(show_value, self.values))


@dataclass(frozen=True)
class Range:
    """Any number from `low` to `high`."""

    low: float
    high: float
    log: bool
    integer: bool

    @property
    def probes(self) -> tuple[float, float]:
        return self.low, self.high

    def draw(self, generator: random.Random) -> float:
        if self.log:
            return self.clipped(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        return self.clipped(generator.uniform(self.low, self.high))

    def moved(self, value: float, generator: random.Random) -> float:
        """A nearby number within the range."""
        return self.clipped(value * generator.choice((NEAR, FAR)))

    def clipped(self, number: float) -> float:
        """The number rounded to DIGITS digits and clipped to the range."""
        number = round(number) if self.integer else float(f"{number:.{DIGITS}g}")
        return min(max(number, self.low), self.high)

    def __str__(self) -> str:
        return f"{'log' if self.log else 'linear'}:{show_value(self.low)}..{show_value(self.high)}"


Domain = Choice | Range
Point = dict[str, Any]  # a value for each searched setting


@dataclass(frozen=True)
class Space:
    """The searched and the fixed settings, and the seeds of each point."""

    domains: Mapping[str, Domain]
    fixed: Mapping[str, Any]  # arguments, as of a `train` command
    seeds: tuple[int, ...] = ()  # each point is tried with each of these; empty: with the fixed seed
    source: str = ""  # the file with the settings that the command did not give

    @property
    def points(self) -> int | None:
        """The number of points; None if there is a range."""
        if any(isinstance(domain, Range) for domain in self.domains.values()):
            return None
        return math.prod(len(domain.values) for domain in self.domains.values() if isinstance(domain, Choice))

    def grid(self) -> Iterator[Point]:
        """Every point, the last setting changing first."""
        choices = [domain.values for domain in self.domains.values() if isinstance(domain, Choice)]
        for values in itertools.product(*choices):
            yield dict(zip(self.domains, values, strict=True))

    def draw(self, generator: random.Random) -> Point:
        return {name: domain.draw(generator) for name, domain in self.domains.items()}

    def moved(self, point: Mapping[str, Any], generator: random.Random) -> Point:
        """A point near another one: each setting is drawn again or moved a little."""
        return {
            name: domain.draw(generator) if generator.random() < REDRAW else domain.moved(point[name], generator)
            for name, domain in self.domains.items()
        }


def read_space(
    kind: type[Config], family: str, settings: Mapping[str, Any], from_file: Mapping[str, str], source: str
) -> tuple[Space | None, list[Problem]]:
    """A space from the settings of a command and, for others, of a file, its source; with all problems."""
    problems: list[Problem] = []
    domains: dict[str, Domain] = {}
    fixed: dict[str, Any] = {}
    seeds: tuple[int, ...] = ()
    others = {name: value for name, value in from_file.items() if name not in settings}
    for name, value in {**others, **settings}.items():
        value = ",".join(map(show_value, value)) if isinstance(value, list) else value  # choices given in Python
        try:
            domain = _checked_domain(kind, family, name, value)
        except ValueError as error:
            reason, hint = (*map(str, error.args), "")[:2]
            problems.append(Problem("bad-value", name, reason, hint, value, source if name in others else ""))
            continue
        if domain is None:
            fixed[name] = value
        elif name == "seed" and isinstance(domain, Choice):
            seeds = domain.values
        else:
            domains[name] = domain
    first = {name: domain.probes[0] for name, domain in domains.items()}
    _, wrong = kind.from_words({**fixed, **first}, family)
    problems += [one for one in wrong if one.about in fixed]
    if not problems and not domains and not seeds:
        hint = "name choices (n_critic=1,2,5), a range (beta1=0..0.9) or seeds (seed=1,2,3), or use `troupe train`"
        problems.append(Problem(NOTHING, reason="nothing to search: each setting has one value", hint=hint))
    return (None, problems) if problems else (Space(domains, fixed, seeds, source), [])


def _checked_domain(kind: type[Config], family: str, name: str, text: Any) -> Domain | None:
    """Choices or a range whose values the setting accepts; None for one value, or if there is no such setting.
    Raises ValueError as `_domain` does."""
    field = kind.model_fields.get(name) or kind.model_fields.get(f"{name}_")
    if field is None or not isinstance(text, str) or field.json_schema_extra["free"]:  # type: ignore[index]
        return None
    domain = _domain(field, text)
    if domain is None:
        return None
    if field.json_schema_extra["kind"] == "running":  # type: ignore[index]
        raise ValueError("is a runtime setting and cannot be searched", "set it to one value")
    for value in domain.probes:
        _, wrong = kind.from_words({name: value}, family)
        alone = next((one for one in wrong if one.about == name), None)
        if alone is not None:
            reason = f"{show_value(value)} {alone.reason}" if len(str(domain)) > 20 else alone.reason
            raise ValueError(reason, alone.hint)
    if name == "seed" and isinstance(domain, Range):
        raise ValueError("list the seeds, as in seed=1,2,3", "each repeats every point")
    return domain


def _options(annotation: Any) -> tuple[Any, ...]:
    """The accepted values of a setting: types, or words."""
    return (annotation,) if get_origin(annotation) is tuple else get_args(annotation) or (annotation,)


def _domain(field: Any, word: str) -> Domain | None:
    """Choices or a range; None for one value. Raises ValueError with the reason and, if known, a hint otherwise."""
    course, colon, rest = word.partition(":")
    scale = course if colon and course in ("linear", "log") and ".." in rest else ""
    bounds = rest if scale else word
    if ".." in bounds and "," not in bounds:
        numbers = [option for option in _options(field.annotation) if option in (int, float)]
        if not numbers:
            raise ValueError("is a range, but this setting has choices", "separate them by commas")
        if bounds.count("..") > 1:
            raise ValueError("a range has two ends, as in 1e-4..1e-2")
        low, high = (read_value(numbers[0], end) if end else None for end in bounds.split("..", 1))
        if low is None or high is None:
            raise ValueError("a range has two ends, as in 1e-4..1e-2")
        if low == high:
            raise ValueError("the range is empty", "its ends are equal")
        if low > high:
            first, _, last = bounds.partition("..")
            raise ValueError("the range is reversed", f"use {last}..{first}")
        log = scale == "log" or (not scale and bool(field.json_schema_extra["log"]))
        if log and low <= 0:
            raise ValueError("a log scale requires a range above 0", f"use linear:{bounds}")
        return Range(low, high, log, numbers[0] is int)
    if "," in word:
        values = tuple(read_value(field.annotation, part) for part in word.split(","))
        if len(set(values)) < len(values):
            raise ValueError("has a value twice")
        return Choice(values)
    return None


class SpaceFile(NamedTuple):
    """A module with the default search space of a family."""

    settings: Mapping[str, str]
    budget: Mapping[str, Any]
    source: str  # its name


NO_FILE = SpaceFile({}, {}, "")


def module_of(family: str, given: str | None, families: Sequence[Path]) -> SpaceFile:
    """FAMILY.py of the search spaces, or the file `given`; empty if there is none.

    Raises TroupeError (exit code 2) if the file cannot be read.
    """
    if given == "none":
        return NO_FILE
    if given is not None:
        files = [Path(given)]
    else:
        candidates = [*(folder / "searchspaces" for folder in families), Path(searchspaces.__file__).parent]
        files = [candidate / f"{family}.py" for candidate in candidates if (candidate / f"{family}.py").exists()][:1]
    if not files:
        return NO_FILE
    (file,) = files

    def wrong(reason: str, code: str = "own-code") -> TroupeError:
        about = "--space" if given is not None else str(file)
        return TroupeError(Problem(code, about, reason, value=given), USAGE)

    spec = importlib.util.spec_from_file_location(f"searchspaces_{family}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise wrong("no such Python file", "missing-file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise wrong(describe_error(error)) from error
    space, budget = getattr(module, "SEARCH", None), getattr(module, "BUDGET", {})
    if not isinstance(space, dict) or not all(isinstance(word, str) for word in (*space, *space.values())):
        raise wrong("requires SEARCH = {setting: value}, all texts")
    if not isinstance(budget, dict):
        raise wrong("requires BUDGET = {option or setting: value}")
    return SpaceFile(dict(space), dict(budget), f"searchspaces/{file.name}" if given is None else str(file))
