"""Typed settings: one declaration gives default, bounds, help, parsing of `key=value`, and whether it defines the run.

Does not import torch: all arguments are checked before anything heavy is loaded.
"""

from __future__ import annotations

import copy
import json
import math
import numbers
import os
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails

from trainers.base import old_names
from trainers.base.errors import USAGE, TroupeError, did_you_mean
from trainers.base.problems import Problem, show_value

Kind = Literal["defining", "running"]
Group = Literal["network", "data", "optimizer", "schedule", "evaluation", "run"]
GROUPS: tuple[Group, ...] = get_args(Group)  # in display order
KEYS = {"at least": "ge", "above": "gt", "at most": "le", "below": "lt"}  # pydantic's keys
BOUNDS = {
    "at least": "greater_than_equal",
    "above": "greater_than",
    "at most": "less_than_equal",
    "below": "less_than",
}  # pydantic's errors
LARGEST = 10**9  # default bound of numbers


def setting(
    default: Any,
    help: str,
    *,
    kind: Kind = "defining",
    group: Group = "network",
    unit: str = "",
    source: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    log: bool = False,
    free: bool = False,
    network: bool = False,
) -> Any:
    """Declare one setting. `defining` settings define the numbers of a run; `running` ones can change at any time. Help
    and dry runs list it under its `group`.

    The bounds apply to numbers, not to words that a setting also accepts (`auto`); without bounds, a number is from
    -LARGEST to LARGEST. `source` is the paper and section of the default. A search samples ranges of a `log` setting
    on a log scale, and takes the text of a `free` one unchanged, since it can be a path. A `network` setting defines
    the networks, so it is taken over with weights that a run starts from.
    """
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    facts: Any = {
        "kind": kind,
        "group": group,
        "unit": unit,
        "source": source,
        "bounds": {k: v for k, v in bounds.items() if v is not None},
        "log": log,
        "free": free,
        "network": network,
    }
    return Field(default, description=help, json_schema_extra=facts)


UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([a-z]+)")
LONGEST = 8760.0  # hours


def seconds_of(span: str) -> float:
    """Seconds of a time such as `90s`, `10min` or `2h`. Raises ValueError with the reason and a hint."""
    match = SPAN.fullmatch(span)
    if match is None:
        raise ValueError("is not a time", "use 90s, 10min or 2h")
    number, unit = match.groups()
    if unit not in UNITS:
        likely = next((known for known in UNITS if unit[0] == known[0]), "h")
        raise ValueError(f"{unit} is not a unit of time", f"use s, min or h, as in {number}{likely}")
    seconds = float(number) * UNITS[unit]
    if not 0 < seconds <= LONGEST * UNITS["h"]:
        raise ValueError(f"must be above 0s, at most {LONGEST:g}h")
    return seconds


def _held_span(span: str) -> str:
    seconds_of(span)
    return span


Span = Annotated[str, AfterValidator(_held_span)]  # kept as given


class Check(NamedTuple):
    """A rule across settings: `rule(*values of fields)` returns a problem or None; a custom family can return a
    text."""

    fields: tuple[str, ...]
    rule: Callable[..., Problem | str | None]


def as_problems(told: Iterable[Problem | str]) -> list[Problem]:
    """The results of rules as problems; custom families can return texts."""
    return [one if isinstance(one, Problem) else Problem("own-rule", reason=one) for one in told]


OTHER_NAMES = {
    "lr": "learning_rate", "bs": "batch_size", "wd": "weight_decay", "num_classes": "classes", "dataset": "data",
    "num_workers": "workers", "gpus": "workers", "max_steps": "steps", "max_epochs": "epochs", "num_epochs": "epochs",
    "scheduler": "schedule", "lr_scheduler": "schedule", "dtype": "precision",
    "img_size": "image_size", "size": "image_size", "arch": "model",
    "width_factor": "widen_factor", "hidden_size": "units", "num_layers": "layers", "padding_mode": "padding",
    "negative_slope": "leaky_slope",
}  # what other tools call a setting  # fmt: skip


class Settings(BaseModel):
    """Typed, immutable settings, read from `key=value` arguments; a setting `class_` is given as `class`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    checks: ClassVar[tuple[Check, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}  # that differ from those of the base class

    @classmethod
    def from_words(cls, words: Mapping[str, Any], family: str = "the family") -> tuple[Self | None, list[Problem]]:
        """Read `key=value` arguments (texts, or values of the right type) into a config; reports all errors at once.

        Returns (config, []) or (None, problems).
        """
        problems: list[Problem] = []
        words = old_names.own_names(words, cls.model_fields)
        words = {f"{name}_" if f"{name}_" in cls.model_fields else name: value for name, value in words.items()}
        good: dict[str, Any] = {name: field.get_default() for name, field in cls.model_fields.items()}
        good |= cls.overridden_defaults(words)
        given, wrong = cls._read(words)
        good |= cls._valid(good, given, wrong)
        for name, value in words.items():
            if name not in cls.model_fields:
                problems.append(cls._unknown(name, value, family))
            elif name in wrong:
                del good[name]
                reason, hint = (*map(str, wrong[name].args), "")[:2]
                shown = value if isinstance(value, str) else f"{value!r:.60}"
                problems.append(Problem("bad-value", name.rstrip("_"), reason, hint, shown))
        said = {name: good[name] for name in words if name in good}
        following = old_names.current(cls.derived_defaults(said), cls.model_fields)
        good |= {name: value for name, value in following.items() if name not in words}
        for check in cls.checks:
            names = [*old_names.current(dict.fromkeys(check.fields), cls.model_fields)]
            if all(name in good for name in names):
                problem = check.rule(*(good[name] for name in names))
                problems += as_problems([problem] if problem else [])
        problems += as_problems(cls.validate_settings(good, family))
        return (None, problems) if problems else (cls(**good), [])

    @classmethod
    def _read(cls, words: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, ValueError]]:
        """The values of known settings, texts parsed; and why others cannot be parsed."""
        given, wrong = dict[str, Any](), dict[str, ValueError]()
        for name in words.keys() & cls.model_fields.keys():
            annotation, value = cls.model_fields[name].annotation, words[name]
            try:
                given[name] = (
                    read_value(annotation, value) if isinstance(value, str) else plain_value(annotation, value)
                )
            except ValueError as error:
                wrong[name] = error
        return given, wrong

    @classmethod
    def _valid(
        cls, defaults: Mapping[str, Any], given: Mapping[str, Any], wrong: dict[str, ValueError]
    ) -> dict[str, Any]:
        """The settings as pydantic converts them, texts (such as paths) as given; for each that it rejects, the reason
        is added to `wrong`."""
        texts = {name: value for name, value in given.items() if isinstance(value, str)}
        try:
            return {**dict(cls.model_validate({**defaults, **given})), **texts}
        except ValidationError as error:
            errors = error.errors()
            if not {one["loc"][0] for one in errors} & given.keys():
                raise  # only defaults are wrong, which no user gave
        for one in sorted(errors, key=lambda one: one["type"] not in BOUNDS.values()):  # of a union, that of its number
            if (name := str(one["loc"][0])) in given:
                wrong.setdefault(name, ValueError(*_reason(cls.model_fields[name], one)))
        return cls._valid(defaults, {name: value for name, value in given.items() if name not in wrong}, wrong)

    @classmethod
    def _unknown(cls, name: str, value: Any, family: str) -> Problem:
        new = old_names.SETTINGS.get(name)
        if new in cls.model_fields:
            return Problem("renamed", name, "was renamed", f"use {new}={show_value(value)}")
        usual = OTHER_NAMES.get(name)
        hint = f"did you mean {usual}?" if usual in cls.model_fields else did_you_mean(name, cls.model_fields)
        return Problem("unknown-setting", name, f"no such setting of {family}", hint)

    @classmethod
    def stored(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Those of stored settings that the class has, under the names by which it declares them."""
        named = old_names.own_names(settings, cls.model_fields)
        return {name: value for name, value in named.items() if name in cls.model_fields}

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A setting by its old name, for custom families."""
            new = old_names.SETTINGS.get(name)
            return getattr(self, new) if new in type(self).model_fields else super().__getattr__(name)

    @classmethod
    def of(cls, words: Mapping[str, Any], family: str = "the family") -> Self:
        """As `from_words`, but raises TroupeError (exit code 2) with all problems."""
        config, problems = cls.from_words(words, family)
        if config is None:
            raise TroupeError(problems, USAGE)
        return config

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of the model, in which the numbers of each setting have its bounds."""
        schema: Any = handler(source)
        model: Any = schema["schema"] if schema["type"] == "model" else {}
        for name, field in model.get("fields", {}).items():
            field["schema"] = _bounded(field["schema"], _limits(cls.model_fields[name]))
        bounded: CoreSchema = schema
        return bounded

    @classmethod
    def __pydantic_init_subclass__(cls, **words: Any) -> None:
        for name, value in old_names.current(cls.__dict__.get("defaults", {}), cls.model_fields).items():
            field = copy.copy(cls.model_fields[name])
            field.default = value
            field.json_schema_extra = {**_facts(field), "source": ""}  # it was for the other default
            cls.model_fields[name] = field
        if "defaults" in cls.__dict__:
            cls.model_rebuild(force=True)

    @classmethod
    def derived_defaults(cls, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """Defaults that depend on the given settings (`said`), such as those of a model or an optimizer."""
        return {}

    @classmethod
    def overridden_defaults(cls, words: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values of settings that the given ones override."""
        return {}

    @classmethod
    def validate_settings(cls, good: Mapping[str, Any], family: str) -> list[Problem]:
        """Problems of settings that are each valid, besides those that `checks` find."""
        return []

    @classmethod
    def common(cls) -> Collection[str]:
        """Settings common to all these classes, shown last."""
        return ()

    def defining_settings(self) -> dict[str, Any]:
        """The settings that define the numbers of the run."""
        return {row.name: getattr(self, row.name) for row in type(self).described() if row.kind == "defining"}

    @classmethod
    def network_settings(cls) -> list[str]:
        """The names of the settings that define the networks."""
        return [name for name, field in cls.model_fields.items() if _facts(field)["network"]]

    @classmethod
    def described(cls, words: Mapping[str, Any] | None = None) -> Iterator[Described]:
        """Each setting for display, the family's own first; with the defaults that apply given `words`, if valid."""
        defaults = cls.from_words(words or {})[0]
        own = [name for name in cls.model_fields if name not in cls.common()]
        for name in own + [name for name in cls.model_fields if name in cls.common()]:
            field = cls.model_fields[name]
            facts = _facts(field)
            default = getattr(defaults, name) if defaults is not None else field.get_default()
            source = facts["source"] if default == field.get_default() else ""  # it is for another default
            yield Described(
                name,
                show_value(default),
                _bounds(field),
                facts["unit"],
                facts["kind"],
                facts.get("group", "network"),
                field.description or "",
                source,
            )


class Described(NamedTuple):
    name: str
    default: str
    bounds: str
    unit: str
    kind: str
    group: str
    help: str
    source: str


def read_value(annotation: Any, text: str) -> Any:
    """Parse the text of a `key=value` argument by the type of its setting. Raises ValueError with the reason, and a
    hint if there is one.

    `1:2:4` is a list; `a,b` and `a..b` are choices and ranges, which only a search accepts.
    """
    options = union_members(annotation)
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    if str in options or text in words:
        return text
    if text.lower() == "none" and type(None) in options:
        return None
    if "," in text and any(get_origin(option) is tuple for option in options):
        raise ValueError("list items are separated by colons", f"use {text.replace(',', ':')}")
    if Span in options and text[-1:].isalpha():
        seconds_of(text.lower())
        return text.lower()
    if "," in text or ".." in text:
        raise ValueError("one value is required", "choices (a,b) and ranges (a..b) are for searches")
    for option in options:
        if get_origin(option) is tuple:
            return _read_list(option, text, words)
        if option in READERS:
            return READERS[option](text, words)
    if not words:
        raise ValueError("cannot be a single value")
    raise ValueError(f"is not one of {', '.join(words)}", did_you_mean(text, words))


def _read_list(option: Any, text: str, words: Sequence[str]) -> tuple[Any, ...]:
    """Numbers separated by colons, as many as the type has."""
    (item, *others), parts = get_args(option), text.split(":")
    if words and len(parts) == 1:
        raise ValueError(f"is not one of {', '.join(words)}, nor numbers as in 0:1", did_you_mean(text, words))
    if ... not in others and len(parts) != 1 + len(others):
        raise ValueError(f"needs {1 + len(others)} numbers, not {len(parts)}")
    return tuple(read_value(item, part) for part in parts)


def _read_bool(text: str, words: Sequence[str]) -> bool:
    yes, no = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
    if text.lower() not in yes + no:
        raise ValueError("is neither true nor false")
    return text.lower() in yes


def _read_int(text: str, words: Sequence[str]) -> int:
    number = number_of(text, words)
    if number != int(number):
        raise ValueError("is not an integer")
    return int(text) if text.lstrip("+-").isdigit() else int(number)


def number_of(text: str, words: Sequence[str] = ()) -> float:
    """A finite number; `words` are the accepted alternatives, for the error."""
    try:
        number = float(text if text.isascii() and "_" not in text else "")
    except ValueError:
        raise ValueError("is not a number" + (f", nor one of {', '.join(words)}" if words else "")) from None
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    return number


READERS: dict[Any, Callable[[str, Sequence[str]], Any]] = {bool: _read_bool, int: _read_int, float: number_of}


def plain_value(annotation: Any, value: Any) -> Any:
    """A Python value that is not a text, as pydantic takes it: numbers of other libraries as Python's, lists as tuples.
    Raises ValueError with the expected types for bytes, and for a bool in the place of a number."""
    if isinstance(value, (bytes, bytearray)) or (isinstance(value, bool) and bool not in union_members(annotation)):
        raise ValueError(_must_be(annotation))
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, int, float)):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, (tuple, list)):  # JSON and YAML have only lists
        return tuple(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _must_be(annotation: Any) -> str:
    names = {
        int: "an integer",
        float: "a number",
        bool: "True or False",
        str: "a string",
        type(None): "None",
        Span: "a time such as '10min'",
    }
    options = union_members(annotation)
    wanted = [names.get(option, "a tuple of numbers") for option in options if get_origin(option) is not Literal]
    wanted += [repr(word) for option in options if get_origin(option) is Literal for word in get_args(option)]
    return f"must be {' or '.join(wanted)}"


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON stores them."""
    kept: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return kept


def _facts(field: FieldInfo) -> dict[str, Any]:
    assert isinstance(field.json_schema_extra, dict), "declare every setting with setting()"
    return field.json_schema_extra


def _limits(field: FieldInfo) -> dict[str, float]:
    """The bounds of a setting's numbers, as pydantic names them."""
    limits = {KEYS[bound]: limit for bound, limit in _facts(field)["bounds"].items()}
    lower = {} if limits.keys() & {"ge", "gt"} else {"ge": -LARGEST}
    return limits | lower | ({} if limits.keys() & {"le", "lt"} else {"le": LARGEST})


def _bounded(schema: Any, limits: Mapping[str, float]) -> Any:
    """A schema of pydantic with these bounds on its numbers; only True and False are bools."""
    kind = schema["type"]
    if kind in ("int", "float"):
        return {**schema, **limits}
    if kind == "bool":
        return {**schema, "strict": True}
    if kind == "union":
        return {**schema, "choices": [_bounded(choice, limits) for choice in schema["choices"]]}
    if kind == "tuple":
        return {**schema, "items_schema": [_bounded(item, limits) for item in schema["items_schema"]]}
    return {**schema, "schema": _bounded(schema["schema"], limits)} if "schema" in schema else schema


def _reason(field: FieldInfo, error: ErrorDetails) -> tuple[str, ...]:
    """Why pydantic rejects a value, for users."""
    kind, limits = error["type"], error.get("ctx", {})
    for bound, code in BOUNDS.items():
        if kind == code:
            part = " (a fraction of the run, as in 0.3)" if _facts(field)["unit"] == "share" else ""
            return (f"must be {bound} {show_value(limits[KEYS[bound]])}{part}",)
    if kind == "finite_number":
        return ("is not a finite number",)
    if kind == "int_from_float":
        return ("is not an integer",)
    return limits["error"].args if kind == "value_error" else (_must_be(field.annotation),)


def _bounds(field: FieldInfo) -> str:
    """Choices and bounds for display: `auto or at least 8, at most 1024`."""
    annotation = field.annotation
    options = union_members(annotation)
    words = [str(word) for option in options if get_origin(option) is Literal for word in get_args(option)]
    if bool in options:
        words = ["true", "false"]
    if Span in options:
        words.append("a time such as 90s, 10min or 2h")
    limits = ", ".join(f"{bound} {show_value(limit)}" for bound, limit in _facts(field)["bounds"].items())
    return " or ".join(part for part in ("|".join(words), limits) if part)


def show_size(count: float) -> str:
    """Bytes for display: `75.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
