"""The base of requests: the arguments of a verb as typed fields, from a command line or a Python call.

A field is a name given by its position (`FAMILY`), an option (`--name NAME`; a bool is a flag), the settings
(`key=value`), an argument of the Python call alone (`progress`), or internal. Imports nothing heavy.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from trainers.base.errors import USAGE, TroupeError, did_you_mean
from trainers.base.old_names import ARGUMENTS, OPTIONS
from trainers.base.paths import expanded
from trainers.base.problems import Problem, show_value
from trainers.settings.fields import LARGEST, union_members

Kind = Literal["name", "option", "settings", "python", "internal"]


def _as_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, Path) else value


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_path, value)) if isinstance(value, (list, tuple)) else value


def _as_number(value: Any) -> Any:
    return float(value) if type(value) is int else value


# The text is the type that a Python caller sees
UserPath = Annotated[Path, BeforeValidator(_as_path), "str | Path"]
UserPaths = Annotated[tuple[Path, ...], BeforeValidator(_as_tuple), "Sequence[str | Path]"]
Name = Annotated[str, BeforeValidator(_as_text), "str | Path"]
Names = Annotated[tuple[Name, ...], BeforeValidator(_as_tuple), "str | Path"]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Amount = Annotated[float, BeforeValidator(_as_number), Field(gt=0, le=LARGEST)]


class Option(NamedTuple):
    """An option of the command line: `--name VALUE`, or a flag `--name` if `value` is empty."""

    name: str
    value: str
    help: str
    repeats: bool = False


def positional(metavar: str, default: Any = ...) -> Any:
    """A field given by its position; required if it has no default."""
    return Field(default, json_schema_extra={"kind": "name", "value": metavar})


def option(help: str, value: str = "", default: Any = None, *, typed: str = "") -> Any:
    """A field given as an option; `typed` is its name there, if not that of the field."""
    return Field(default, description=help, json_schema_extra={"kind": "option", "value": value, "typed": typed})


def flag(help: str) -> Any:
    return option(help, default=False)


def settings_field() -> Any:
    """The field of the settings: texts from the command line, values of any type from Python."""
    return Field(default_factory=dict, json_schema_extra={"kind": "settings"})


def python(default: Any) -> Any:
    """A field that only the Python call has."""
    return Field(default, json_schema_extra={"kind": "python"})


def internal(default: Any) -> Any:
    """A field that no user gives."""
    return Field(default, json_schema_extra={"kind": "internal"})


class VerbRequest(BaseModel):
    """The checked arguments of one verb."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True)

    verb: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    example: ClassVar[str] = ""

    runs: Path = internal(Path("runs"))  # the folder of the runs on this machine

    @classmethod
    def fields(cls, *kinds: Kind) -> dict[str, Any]:
        """The fields of these kinds: names to what `option` and the others declare, with `help`."""
        by_name: dict[str, Any] = {}
        for field, info in cls.model_fields.items():
            facts: Any = info.json_schema_extra
            if facts["kind"] in kinds:
                by_name[field] = {**facts, "help": info.description or "", "required": info.is_required()}
        return by_name

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The options, by field."""
        types_of, by_field = _types_of(cls), {}
        for field, facts in cls.fields("option").items():
            typed = facts["typed"] or field.replace("_", "-")
            by_field[field] = Option(typed, facts["value"], facts["help"], _holds(types_of[field], tuple))
        return by_field

    @classmethod
    def positions(cls) -> dict[str, str]:
        """The names in order, as a usage line shows them: by field, `[NAME]` if optional, `NAME...` for several."""
        by_field, types_of = {}, _types_of(cls)
        for field, facts in cls.fields("name").items():
            several = _holds(types_of[field], tuple)
            if several and facts["required"]:
                by_field[field] = f"{facts['value']} [{facts['value']}...]"
            else:
                one = facts["value"] + ("..." if several else "")
                by_field[field] = one if facts["required"] else f"[{one}]"
        return by_field

    @classmethod
    def takes_settings(cls) -> bool:
        return "settings" in cls.model_fields

    @classmethod
    def from_command(
        cls, names: Sequence[str], given: Mapping[str, Any], options: Mapping[str, list[str]]
    ) -> tuple[Self | None, list[Problem]]:
        """A request from the parts of a command line: names, settings, and the values of each option (none for a flag).

        Returns it with the problems of its options, which are left out of it; None if a name is missing.
        """
        values: dict[str, Any] = {"settings": dict(given)} if cls.takes_settings() else {}
        values |= cls._placed(names)
        kinds, texts = _types_of(cls), {}
        for field, one in cls.options().items():
            if (given_texts := options.get(one.name)) is not None:
                text = given_texts[-1] if given_texts else True
                values[field] = tuple(given_texts) if one.repeats else _read(kinds[field], text)
                texts[field] = (f"--{one.name}", text)
        request, problems = cls._made(values, texts)
        return request, [one for field, one in problems.items() if field in texts]  # the parser reports names

    @classmethod
    def from_call(cls, names: Sequence[Any], arguments: Mapping[str, Any]) -> Self:
        """A request from a Python call. Raises TroupeError (exit code 2) with all problems."""
        fields = cls.fields("name", "option", "python")
        values = {field: value for field, value in arguments.items() if field in fields}
        several = [field for field in cls.fields("name") if _holds(_types_of(cls)[field], tuple)]
        room = len(names) if several else len(cls.fields("name"))
        problems = [
            Problem("too-many", f"{extra!r:.60}", "unexpected argument; pass it by name") for extra in names[room:]
        ]
        values |= cls._placed(names[:room])
        others = {field: value for field, value in arguments.items() if field not in fields}
        renamed = {field: new for field, new in _renamed(cls).items() if field in others}
        problems += [Problem("renamed", field, f"was renamed; use {new}") for field, new in renamed.items()]
        if cls.takes_settings():
            values["settings"] = {field: value for field, value in others.items() if field not in renamed}
        else:
            reason = f"no such argument of {cls.verb}"
            unknown = [field for field in others if field not in renamed]
            problems += [Problem("unknown-option", field, reason, did_you_mean(field, fields)) for field in unknown]
        request, wrong = cls._made(values, {})
        conflicts = request.conflicts() if request is not None and not wrong else []
        if problems := [*wrong.values(), *problems, *conflicts]:
            raise TroupeError(problems, USAGE)
        assert request is not None
        return request

    @classmethod
    def _placed(cls, names: Sequence[Any]) -> dict[str, Any]:
        """Names by field; the last field takes all others if it has room for several."""
        values: dict[str, Any] = {}
        for index, field in enumerate(cls.fields("name")):
            if _holds(_types_of(cls)[field], tuple):
                if names[index:]:
                    values[field] = tuple(names[index:])
            elif index < len(names):
                values[field] = names[index]
        return values

    @classmethod
    def _made(
        cls, values: Mapping[str, Any], texts: Mapping[str, tuple[str, Any]]
    ) -> tuple[Self | None, dict[str, Problem]]:
        """A request of the valid values, and by field the problems of the others; `texts` are options as typed."""
        name_fields, problems = cls.fields("name"), dict[str, Problem]()
        for field, value in values.items():
            if field != "settings" and _is_empty(value):
                inside = isinstance(value, tuple) and field in name_fields
                about = cls.verb if inside else texts[field][0] if field in texts else field
                problems[field] = Problem("missing", about, "a name is empty" if inside else "is empty")
        good = {field: value for field, value in values.items() if field not in problems}
        try:
            return cls(**good), problems
        except ValidationError as error:
            for one in error.errors():
                field = str(one["loc"][0])
                about, value = texts.get(field, (field, f"{one['input']!r:.60}"))
                problems.setdefault(field, cls._problem_of(field, one, about, value))
        order = sorted(
            cls.model_fields, key=lambda field: _holds(_types_of(cls)[field], tuple) and field in name_fields
        )
        in_order = {field: problems[field] for field in sorted(problems, key=order.index)}
        try:
            return cls(**{field: value for field, value in good.items() if field not in problems}), in_order
        except ValidationError:
            return None, in_order

    @classmethod
    def _problem_of(cls, field: str, error: ErrorDetails, about: str, value: Any) -> Problem:
        """An error of pydantic, for users."""
        bounds, annotation = error.get("ctx", {}), _types_of(cls)[field]
        if error["type"] == "missing":
            if _holds(annotation, tuple):
                return Problem("missing", cls.verb, f"needs a name, as in {cls.verb}('dcgan-1')")
            return Problem("missing", field, f"is missing, as in {cls.verb}({field}=...)")
        if len(error["loc"]) > 1 and isinstance(error["loc"][1], int) and field in cls.fields("name"):
            return Problem("bad-value", value, "must be a name or a path")
        if _holds(annotation, int):
            least = _least(annotation)
            bound = f"at most {bounds['le']}" if "le" in bounds else f"at least {least}"
            return Problem("bad-value", about, f"must be a whole number, {bound}", value=value)
        if _holds(annotation, float):
            bound = f", at most {bounds['le']:.0f}" if "le" in bounds else ""
            return Problem("bad-value", about, f"must be a number above 0{bound}", value=value)
        must = shown_type(annotation).replace(" | ", " or ")
        return Problem("bad-value", about, f"must be {must}", value=value)

    @classmethod
    def signature(cls) -> Signature:
        """The signature of the Python call."""
        parameters, kinds = [], _types_of(cls)
        names = cls.fields("name")
        for field, facts in cls.fields("name", "option", "python").items():
            several = field in names and _holds(kinds[field], tuple)
            kind: Any = Parameter.KEYWORD_ONLY if field not in names else Parameter.POSITIONAL_OR_KEYWORD
            kind = Parameter.VAR_POSITIONAL if several else kind
            default = Parameter.empty if facts["required"] or several else cls.model_fields[field].get_default()
            default = str(default) if isinstance(default, Path) else default
            annotation = "str | Path" if several else shown_type(kinds[field])
            parameters.append(Parameter(field, kind, default=default, annotation=annotation))
        if cls.takes_settings():
            parameters.append(Parameter("settings", Parameter.VAR_KEYWORD, annotation="Any"))
        return Signature(parameters)

    @classmethod
    def argument_schema(cls, settings: type[BaseModel] | None = None) -> dict[str, Any]:
        """The JSON schema of the arguments, by their names in Python; with the settings of a family if given."""
        schema = _plain_schema(cls, [*cls.fields("name", "option", "settings")])
        if settings is not None:
            schema["properties"]["settings"] = _plain_schema(settings, [*settings.model_fields])
        return schema

    def arguments(self, *left_out: str) -> tuple[str, ...]:
        """The arguments after the verb for the same command, without the options of these fields."""
        line: list[str] = []
        for field in self.fields("name"):
            value = getattr(self, field)
            line += map(str, value) if isinstance(value, tuple) else [] if value is None else [str(value)]
        line += [f"{key}={show_value(value)}" for key, value in getattr(self, "settings", {}).items()]
        for field, one in self.options().items():
            value = getattr(self, field)
            if field in left_out or field not in self.model_fields_set or value is None or value is False:
                continue
            for part in value if isinstance(value, tuple) else [value]:
                line += [f"--{one.name}", show_value(part)] if one.value else [f"--{one.name}"]
        return tuple(line)

    def with_local_paths(self) -> Self:
        """The same request with `~` in its paths replaced, and the folders of custom families absolute."""
        changes: dict[str, Any] = {}
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, Path):
                changes[field] = expanded(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], Path):
                changes[field] = tuple(map(expanded, value))
        if "families" in changes:
            changes["families"] = tuple(path.resolve() for path in changes["families"])
        return self.replaced(**changes)

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values; which fields the user has given stays the same."""
        copy = self.model_copy(update=changes)
        copy.model_fields_set.intersection_update(self.model_fields_set)
        return copy

    def conflicts(self) -> list[Problem]:
        """Problems of options that are each valid."""
        return []

    def reads(self) -> Sequence[str] | None:
        """The runs whose files are needed on this machine if they are in a bucket; None: all."""
        return []

    def runs_given(self) -> str | None:
        """The folder of runs, or the bucket, as given; None if the verb needs none on this machine."""
        return getattr(self, "runs_dir", None)

    reads_checkpoints: ClassVar[bool] = False


RequestType = TypeVar("RequestType", bound=VerbRequest)


def _plain_schema(model: type[BaseModel], names: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of some fields of a model, without what only we declare."""
    whole = model.model_json_schema()
    ours = ("title", "kind", "value", "typed", "group", "unit", "source", "bounds", "log", "free", "network")
    properties = {
        name: {key: value for key, value in whole["properties"][name].items() if key not in ours} for name in names
    }
    required = [name for name in whole.get("required", []) if name in names]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@functools.cache
def _types_of(cls: type[VerbRequest]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _holds(annotation: Any, kind: type) -> bool:
    """Whether a type, or a member of a union, is `kind`."""
    plain = [_plain(part) for part in union_members(annotation)]
    return any(one is kind or get_origin(one) is kind for one in plain)


def _least(annotation: Any) -> Any:
    """The lower bound of an integer."""
    for part in union_members(annotation):
        for info in get_args(part)[1:] if get_origin(part) is Annotated else ():
            for bound in getattr(info, "metadata", ()):
                if hasattr(bound, "ge"):
                    return bound.ge
    raise AssertionError(f"{annotation} has no lower bound")


def shown_type(annotation: Any) -> str:
    """A type as a Python caller sees it."""
    parts = []
    for part in union_members(annotation):
        texts = [one for one in get_args(part)[1:] if isinstance(one, str)] if get_origin(part) is Annotated else []
        plain = _plain(part)
        parts += texts[:1] or ["None" if plain is type(None) else getattr(plain, "__name__", str(plain))]
    return " | ".join(parts)


def _read(annotation: Any, text: Any) -> Any:
    """The text of an option as a number, if its field is one and the text too; otherwise unchanged."""
    if not isinstance(text, str) or not text.isascii():
        return text
    if _holds(annotation, int):
        digits = text.lstrip("0") or text[:1]
        return int(digits[:20]) if text.isdecimal() else text  # more digits are beyond any bound too
    if _holds(annotation, float) and "_" not in text:
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _is_empty(value: Any) -> bool:
    several = value if isinstance(value, (tuple, list)) else [value]
    return any(isinstance(one, (str, Path)) and not str(one).strip() for one in several)


def _renamed(cls: type[VerbRequest]) -> dict[str, str]:
    """Former names of arguments that this verb has by other names."""
    fields = {one.name: field for field, one in cls.options().items()}
    of_options = {old.replace("-", "_"): fields[new] for old, new in OPTIONS.items() if new in fields}
    return of_options | {old: new for old, new in ARGUMENTS.items() if new in cls.model_fields}
