"""Typed settings: one declaration gives the default, the bounds, the help, the reading of `key=value`, and the recipe.

Imports no torch: words are checked, all of them, before anything heavy is loaded.
"""

from __future__ import annotations

import copy
import json
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from trainers.engine.errors import WORDS, TroupeError, did_you_mean
from trainers.engine.paths import expanded

Kind = Literal["recipe", "running"]


def setting(
    default: Any,
    help: str,
    *,
    kind: Kind = "recipe",
    unit: str = "",
    source: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare one setting. `recipe` settings fix the numbers of a run; `running` ones may change at any time.

    The bounds hold for numbers, not for the words that a setting may take beside them (`auto`); `source` names the
    paper and section of the default.
    """
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    facts: Any = {
        "kind": kind,
        "unit": unit,
        "source": source,
        "bounds": {k: v for k, v in bounds.items() if v is not None},
    }
    return Field(default, description=help, json_schema_extra=facts)


class Check(NamedTuple):
    """A rule across settings: `rule(*values of fields)` returns what is wrong, or None."""

    fields: tuple[str, ...]
    rule: Callable[..., str | None]


def _whole_microbatches(batch_size: int, microbatch_size: int) -> str | None:
    if batch_size % microbatch_size == 0:
        return None
    fitting = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    nearest = min(fitting, key=lambda size: abs(size - microbatch_size))
    return f"microbatch_size={microbatch_size}: does not divide batch_size={batch_size}; say microbatch_size={nearest}"


def _enough_microbatches(workers: int, batch_size: int, microbatch_size: int) -> str | None:
    if batch_size % microbatch_size or workers <= batch_size // microbatch_size:
        return None
    fitting = [size for size in range(1, batch_size + 1) if batch_size % size == 0 and batch_size // size >= workers]
    count = batch_size // microbatch_size
    advice = f"microbatch_size={max(fitting)}" if fitting else f"batch_size={workers * microbatch_size}"
    return (
        f"workers={workers}: more workers than the {count} micro-batches of a batch "
        f"(batch_size={batch_size} / microbatch_size={microbatch_size}); say {advice}"
    )


def _two_momenta(momenta: tuple[float, ...]) -> str | None:
    if len(momenta) == 2:
        return None
    return f"cycle_momentum={show_value(momenta)}: needs two, as in cycle_momentum=0.95:0.85"


def _rising_shares(shares: tuple[float, ...]) -> str | None:
    if list(shares) == sorted(set(shares)):
        return None
    return f"decay_at={show_value(shares)}: must rise, as in decay_at=0.5:0.75"


def _peak_before_tail(peak: float | str, tail: float) -> str | None:
    if isinstance(peak, str) or peak < 1 - tail:
        return None
    return f"cycle_peak={show_value(peak)}: must lie before the tail, below {show_value(1 - tail)}"


def _evaluation_needed(target: str, schedule: str, every: int | str) -> str | None:
    if every != 0 or (target == "none" and schedule != "plateau"):
        return None
    asked = f"target={target}" if target != "none" else "schedule=plateau"
    return f"{asked}: needs evaluations; say evaluate_every=auto instead of 0"


SCHEDULE_SETTINGS = {
    "cycle_ratio": ("one_cycle",), "cycle_tail": ("one_cycle",), "cycle_peak": ("one_cycle",),
    "cycle_momentum": ("one_cycle",), "decay_after": ("linear",), "decay_at": ("step",),
    "decay_factor": ("step", "plateau"), "patience": ("plateau",),
}  # fmt: skip
OTHER_NAMES = {
    "lr": "learning_rate", "bs": "batch_size", "wd": "weight_decay", "num_classes": "classes", "dataset": "data",
    "num_workers": "workers", "gpus": "workers", "max_steps": "steps", "max_epochs": "epochs", "num_epochs": "epochs",
    "scheduler": "schedule", "lr_scheduler": "schedule", "dtype": "precision", "normalization": "normalisation",
    "warmup": "warm_up", "img_size": "image_size", "size": "image_size", "arch": "model",
    "width_factor": "widen_factor",
}  # what other tools call a setting  # fmt: skip


class Config(BaseModel):
    """The settings that every family has. A family's `config.py` extends it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    checks: ClassVar[tuple[Check, ...]] = (
        Check(("batch_size", "microbatch_size"), _whole_microbatches),
        Check(("workers", "batch_size", "microbatch_size"), _enough_microbatches),
        Check(("cycle_momentum",), _two_momenta),
        Check(("decay_at",), _rising_shares),
        Check(("cycle_peak", "cycle_tail"), _peak_before_tail),
        Check(("target", "schedule", "evaluate_every"), _evaluation_needed),
    )
    summary: ClassVar[str] = ""  # one line for `troupe families`
    metrics: ClassVar[Mapping[str, Literal["max", "min"]]] = {}  # of `evaluate`, the main one first, and which is best
    tiny: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {}}  # small variants for tests and `verify`
    momentum_setting: ClassVar[str] = ""  # the setting of the optimizers' momentum, where one_cycle may move it
    defaults: ClassVar[Mapping[str, Any]] = {}  # of a family, where they differ from those of the class it extends

    steps: int = setting(
        1000, "optimizer steps, where there are no `epochs`; may be raised later where the schedule stays flat",
        unit="steps", at_least=0,
    )  # fmt: skip
    epochs: float | None = setting(
        None, "passes over the training part, from which `steps` follows; none: as `steps` says", unit="epochs", above=0
    )
    target: str = setting(
        "none", "stop when an evaluation reaches this, as in eval_accuracy:0.94, and record the time to it",
        kind="running",
    )  # fmt: skip
    batch_size: int = setting(64, "samples in one step, over all workers", unit="samples", at_least=1)
    microbatch_size: int = setting(
        16, "samples computed at once; never depends on the number of workers", unit="samples", at_least=1
    )
    seed: int = setting(0, "seed of everything random in the run", at_least=0, at_most=2**63 - 1)
    precision: Literal["float32", "float64", "bfloat16"] = setting(
        "float32", "number format; bfloat16 by autocast, with float32 weights"
    )
    exchange: Literal["auto", "exact", "ddp"] = setting(
        "auto", "how gradients meet: exact (same bits for any number of workers) or ddp; auto: exact on CPUs"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to compute; auto: a GPU where there is one")
    threads_per_worker: int = setting(1, "CPU threads of each worker", unit="threads", at_least=1, at_most=512)
    memory_format: Literal["channels_last", "contiguous"] = setting("channels_last", "layout of images and filters")
    ema: float = setting(0.0, "decay of the running average of weights, 0 for none", at_least=0, below=1)
    evaluate_on: Literal["test", "validation"] = setting(
        "test", "learn from the whole training part, or hold out a tenth of it to evaluate on"
    )
    evaluate_every: int | Literal["auto"] = setting(
        "auto", "evaluate after so many steps and at the end, 0 for never; auto: seldom enough for 5 % of the time",
        unit="steps", at_least=0,
    )  # fmt: skip
    compile: bool = setting(False, "torch.compile each network")
    schedule: Literal["constant", "one_cycle", "cosine", "step", "linear", "plateau"] = setting(
        "constant", "course of the learning rate over the run"
    )
    warm_up: float = setting(
        0.0, "part of the run in which the learning rate rises from 0", unit="share", at_least=0, below=1,
        source="Goyal 2017, section 2.2",
    )  # fmt: skip
    cycle_ratio: float = setting(
        20.0, "one_cycle: peak of the learning rate over its start", above=1, source="Smith 2018, section 4.1"
    )
    cycle_tail: float = setting(
        0.2, "one_cycle: part of the run for the last descent, from the start's rate to a hundredth of it",
        unit="share", at_least=0, below=1,
    )  # fmt: skip
    cycle_peak: float | Literal["auto"] = setting(
        "auto", "one_cycle: part of the run after which the peak is reached; auto: half of what is before the tail",
        unit="share", above=0, below=1,
    )  # fmt: skip
    cycle_momentum: tuple[float, ...] = setting(
        (0.95, 0.85), "one_cycle: momentum at the start and at the peak", at_least=0, below=1,
        source="Smith 2018, section 4.3",
    )  # fmt: skip
    decay_after: float = setting(
        0.5, "linear: part of the run before the learning rate falls to 0", unit="share", at_least=0, below=1
    )
    decay_at: tuple[float, ...] = setting(
        (0.3, 0.6, 0.8), "step: parts of the run after which the learning rate is multiplied by decay_factor",
        unit="share", above=0, below=1,
    )  # fmt: skip
    decay_factor: float = setting(0.2, "step and plateau: what multiplies the learning rate", above=0, below=1)
    patience: int = setting(5, "plateau: evaluations without a better main metric before it falls", at_least=1)

    workers: int = setting(1, "worker processes that share each batch", kind="running", at_least=1, at_most=4096)
    checkpoint_every: int = setting(
        250, "save after so many steps, and at the end", kind="running", unit="steps", at_least=1
    )
    keep: int = setting(3, "checkpoints kept; the best one is always kept too", kind="running", at_least=1)
    sample_every: int = setting(
        100, "draw the fixed-noise grid after so many steps", kind="running", unit="steps", at_least=1
    )
    log_every: int = setting(10, "write metrics after so many steps", kind="running", unit="steps", at_least=1)
    max_restarts: int = setting(3, "times a lost or hung worker group is started anew", kind="running", at_least=0)
    hang_after: float = setting(
        60.0, "a worker silent for so long, and for ten times its slowest micro-batch, counts as hung",
        kind="running", unit="seconds", above=0,
    )  # fmt: skip

    @classmethod
    def from_words(cls, words: Mapping[str, Any], family: str = "the family") -> tuple[Self | None, list[str]]:
        """Read `key=value` words (texts, or values of the right type) into a config; all mistakes at once.

        Returns (config, []) or (None, mistakes), a line each.
        """
        mistakes: list[str] = []
        good: dict[str, Any] = {name: field.get_default() for name, field in cls.model_fields.items()}
        if "steps" in words and "epochs" not in words:
            good["epochs"] = None
        for name, value in words.items():
            value = tuple(value) if isinstance(value, list) else value  # JSON and YAML know lists only
            field = cls.model_fields.get(name)
            if field is None:
                usual = OTHER_NAMES.get(name)
                hint = f"; did you mean {usual}?" if usual in cls.model_fields else did_you_mean(name, cls.model_fields)
                mistakes.append(f"{name}: no such setting of {family}{hint}")
                continue
            try:
                value = read_value(field.annotation, value) if isinstance(value, str) else value
                good[name] = TypeAdapter[Any](field.annotation or Any).validate_python(value)
                _hold_bounds(field, good[name])
            except (ValidationError, ValueError) as error:
                good.pop(name, None)
                reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
                mistakes.append(f"{name}={value if isinstance(value, str) else show_value(value)}: {reason}")
        said = {name: good[name] for name in words if name in good}
        good |= {name: value for name, value in cls.following(said).items() if name not in words}
        for check in cls.checks:
            if all(name in good for name in check.fields):
                mistake = check.rule(*(good[name] for name in check.fields))
                if mistake:
                    mistakes.append(mistake)
        if (mistake := cls.wrong_target(str(good.get("target", "none")), family)) is not None:
            mistakes.append(mistake)
        if not cls.metrics and good.get("evaluate_every", "auto") not in ("auto", 0):
            mistakes.append(f"evaluate_every={good['evaluate_every']}: {family} evaluates nothing; leave it out")
        if not cls.metrics and good.get("schedule") == "plateau":
            mistakes.append(f"schedule=plateau: {family} evaluates nothing that could stand still; take another")
        return (None, mistakes) if mistakes else (cls(**good), [])

    @classmethod
    def of(cls, words: Mapping[str, Any], family: str = "the family") -> Self:
        """As `from_words`, but raises TroupeError (exit code 2) with all mistakes."""
        config, mistakes = cls.from_words(words, family)
        if config is None:
            raise TroupeError(mistakes, WORDS)
        return config

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        _hold_bounds(cls.model_fields[str(info.field_name)], value)
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **words: Any) -> None:
        for name, value in cls.__dict__.get("defaults", {}).items():
            field = copy.copy(cls.model_fields[name])
            field.default = value
            field.json_schema_extra = {**_facts(field), "source": ""}  # it was that of the other default
            cls.model_fields[name] = field
        if "defaults" in cls.__dict__:
            cls.model_rebuild(force=True)

    @property
    def microbatches(self) -> int:
        """Micro-batches of one step, over all workers."""
        return self.batch_size // self.microbatch_size

    @classmethod
    def following(cls, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """Defaults that follow from the settings that were `said`, as those of a model or of an optimizer."""
        return {}

    @classmethod
    def meant(cls, word: str) -> str | None:
        """The setting that somebody may mean who takes this word for a family, as in `model=resnet20`."""
        return None

    @classmethod
    def wrong_target(cls, target: str, family: str = "the family") -> str | None:
        """What is wrong with `target=`, in a line, or None."""
        if target == "none":
            return None
        known = [f"eval_{metric}" for metric in cls.metrics]
        if not known:
            return f"target={target}: {family} evaluates nothing that could be reached"
        metric, colon, number = target.partition(":")
        if metric not in known:
            if not colon and metric.replace(".", "", 1).isdigit():
                return f"target={target}: of what? say target={known[0]}:{target}"
            advice = did_you_mean(metric, known) or f"; there are {', '.join(known)}"
            return f"target={target}: {metric} names no metric of {family}{advice}"
        try:
            _number(number)
        except ValueError:
            return f"target={target}: needs a number, as in target={known[0]}:0.94"
        return None

    def reached(self, results: Mapping[str, float]) -> bool:
        """Whether an evaluation has reached the target; never where there is none."""
        metric, _, number = self.target.partition(":")
        if metric not in results:
            return False
        better = 1 if self.metrics[metric.removeprefix("eval_")] == "max" else -1
        return better * results[metric] >= better * float(number)

    @property
    def evaluation_passes(self) -> int:
        """How often an evaluation runs a sample through the networks."""
        return 1

    @property
    def moves_momentum(self) -> bool:
        """Whether the optimizers have a momentum that one_cycle may move."""
        return bool(self.momentum_setting) and getattr(self, self.momentum_setting) > 0

    def resolved(self, facts: Mapping[str, Any]) -> Self:
        """With what follows from the size of the data: `steps` from `epochs`, and how often to evaluate.

        A pass of an evaluation costs a third of one of training, and two tenths of that is left as room: with an
        evaluation after ten times as many samples as it takes, it is 3.3 % of the time.
        """
        changes: dict[str, Any] = {}
        if self.epochs is not None:
            changes["steps"] = max(1, math.ceil(self.epochs * facts["size"] / self.batch_size))
        if self.evaluate_every == "auto":
            samples = 10 * facts["held_out"] * self.evaluation_passes
            changes["evaluate_every"] = -(-samples // self.batch_size) if self.metrics else 0
        return self.model_copy(update=changes)

    def misfit(self, facts: Mapping[str, Any]) -> list[str]:
        """What is wrong with such data for these settings, a line each: channels, image_size, classes, held_out."""
        asked = self.target != "none" or self.schedule == "plateau" or self.evaluate_every not in ("auto", 0)
        if self.metrics and asked and not facts["held_out"]:
            return ["the data holds nothing out to evaluate on; say evaluate_on=validation, or take more images"]
        return []

    @property
    def spans_the_run(self) -> bool:
        """Whether the learning rate at a step depends on how many there will be."""
        return self.schedule in ("one_cycle", "cosine", "step", "linear") or self.warm_up > 0

    def remarks(self) -> list[str]:
        """What a person should know of settings that are not wrong, a line each."""
        lines = []
        asked = f"target={self.target}" if self.target != "none" else "schedule=plateau"
        looked_at = (self.target != "none" or self.schedule == "plateau") and self.evaluate_every != "auto"
        if looked_at and int(self.evaluate_every) >= self.steps > 1:
            lines.append(
                f"{asked}: is looked at when the run is over only (evaluate_every={self.evaluate_every}, "
                f"steps={self.steps}); say evaluate_every={max(1, self.steps // 10)} for more"
            )
        for name, schedules in SCHEDULE_SETTINGS.items():
            value = getattr(self, name)
            if self.schedule not in schedules and value != type(self).model_fields[name].get_default():
                lines.append(
                    f"{name}={show_value(value)}: changes nothing with schedule={self.schedule}; it is of "
                    f"{' and '.join(schedules)}"
                )
        name = self.momentum_setting
        if self.schedule == "one_cycle" and self.moves_momentum:
            momentum = getattr(self, name)
            if momentum != type(self).model_fields[name].get_default():
                word = show_value(momentum)
                lines.append(
                    f"{name}={word}: changes nothing with schedule=one_cycle; say cycle_momentum={word}:{word}"
                )
        return lines

    def recipe(self) -> dict[str, Any]:
        """The settings that fix the numbers of the run."""
        return {row.name: getattr(self, row.name) for row in type(self).described() if row.kind == "recipe"}

    @classmethod
    def described(cls, words: Mapping[str, Any] | None = None) -> Iterator[Described]:
        """Each setting as a person should see it, the family's own first; defaults beside `words`, where they fit."""
        defaults = cls.from_words(words or {})[0]
        own = [name for name in cls.model_fields if name not in Config.model_fields]
        for name in own + [name for name in cls.model_fields if name in Config.model_fields]:
            field = cls.model_fields[name]
            facts = _facts(field)
            default = getattr(defaults, name) if defaults is not None else field.get_default()
            yield Described(
                name, show_value(default), _bounds(field), facts["unit"], facts["kind"],
                field.description or "", facts["source"],
            )  # fmt: skip


class ImageConfig(Config):
    """What every family that learns from images has besides."""

    data: str = setting("digits", "what to learn from; `troupe datasets` lists them, imagefolder:PATH takes any folder")
    image_size: int | Literal["auto"] = setting(
        "auto",
        "side of the images; auto: the next power of two, 64 for folders",
        unit="pixels",
        at_least=8,
        at_most=1024,
    )

    @field_validator("data")
    @classmethod
    def _absolute(cls, data: str) -> str:
        """A path in it as it is from any folder: a run may go on from another one."""
        name, colon, path = data.partition(":")
        return f"{name}:{expanded(path).resolve()}" if colon and path else data


class Described(NamedTuple):
    name: str
    default: str
    bounds: str
    unit: str
    kind: str
    help: str
    source: str


def read_value(annotation: Any, text: str) -> Any:
    """Read the text of a `key=value` word as its setting's type wants it. Raises ValueError with the reason.

    `1:2:4` is a list; `a,b` and `a..b` are choices and ranges, which only a search can take.
    """
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    if str in options or text in words:
        return text
    if text.lower() == "none" and type(None) in options:
        return None
    if "," in text and any(get_origin(option) is tuple for option in options):
        raise ValueError(f"the parts of a list are separated by colons, as in {text.replace(',', ':')}")
    if "," in text or ".." in text:
        raise ValueError("one value is needed here; choices (a,b) and ranges (a..b) are for a search")
    for option in options:
        if get_origin(option) is tuple:
            (item, *_) = get_args(option)
            return tuple(read_value(item, part) for part in text.split(":"))
        if option is bool:
            if text.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
                return text.lower() in ("true", "yes", "on", "1")
            raise ValueError("is neither true nor false")
        if option is int:
            number = _number(text, words)
            if number != int(number):
                raise ValueError("is not a whole number")
            return int(text) if text.lstrip("+-").isdigit() else int(number)
        if option is float:
            return _number(text, words)
    raise ValueError(f"is none of {', '.join(words)}{did_you_mean(text, words)}" if words else "cannot be one word")


def show_value(value: Any) -> str:
    """The word that `read_value` reads as `value`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ":".join(show_value(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "none" if value is None else str(value)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON keeps them."""
    kept: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return kept


def _number(text: str, words: Sequence[str] = ()) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError("is not a number" + (f", nor one of {', '.join(words)}" if words else "")) from None
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    return number


def _facts(field: FieldInfo) -> dict[str, Any]:
    assert isinstance(field.json_schema_extra, dict), "declare every setting with setting()"
    return field.json_schema_extra


def _hold_bounds(field: FieldInfo, value: Any) -> None:
    """Raise ValueError where a number, or one of a list, breaks a bound of its setting."""
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if not math.isfinite(number):
            raise ValueError("is not a finite number")
        for bound, limit in _facts(field)["bounds"].items():
            holds = {"at least": number >= limit, "above": number > limit,
                     "at most": number <= limit, "below": number < limit}  # fmt: skip
            if not holds[bound]:
                part = " (a part of the run, as in 0.3)" if _facts(field)["unit"] == "share" else ""
                raise ValueError(f"must be {bound} {show_value(limit)}{part}")


def _bounds(field: FieldInfo) -> str:
    """Choices and bounds as a person should read them: `auto or at least 8, at most 1024`."""
    annotation = field.annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    words = [str(word) for option in options if get_origin(option) is Literal for word in get_args(option)]
    if bool in options:
        words = ["true", "false"]
    limits = ", ".join(f"{bound} {show_value(limit)}" for bound, limit in _facts(field)["bounds"].items())
    return " or ".join(part for part in ("|".join(words), limits) if part)
