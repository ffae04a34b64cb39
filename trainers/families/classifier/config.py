"""Settings of small classifiers: textbook models, He et al.'s for CIFAR, and every one of torchvision by name."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from trainers.base.errors import did_you_mean
from trainers.base.problems import Problem
from trainers.families.classification.settings import TINY, ClassificationConfig
from trainers.settings.fields import Check, setting
from trainers.settings.rules import BESIDE, VALUE

HE = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
OWN = ("mlp", "mlp_relu", "mlp_bn", "cnn", "lstm_rows", "lenet", "simple_cnn", "residual", *HE)
MODELS: Mapping[str, Mapping[str, Any]] = {  # models that the family's defaults do not suit (benchmarks/defaults.py)
    "mlp": {"learning_rate": 0.005},  # three matrices without activations: steep if all are large
    "lstm_rows": {"optimizer": "adamw"},
}
ANY = ("mlp", "mlp_relu", "lstm_rows", "residual", *HE)  # fit any image size and micro-batch size

OF_MODEL: Mapping[str, tuple[str, Any]] = {  # settings of one model: which, and the default
    "blocks": ("residual", (3, 3, 3)),
    "cell": ("lstm_rows", "lstm"),
    "units": ("lstm_rows", 128),
    "layers": ("lstm_rows", 2),
    "bidirectional": ("lstm_rows", False),
}


@cache
def torchvision_models() -> tuple[str, ...]:
    """Names of torchvision's classification models, read from its source: importing it takes seconds."""
    found = find_spec("torchvision")
    if found is None or found.origin is None:
        return ()
    folder = Path(found.origin).parent / "models"
    registered = re.compile(r"^@register_model\(.*\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.py")]
    return tuple(sorted(name for text in texts for name in registered.findall(text)))


def _model_problem(model: str) -> Problem | None:
    if model in OWN or model in torchvision_models():
        return None
    near = did_you_mean(model, [*OWN, *torchvision_models()])
    hint = near or f"there are {', '.join(OWN)}, and those of torchvision"
    return Problem("unknown-model", "model", "no such model", hint, model)


def _of_other_model(name: str) -> Check:
    """A rule against a setting of one model that is given with another."""
    owner, default = OF_MODEL[name]

    def rule(model: str, value: Any) -> Problem | None:
        if model == owner or value == default or _model_problem(model):
            return None
        return Problem(
            BESIDE, name, f"is for model={owner}, and has no effect with model={model}", "leave it out", value
        )

    return Check(("model", name), rule)


def _three_stages(blocks: tuple[int, ...]) -> Problem | None:
    if len(blocks) == 3:
        return None
    return Problem(VALUE, "blocks", "needs three numbers, as in blocks=3:3:3", value=blocks)


class Config(ClassificationConfig):
    summary: ClassVar[str] = "small classifiers, He et al.'s CIFAR ResNets, and torchvision's models by name"
    checks: ClassVar[tuple[Check, ...]] = (
        *ClassificationConfig.checks,
        Check(("model",), _model_problem),
        Check(("blocks",), _three_stages),
        *map(_of_other_model, OF_MODEL),
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "data": "digits",
        "epochs": 10.0,
        "batch_size": 64,
        "microbatch_size": 16,
        "learning_rate": 0.05,
        "schedule": "one_cycle",
        "flip": "none",
        "crop_padding": 0,
    }
    tiny: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mlp_bn": {"model": "mlp_bn", "image_size": 8, "batch_size": 24, "microbatch_size": 4, "steps": 4},
        "cnn": {**TINY, "model": "cnn", "image_size": 16, "label_smoothing": 0.1, "schedule": "cosine"},
        "lstm_rows": {**TINY, "model": "lstm_rows", "optimizer": "adamw"},
        "resnet20": {**TINY, "model": "resnet20", "flip": "random", "crop_padding": 2, "ema": 0.9},
    }

    model: str = setting(
        "cnn", f"{', '.join(OWN)}, or any classification model of torchvision, as resnet18", network=True
    )

    blocks: tuple[int, ...] = setting(
        (3, 3, 3), "residual: blocks of its three stages, as 3:3:3", at_least=1, at_most=1000, network=True
    )
    cell: Literal["lstm", "gru", "rnn"] = setting("lstm", "lstm_rows: the recurrent cell; rnn: tanh", network=True)
    units: int = setting(
        128, "lstm_rows: units of each layer, in each direction", at_least=1, at_most=100_000, network=True
    )
    layers: int = setting(2, "lstm_rows: recurrent layers", at_least=1, at_most=100, network=True)
    bidirectional: bool = setting(False, "lstm_rows: read the rows upwards too", network=True)

    @classmethod
    def derived_defaults(cls, said: Mapping[str, Any]) -> Mapping[str, Any]:
        own = MODELS.get(said.get("model", ""), {})
        if said.get("optimizer", own.get("optimizer", "sgd")) != own.get("optimizer", "sgd"):
            own = {}  # for another optimizer
        return {**super().derived_defaults({**own, **said}), **own}

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings that the model alone has."""
        return {name: getattr(self, name) for name, (model, _) in OF_MODEL.items() if model == self.model}

    @classmethod
    def suggestion(cls, word: str) -> str | None:
        return f"model={word}" if word in OWN or word in torchvision_models() else None

    def usual_moments(self) -> str:
        published = self.model in HE or self.model not in OWN  # published weights need this one
        return "imagenet" if published else super().usual_moments()

    def validate_data(self, facts: Mapping[str, Any]) -> list[Problem]:
        problems = super().validate_data(facts)
        if not problems and self.model not in ANY:
            from trainers.families.classifier.networks import misfit

            count, rows = self.class_count(facts), min(2, self.microbatch_size)
            problem = misfit(self.model, facts["channels"], facts["image_size"], count, rows)
            problems += [problem] if problem else []
        return problems
