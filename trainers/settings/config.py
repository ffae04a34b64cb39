"""The settings that every family has, and values derived from them.

Does not import torch: all arguments are checked before anything heavy is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator

from trainers.base import old_names
from trainers.base.errors import did_you_mean
from trainers.base.paths import expanded
from trainers.base.problems import Problem, show_value
from trainers.settings import rules
from trainers.settings.fields import Check, Settings, Span, as_problems, number_of, seconds_of, setting

NOTHING = "evaluates-nothing"  # codes of problems: the family has no metrics,
NOTHING_HELD_OUT = "nothing-held-out"  # the data has no held-out samples,
MISFIT = "data-misfit"  # and the data does not fit
MOST_STEPS = 10**8  # that epochs may result in
SCHEDULE_SETTINGS = {
    "cycle_ratio": ("one_cycle",), "cycle_tail": ("one_cycle",), "cycle_peak": ("one_cycle",),
    "cycle_momentum": ("one_cycle",), "decay_after": ("linear",), "decay_at": ("step",),
    "decay_factor": ("step", "plateau"), "patience": ("plateau",),
}  # fmt: skip


def parts_of(data: str) -> list[str]:
    """The data sets that `data=` joins: `digits+mnist`, `imagefolder:A+imagefolder:B`."""
    return re.split(r"\+(?=[a-z_]\w*:)" if ":" in data else r"\+", data)


class SampleSettings(Settings):
    """Settings for drawing samples; a family can add some, such as a class or a prompt."""

    count: int = setting(64, "number of samples", at_least=1, at_most=100_000)
    columns: int = setting(0, "columns of the sheet; 0: as square as possible", at_least=0, at_most=1000)


class Basics(Settings):
    """Data, length of training, batch size, number format and evaluation."""

    data: str = setting(
        "digits",
        "data set; `troupe datasets` lists them, imagefolder:PATH takes any folder; join several with +",
        free=True,
        group="data",
    )
    steps: int = setting(
        1000,
        "optimizer steps, if `epochs` is none; can be raised on resume where the schedule is constant",
        unit="steps",
        at_least=0,
        group="schedule",
    )
    epochs: float | None = setting(
        None,
        "passes over the training split, which determine `steps`; none: use `steps`",
        unit="epochs",
        above=0,
        at_most=100_000,
        group="schedule",
    )
    target: str = setting(
        "none",
        "stop when an evaluation reaches this metric, as in eval_accuracy:0.94, and record the time",
        kind="running",
        free=True,
        group="schedule",
    )
    batch_size: int = setting(
        64,
        "samples per step, over all workers",
        unit="samples",
        at_least=1,
        at_most=1_000_000,
        group="optimizer",
    )
    microbatch_size: int = setting(
        16,
        "samples computed at once; independent of the number of workers",
        unit="samples",
        at_least=1,
        at_most=1_000_000,
        group="optimizer",
    )
    seed: int = setting(0, "random seed of the run", at_least=0, at_most=2**63 - 1, group="run")
    precision: Literal["float32", "float64", "bfloat16"] = setting(
        "float32",
        "number format; bfloat16 uses autocast, with float32 weights",
        group="run",
    )
    grad_sync: Literal["auto", "exact", "ddp"] = setting(
        "auto",
        "gradient synchronization: exact (same bits for any number of workers) or ddp; auto: exact on CPUs",
        group="run",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "device; auto: a GPU if torch can use one", group="run")
    threads_per_worker: int = setting(
        1, "CPU threads of each worker", unit="threads", at_least=1, at_most=512, group="run"
    )
    memory_format: Literal["channels_last", "contiguous"] = setting(
        "channels_last", "memory format of images and filters", group="run"
    )
    ema: float = setting(
        0.0, "decay of the moving average of weights; 0: no average", at_least=0, below=1, group="optimizer"
    )
    evaluate_on: Literal["test", "validation"] = setting(
        "test",
        "split to evaluate on; validation: a tenth of the training split, which is then not trained on",
        group="evaluation",
    )
    evaluate_every: int | Literal["auto"] = setting(
        "auto",
        "steps between evaluations, and one at the end; 0: never; auto: so that they take at most 5 % of the time",
        unit="steps",
        at_least=0,
        group="evaluation",
    )
    compile: bool = setting(False, "torch.compile each network", group="run")


class Schedules(Basics):
    """The course of the learning rate over the run."""

    schedule: Literal["constant", "one_cycle", "cosine", "step", "linear", "plateau"] = setting(
        "constant",
        "learning rate schedule",
        group="schedule",
    )
    warmup: float = setting(
        0.0,
        "fraction of the run in which the learning rate rises from 0",
        unit="share",
        at_least=0,
        below=1,
        source="Goyal 2017, section 2.2",
        group="schedule",
    )
    cycle_ratio: float = setting(
        20.0,
        "one_cycle: ratio of the peak learning rate to the initial one",
        above=1,
        source="Smith 2018, section 4.1",
        group="schedule",
    )
    cycle_tail: float = setting(
        0.2,
        "one_cycle: fraction of the run for the final descent, from the initial rate to a hundredth of it",
        unit="share",
        at_least=0,
        below=1,
        group="schedule",
    )
    cycle_peak: float | Literal["auto"] = setting(
        "auto",
        "one_cycle: fraction of the run after which the peak is reached; auto: half of what precedes the tail",
        unit="share",
        above=0,
        below=1,
        group="schedule",
    )
    cycle_momentum: tuple[float, ...] = setting(
        (0.95, 0.85),
        "one_cycle: momentum at the start and at the peak",
        at_least=0,
        below=1,
        source="Smith 2018, section 4.3",
        group="schedule",
    )
    decay_after: float = setting(
        0.5,
        "linear: fraction of the run before the learning rate starts to fall to 0",
        unit="share",
        at_least=0,
        below=1,
        group="schedule",
    )
    decay_at: tuple[float, ...] = setting(
        (0.3, 0.6, 0.8),
        "step: fractions of the run after which the learning rate is multiplied by decay_factor",
        unit="share",
        above=0,
        below=1,
        group="schedule",
    )
    decay_factor: float = setting(
        0.2, "step and plateau: factor that multiplies the learning rate", above=0, below=1, group="schedule"
    )
    patience: int = setting(
        5, "plateau: evaluations without improvement before the learning rate is reduced", at_least=1, group="schedule"
    )


class Config(Schedules):
    """The settings that every family has. A family's `config.py` extends it."""

    checks: ClassVar[tuple[Check, ...]] = (
        Check(("batch_size", "microbatch_size"), rules.whole_microbatches),
        Check(("workers", "batch_size", "microbatch_size"), rules.enough_microbatches),
        Check(("workers", "min_workers"), rules.least_first),
        Check(("cycle_momentum",), rules.two_momenta),
        Check(("decay_at",), rules.rising_shares),
        Check(("cycle_peak", "cycle_tail"), rules.peak_before_tail),
        Check(("target", "schedule", "evaluate_every"), rules.evaluation_needed),
    )
    summary: ClassVar[str] = ""  # one line for `troupe families`
    metrics: ClassVar[
        Mapping[str, Literal["max", "min"]]
    ] = {}  # of `evaluate`, the main one first, and which direction is better
    tiny: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {}}  # small variants for tests and `verify`
    input_kind: ClassVar[str] = "images"  # the kind of samples; `images+images` for two joined sets
    sample_settings: ClassVar[type[SampleSettings]] = SampleSettings  # settings for drawing samples
    momentum_setting: ClassVar[str] = ""  # the setting of the optimizers' momentum, if one_cycle can change it
    workers: int = setting(
        1,
        "worker processes that share each batch; 2..8: as many as fit, while nodes come and go",
        kind="running",
        at_least=1,
        at_most=4096,
        group="run",
    )
    min_workers: int = setting(
        0,
        "fewest workers if not all fit; 0: all are required; workers=2..8 sets both",
        kind="running",
        at_least=0,
        at_most=4096,
        group="run",
    )
    checkpoint_every: int | Span = setting(
        250,
        "steps or time between checkpoints, and one at the end",
        kind="running",
        unit="steps",
        at_least=1,
        group="run",
    )
    keep_checkpoints: int = setting(
        3, "checkpoints to keep; the best one is always kept too", kind="running", at_least=1, group="run"
    )
    sample_every: int = setting(
        100,
        "steps between grids of samples",
        kind="running",
        unit="steps",
        at_least=1,
        group="evaluation",
    )
    log_every: int = setting(10, "steps between rows of metrics", kind="running", unit="steps", at_least=1, group="run")
    max_restarts: int = setting(
        3, "most restarts of a lost or hung worker group", kind="running", at_least=0, group="run"
    )
    worker_timeout: float = setting(
        60.0,
        "a worker counts as hung if it is silent for this long, and for ten times its slowest micro-batch",
        kind="running",
        unit="seconds",
        above=0,
        group="run",
    )

    @field_validator("data")
    @classmethod
    def _absolute(cls, data: str) -> str:
        """Make paths absolute: a run can be resumed from another folder."""
        parts = []
        for part in parts_of(data):
            name, colon, path = part.partition(":")
            parts.append(f"{name}:{expanded(path).resolve()}" if colon and path else part)
        return "+".join(parts)

    @classmethod
    def from_words(cls, words: Mapping[str, Any], family: str = "the family") -> tuple[Self | None, list[Problem]]:
        if elastic := re.fullmatch(r"(\d+)\.\.(\d+)", str(words.get("workers", ""))):
            words = {**words, "workers": elastic[2] if elastic[1].strip("0") else "0", "min_workers": elastic[1]}
        config, problems = super().from_words(words, family)
        hint = "all is for `troupe evaluate`, on data not used in training"
        only_evaluated = [one for one in problems if (one.about, one.value) == ("evaluate_on", "all")]
        return config, [replace(one, hint=hint) if one in only_evaluated else one for one in problems]

    @classmethod
    def overridden_defaults(cls, words: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"epochs": None} if "steps" in words and "epochs" not in words else {}

    @classmethod
    def common(cls) -> Collection[str]:
        return Config.model_fields

    @classmethod
    def validate_settings(cls, good: Mapping[str, Any], family: str) -> list[Problem]:
        target = cls.target_problem(str(good.get("target", "none")), family)
        problems, every = [target] if target is not None else [], good.get("evaluate_every", "auto")
        if not cls.metrics and every not in ("auto", 0):
            problems.append(Problem(NOTHING, "evaluate_every", f"{family} has no evaluation", "omit it", every))
        if not cls.metrics and good.get("schedule") == "plateau":
            reason = f"{family} has no metric that could plateau"
            problems.append(Problem(NOTHING, "schedule", reason, "choose another", "plateau"))
        return problems

    @property
    def least_workers(self) -> int:
        """The number of workers that must fit."""
        return self.min_workers or self.workers

    @property
    def checkpoint_seconds(self) -> float | None:
        """Seconds between checkpoints; None if the interval is in steps."""
        return seconds_of(self.checkpoint_every) if isinstance(self.checkpoint_every, str) else None

    @property
    def microbatches(self) -> int:
        """Micro-batches of one step, over all workers."""
        return self.batch_size // self.microbatch_size

    @classmethod
    def suggestion(cls, word: str) -> str | None:
        """The setting that is probably meant by this word given as a family, as in `model=resnet20`."""
        return None

    @classmethod
    def target_problem(cls, target: str, family: str = "the family") -> Problem | None:
        """What is wrong with `target=`, or None."""

        def wrong(reason: str, hint: str = "", code: str = "bad-value") -> Problem:
            return Problem(code, "target", reason, hint, target)

        if target == "none":
            return None
        known = [f"eval_{metric}" for metric in cls.metrics]
        if not known:
            return wrong(f"{family} has no metric to reach", code=NOTHING)
        metric, colon, number = target.partition(":")
        if metric not in known:
            if not colon and metric.replace(".", "", 1).isdigit():
                return wrong(f"the metric is missing; use target={known[0]}:{target}")
            if (new := old_names.metric(metric)) in known:
                return wrong(f"{metric} was renamed", f"use target={new}:{number}", "unknown-metric")
            hint = did_you_mean(metric, known) or f"available: {', '.join(known)}"
            return wrong(f"{metric} is not a metric of {family}", hint, "unknown-metric")
        try:
            number_of(number)
        except ValueError:
            return wrong(f"needs a number, as in target={known[0]}:0.94")
        return None

    def reached(self, results: Mapping[str, float]) -> bool:
        """Whether an evaluation has reached the target; False if there is no target."""
        metric, _, number = self.target.partition(":")
        if metric not in results:
            return False
        better = 1 if self.metrics[metric.removeprefix("eval_")] == "max" else -1
        return better * results[metric] >= better * float(number)

    @property
    def evaluation_passes(self) -> int:
        """How many times an evaluation runs each sample through the networks."""
        return 1

    @property
    def schedules_momentum(self) -> bool:
        """Whether the optimizers have a momentum that one_cycle changes."""
        return bool(self.momentum_setting) and getattr(self, self.momentum_setting) > 0

    def finalize(self, facts: Mapping[str, Any]) -> Self:
        """The config with values that depend on the data size: `steps` from `epochs`, and the evaluation interval.

        An evaluation pass costs a third of a training pass, and two tenths of that is left as a margin: with an
        evaluation after ten times as many samples as it takes, it is 3.3 % of the time.
        """
        changes: dict[str, Any] = {}
        if self.epochs is not None:
            wanted, drawn, steps = math.ceil(self.epochs * self.num_samples(facts)), 0, 0
            if type(self).batches_per_step is Config.batches_per_step:
                steps = -(-wanted // self.batch_size)
                drawn = wanted
            while drawn < wanted:
                drawn += self.batches_per_step(steps) * self.batch_size
                steps += 1
            changes["steps"] = max(1, steps)
        if self.evaluate_every == "auto":
            samples = 10 * self.num_held_out(facts) * self.evaluation_passes
            changes["evaluate_every"] = -(-samples // self.batch_size) if self.metrics else 0
        return self.model_copy(update=changes)

    def batches_per_step(self, step: int) -> int:
        """How many batches a step draws from the stream: one for each phase on fresh samples."""
        return 1

    def num_samples(self, facts: Mapping[str, Any]) -> int:
        """Places of the stream in an epoch of this data."""
        return int(facts["size"])

    def num_held_out(self, facts: Mapping[str, Any]) -> int:
        """Places that an evaluation covers."""
        return int(facts["held_out"])

    def metrics_of(self, facts: Mapping[str, Any]) -> Mapping[str, Literal["max", "min"]]:
        """The metrics of evaluations on this data, the main one first; none if there are no held-out samples."""
        return self.metrics if self.num_held_out(facts) else {}

    def no_held_out_reason(self, facts: Mapping[str, Any]) -> str:
        """Why evaluations on this data cover no samples."""
        return "the data has no held-out samples"

    def data_problems(self, facts: Mapping[str, Any]) -> list[Problem]:
        """What is wrong with this data for these settings."""
        return as_problems(self.validate_data(facts))

    def validate_data(self, facts: Mapping[str, Any]) -> list[Problem]:
        """What a family finds wrong with this data (channels, image_size, classes, held_out), as problems or plain
        texts."""
        asked = self.target != "none" or self.schedule == "plateau" or self.evaluate_every not in ("auto", 0)
        if self.num_samples(facts) < 1:
            reason = f"has too few samples for batch_size={self.batch_size}"
            return [Problem(MISFIT, "data", reason, "use more samples, or a smaller batch", self.data)]
        if self.epochs is not None and self.epochs * self.num_samples(facts) > MOST_STEPS * self.batch_size:
            hint = "use fewer, or a larger batch_size"
            return [Problem(MISFIT, "epochs", f"more than {MOST_STEPS} steps", hint, self.epochs)]
        if self.metrics and asked and not self.num_held_out(facts):
            hint = "use evaluate_on=validation, or more samples"
            return [Problem(NOTHING_HELD_OUT, reason=self.no_held_out_reason(facts), hint=hint)]
        return []

    def input_spec(self, facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """How a file becomes the network input, and what the output means (`classes`), as `troupe export` stores it;
        None for families without predictions for files. Families that return it have `Family.predict`."""
        return None

    @property
    def depends_on_total_steps(self) -> bool:
        """Whether the learning rate at a step depends on the total number of steps."""
        return self.schedule in ("one_cycle", "cosine", "step", "linear") or self.warmup > 0

    def warnings(self) -> list[str]:
        """Warnings about valid settings, one line each."""
        lines = []
        asked = f"target={self.target}" if self.target != "none" else "schedule=plateau"
        looked_at = (self.target != "none" or self.schedule == "plateau") and self.evaluate_every != "auto"
        if looked_at and int(self.evaluate_every) >= self.steps > 1:
            lines.append(
                f"{asked}: is checked only at the end of the run (evaluate_every={self.evaluate_every}, "
                f"steps={self.steps}); use evaluate_every={max(1, self.steps // 10)} for more"
            )
        for name, schedules in SCHEDULE_SETTINGS.items():
            value = getattr(self, name)
            if self.schedule not in schedules and value != type(self).model_fields[name].get_default():
                lines.append(
                    f"{name}={show_value(value)}: has no effect with schedule={self.schedule}; it is for "
                    f"{' and '.join(schedules)}"
                )
        name = self.momentum_setting
        if self.schedule == "one_cycle" and self.schedules_momentum:
            momentum = getattr(self, name)
            if momentum != type(self).model_fields[name].get_default():
                word = show_value(momentum)
                lines.append(f"{name}={word}: has no effect with schedule=one_cycle; use cycle_momentum={word}:{word}")
        return lines
