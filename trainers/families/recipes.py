"""Recipes: published results, each a YAML file of settings beside its family, `FAMILY/recipes/NAME.yaml`.

A recipe holds where its result was published, what troupe reaches with it, and how long it takes. Imports neither torch
nor the settings of a family.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from trainers.base.errors import USAGE, TroupeError, did_you_mean
from trainers.base.problems import Problem, show_value
from trainers.families import registry

FOLDER, SUFFIX = "recipes", ".yaml"
MOST_BYTES = 100_000  # of a file; one has some 3,000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Published(_Part):
    """A published result: a number, or a text if none was published."""

    metric: str = ""  # of an evaluation of the family, if `value` is one
    value: float | None = None
    text: str = ""
    conditions: str = Field(min_length=1)  # such as the number of runs

    @model_validator(mode="after")
    def _is_said(self) -> Self:
        if bool(self.metric) != (self.value is not None):
            raise ValueError("metric and value need each other")
        if self.value is None and not self.text:
            raise ValueError("needs metric and value, or a text")
        return self

    def __str__(self) -> str:
        number = f"{self.metric} {show_value(self.value)}" if self.value is not None else ""
        return f"{', '.join(filter(None, [number, self.text]))} ({self.conditions})"


class Ours(_Part):
    """What troupe has reached: one value for each seed."""

    metric: str = Field(min_length=1)
    values: dict[int, float] = Field(min_length=1)  # by seed, of the last step
    minutes: dict[int, float] = Field(min_length=1)  # of training, by seed
    processor: str = Field(min_length=1)  # its kind
    changed: dict[str, str] = {}  # settings that differ from those of the recipe
    results: str = ""  # the file that holds these runs: benchmarks/results/PROCESSOR/RESULTS.json
    runs: str = ""  # their names there, without the seed

    @model_validator(mode="after")
    def _same_seeds(self) -> Self:
        if self.minutes.keys() != self.values.keys():
            raise ValueError("values and minutes need the same seeds")
        return self

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation; None for one run."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    def __str__(self) -> str:
        deviation = f" ±{self.spread:.1g}" if self.spread is not None else ""
        return f"{self.metric} {self.mean:.4g}{deviation}, n={len(self.values)}"

    @property
    def changes(self) -> str:
        """The settings that differ from those of the recipe, as on the command line."""
        return " ".join(f"{name}={value}" for name, value in self.changed.items())


class Minutes(_Part):
    """How long a recipe takes: measured (where), or estimated (from what)."""

    minutes: float = Field(gt=0)
    measured: str = ""
    estimated: str = ""

    @model_validator(mode="after")
    def _one_basis(self) -> Self:
        if bool(self.measured) == bool(self.estimated):
            raise ValueError("needs either measured or estimated")
        return self

    def __str__(self) -> str:
        return f"{'about ' if self.estimated else ''}{_time(self.minutes)}"


class Time(_Part):
    """Expected times of a whole run."""

    two_cores: Minutes
    one_gpu: Minutes


class Recipe(_Part):
    """A published result, and the settings that reproduce it."""

    title: str = Field(min_length=1)
    source: str = Field(min_length=1)  # the paper or book, with the section
    published: Published
    settings: dict[str, str | list[str]] = Field(min_length=1)
    ours: tuple[Ours, ...] = ()
    not_run: str = ""  # why there is no complete run
    differs: str = Field(min_length=1)  # what explains the difference
    time: Time
    name: str = ""
    family: str = ""
    file: Path = Path()

    @model_validator(mode="after")
    def _has_result(self) -> Self:
        if not self.ours and not self.not_run:
            raise ValueError("needs ours, or not_run: why")
        return self

    @property
    def words(self) -> dict[str, str]:
        """The settings as on the command line."""
        texts = {key: ":".join(value) if isinstance(value, list) else value for key, value in self.settings.items()}
        return {key: "none" if text in ("", "~", "null") else text for key, text in texts.items()}

    @property
    def our_result(self) -> str:
        """What troupe reaches, or why there is no run of it."""
        results = [f"{one}{' (with other settings)' if one.changed else ''}" for one in self.ours]
        return "; ".join([*results, *([self.why_not] if self.not_run else [])])

    @property
    def why_not(self) -> str:
        """Why there is no complete run."""
        return f"{'not run as it is' if self.ours else 'not run'}: {self.not_run}"

    @property
    def command(self) -> str:
        return f"troupe train --recipe {self.name}"

    def as_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        facts = self.model_dump(mode="json", exclude={"settings", "ours"})
        ours = [{**one.model_dump(mode="json"), "mean": one.mean, "spread": one.spread} for one in self.ours]
        return {"name": self.name, "family": self.family, **facts, "settings": self.words, "ours": ours}


def recipe_files(families: Sequence[Path] = ()) -> dict[str, tuple[str, Path]]:
    """The family and the file of each recipe, by name. Raises TroupeError (exit code 2) if two have the same name."""
    found: dict[str, tuple[str, Path]] = {}
    for family, folder in registry.families(families).items():
        for file in sorted((folder / FOLDER).glob(f"[!.]*{SUFFIX}")):
            if file.stem in found:
                reason = f"there is already a recipe of this name, of {found[file.stem][0]}"
                raise TroupeError(Problem("name-in-use", str(file), reason, "rename it"), USAGE)
            found[file.stem] = family, file
    return found


def all_recipes(families: Sequence[Path] = ()) -> list[Recipe]:
    """Every recipe, family by family. Raises TroupeError (exit code 2) with all that is wrong in any file."""
    read, problems = list[Recipe](), list[Problem]()
    for name, (family, file) in recipe_files(families).items():
        try:
            read.append(_read(name, family, file))
        except TroupeError as error:
            problems += error.problems
    if problems:
        raise TroupeError(problems, USAGE)
    return read


def find_recipe(name: str, families: Sequence[Path] = ()) -> Recipe:
    """The recipe of this name. Raises TroupeError (exit code 2) if there is none, or its file is wrong."""
    files = recipe_files(families)
    if name not in files:
        hint = "; ".join(filter(None, [did_you_mean(name, files), "`troupe recipes` lists them"]))
        raise TroupeError(Problem("unknown-recipe", name, "no such recipe", hint), USAGE)
    return _read(name, *files[name])


def _read(name: str, family: str, file: Path) -> Recipe:
    """A recipe from its file. Raises TroupeError (exit code 2) with a problem for each wrong key."""

    def wrong(*reasons: str) -> TroupeError:
        return TroupeError([Problem("own-code", str(file), reason) for reason in reasons], USAGE)

    content = _content(file, wrong)
    if taken := [key for key in ("name", "family", "file") if key in content]:
        raise wrong(*(f"{key}: follows from the place of the file" for key in taken))
    try:
        return Recipe.model_validate({**content, "name": name, "family": family, "file": file})
    except ValidationError as error:
        raise wrong(*map(_reason, error.errors())) from None


def _content(file: Path, wrong: Callable[..., TroupeError]) -> dict[str, Any]:
    """The content of a file as texts, which pydantic turns into numbers. Raises what `wrong` makes of a reason."""
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise wrong("is too large for a recipe")
        node = yaml.compose(file.read_text(encoding="utf-8"), loader)
        twice = [f"{key}: given twice" for key in _given_twice(node)]
        content: Any = yaml.load(file.read_text(encoding="utf-8"), loader)
    except OSError as error:
        raise wrong(f"cannot be read ({error.strerror})") from None
    except RecursionError:
        raise wrong("is nested too deeply") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise wrong(f"is not YAML ({' '.join(str(error).split())[:200]})") from None
    if twice:
        raise wrong(*twice)
    if not isinstance(content, dict):
        raise wrong("requires lines of the form `key: value`")
    return content


def _given_twice(node: Any, above: str = "") -> Iterator[str]:
    """The keys, with those above them, that a YAML mapping has more than once."""
    known: set[str] = set()
    for key, value in node.value if getattr(node, "id", "") == "mapping" else ():
        name = f"{above}{key.value}"
        if name in known:
            yield name
        known.add(name)
        yield from _given_twice(value, f"{name}.")


def _reason(error: ErrorDetails) -> str:
    """An error of pydantic, for users: the key, and what is wrong with it."""
    key = ".".join(str(part) for part in error["loc"] if part not in ("str", "list[str]"))
    match error["type"]:
        case "missing":
            what = "is missing"
        case "extra_forbidden":
            *_, last = error["loc"]
            known = {name for part in (Recipe, Published, Ours, Time, Minutes) for name in part.model_fields}
            what = "; ".join(filter(None, ["no such key", did_you_mean(str(last), known)]))
        case "value_error":
            what = error["msg"].removeprefix("Value error, ")
        case _:
            what = f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    return f"{key}: {what}" if key else what


def _time(minutes: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 days`."""
    if minutes < 1.5:
        return f"{60 * minutes:.0f} s"
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 2880 else f"{minutes / 1440:.0f} days"
