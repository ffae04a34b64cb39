"""Settings that the adversarial families share."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from trainers.base.errors import TroupeError
from trainers.base.paths import expanded
from trainers.base.problems import Problem, sentence
from trainers.data.settings import ImageConfig
from trainers.families import classifiers
from trainers.run_folders.run_folder import RunFolder
from trainers.settings.config import MISFIT, SampleSettings
from trainers.settings.fields import Check, setting
from trainers.settings.rules import BESIDE, VALUE
from trainers.storage.checkpoint import WEIGHTS, all_in

SIZES = (16, 32, 64, 128)
WITHOUT = {  # settings without effect on other networks than DCGAN's
    "mlp": ("n_extra_layers", "upsample", "head"),
    "resnet": ("n_extra_layers", "norm_after_activation", "head"),
}
OWN_FEATURES = ("auto", "pixels", "inception")
MODELS = {"squeezenet": "squeezenet1_1"}  # of `classifier`, by shorter names
FEWEST = 16  # held-out images that an evaluation needs
SIDE = 16  # of images whose pixels are features
FEATURES = 64  # of the classifier that is trained for the run
NO_JUDGE = "no-judge"  # the problem code of features that cannot judge images
TINY = {
    "image_size": 16,
    "width": 4,
    "latent_dim": 8,
    "batch_size": 8,
    "microbatch_size": 2,
    "steps": 4,
}  # for variants


def _size(image_size: int | str) -> Problem | None:
    if image_size == "auto" or image_size in SIZES:
        return None
    reason = "the networks make images of 16, 32, 64 or 128 pixels"
    return Problem(VALUE, "image_size", reason, "use one of these", image_size)


def _needs_classes(mismatched_negatives: bool, conditional: bool) -> Problem | None:
    if conditional or not mismatched_negatives:
        return None
    return Problem(BESIDE, "mismatched_negatives", "needs a conditional run", "use conditional=true", True)


def _resolved(path: str) -> Path:
    """A path as given, or the run of that name."""
    run = Path("runs") / path
    return run if "/" not in path and not expanded(path).exists() and run.exists() else expanded(path)


def _no_judge(run: Path) -> tuple[str, str]:
    """Why a folder is not that of a classifier's run, which judges images, and what to use; ("", "") if it is."""
    if not (run / "settings.json").exists():
        return "is not a run", "use MODEL:FILE for weights, as resnet56:FILE"
    try:
        family = str(RunFolder(run).read_settings()["family"])
    except TroupeError as error:
        return sentence(error.problems[0]), ""
    if family not in classifiers.CONFIGS:
        return f"is a run of {family}, which predicts no classes", "use a classifier's run"
    return "" if all_in(run / "checkpoints") else "has no checkpoint yet", ""


def rate(default: float, optimizer: str, source: str) -> Any:
    """The setting of the learning rate, the same for both networks."""
    about = f"learning rate of both {optimizer} optimizers"
    return setting(default, about, above=0, log=True, source=source, group="optimizer")


def beta(name: str, default: float, source: str) -> Any:
    """The setting of a beta of Adam, the same for both networks."""
    about = f"{name} of both Adam optimizers"
    return setting(default, about, at_least=0, below=1, source=source, group="optimizer")


def norm_of_critic(name: str, source: str) -> Any:
    """The setting of batch norms in the critic or discriminator."""
    return setting(True, f"batch norms in the {name}", source=source, network=True)


def critic_steps(source: str) -> Any:
    """The setting of how often the critic learns in a step."""
    return setting(5, "critic steps per step", at_least=1, at_most=1000, source=source, group="optimizer")


class ImageSampleSettings(SampleSettings):
    class_: str = setting("each", "the class of a conditional run, by name or number; each: row after row")


class AdversarialConfig(ImageConfig):
    """The settings of every family of a generator and a network that judges its images."""

    checks: ClassVar[tuple[Check, ...]] = (
        *ImageConfig.checks,
        Check(("image_size",), _size),
        Check(("mismatched_negatives", "conditional"), _needs_classes),
    )
    sample_settings: ClassVar[type[SampleSettings]] = ImageSampleSettings
    metrics: ClassVar[Mapping[str, Literal["max", "min"]]] = {
        "frechet_distance": "min",
        "kernel_distance": "min",
        "precision": "max",
        "recall": "max",
        "density": "max",
        "coverage": "max",
        "memorization_rate": "min",
        "copy_test": "max",
        "classes_covered": "max",
        "class_kl": "min",
    }
    defaults: ClassVar[Mapping[str, Any]] = {"steps": 3000, "ema": 0.98}
    small: ClassVar[Mapping[str, Any]] = {}  # defaults for images of less than 64 pixels

    latent_dim: int = setting(
        100,
        "dimensions of the latent vector",
        at_least=1,
        at_most=1_000_000,
        source="Radford 2016, section 4",
        network=True,
    )
    width: int | Literal["auto"] = setting(
        "auto",
        "channels at half size; auto: image size, at most 64; units with network=mlp (auto: 512)",
        at_least=1,
        at_most=1_000_000,
        network=True,
    )
    network: Literal["dcgan", "mlp"] = setting(
        "dcgan", "DCGAN's, or mlp: fully connected with four hidden layers", network=True
    )
    upsample: Literal["transposed", "nearest", "bilinear", "bicubic"] = setting(
        "transposed",
        "upsampling; all but transposed: no checkerboard artifacts; with network=resnet, transposed is nearest",
        network=True,
    )
    head: Literal["conv", "pool"] = setting(
        "conv",
        "last layer of the critic: a 4x4 convolution, or the mean over the image and a linear layer",
        network=True,
    )
    generator_norm: bool = setting(True, "batch norms in the generator", source="Radford 2016, section 3", network=True)
    n_extra_layers: int = setting(
        0,
        "additional 3x3 convolutions in each network, at half size",
        at_least=0,
        at_most=16,
        source="Arjovsky 2017, as published by its authors",
        network=True,
    )
    norm_after_activation: bool = setting(False, "batch norm after the activation instead of before it", network=True)
    conditional: bool = setting(
        False, "condition on the class of labelled data", source="Mirza 2014, section 3", network=True
    )
    mismatched_negatives: bool = setting(
        False,
        "conditional: real images with a wrong class count as not real too",
        source="Reed 2016, section 4.2",
        group="optimizer",
    )

    on_collapse: Literal["warn", "stop", "off"] = setting(
        "warn",
        "on mode collapse, diverging losses or memorized training images, checked with each grid; off: no checks",
        kind="running",
        group="evaluation",
    )
    features: str = setting(
        "auto",
        "what a verdict sees of images: auto, a small classifier trained on labelled data, or pixels; pixels; "
        "a classifier's run; weights, as resnet56:FILE for a model of `classifier`; or inception, for the FID",
        free=True,
        group="evaluation",
    )
    num_eval_samples: int | Literal["auto"] = setting(
        "auto",
        "generated samples per evaluation; auto: as many as real images to compare with, at most 1000",
        unit="samples",
        at_least=FEWEST,
        at_most=1_000_000,
        group="evaluation",
    )

    @classmethod
    def derived_defaults(cls, said: Mapping[str, Any]) -> Mapping[str, Any]:
        return cls.small if cls.side(said) < 64 else {}

    @field_validator("features")
    @classmethod
    def _resolved_features(cls, features: str) -> str:
        """Make a path in it absolute; a bare name is that of a run."""
        model, colon, path = features.rpartition(":")
        return features if features in OWN_FEATURES else f"{model}{colon}{_resolved(path).resolve()}"

    @classmethod
    def validate_settings(cls, good: Mapping[str, Any], family: str) -> list[Problem]:
        problems = [*super().validate_settings(good, family), *cls._network_problems(good)]
        features = str(good.get("features", "auto"))
        model, _, path = features.rpartition(":")

        def no_judge(reason: str, hint: str = "", code: str = NO_JUDGE) -> None:
            problems.append(Problem(code, "features", reason, hint, features))

        if "inception" in (features, model) and importlib.util.find_spec("torch_fidelity") is None:
            no_judge("needs torch-fidelity, which is not installed", "pip install torch-fidelity", "not-installed")
        if features in OWN_FEATURES:
            return problems
        if not _resolved(path).exists():
            no_judge("is none of auto, pixels and inception, nor an existing run or file")
        elif model not in ("", "inception"):
            model = MODELS.get(model, model)
            for one in classifiers.CONFIGS["classifier"].from_words({"model": model}, "classifier")[1]:
                no_judge(one.reason, one.hint, one.code)
            if _resolved(path).is_dir() and not any((_resolved(path) / name).exists() for name in WEIGHTS):
                no_judge("is a folder without weights", "use a file of weights")
        elif not model and any(why := _no_judge(_resolved(path))):
            no_judge(*why)
        return problems

    @classmethod
    def _network_problems(cls, good: Mapping[str, Any]) -> list[Problem]:
        """A problem for each setting that has no effect on the networks, and for norms over one number."""
        network = good.get("network", "dcgan")
        problems = [
            Problem(BESIDE, name, "needs network=dcgan", f"leave it out with network={network}")
            for name in WITHOUT.get(network, ())
            if name in good and good[name] != cls.model_fields[name].get_default()
        ]
        norms = good.get("generator_norm", True) or good.get("critic_norm", False)
        if good.get("norm_after_activation", False) and not norms:
            hint = "leave it out, or use generator_norm=true"
            problems.append(Problem(BESIDE, "norm_after_activation", "the networks have no norms", hint, True))
        if network == "mlp" and norms and good.get("microbatch_size") == 1:
            reason, hint = "a norm of network=mlp needs at least two images", "use microbatch_size=2"
            problems.append(Problem(BESIDE, "microbatch_size", reason, hint, 1))
        return problems

    def num_held_out(self, facts: Mapping[str, Any]) -> int:
        """The number of samples that an evaluation generates; none if there are too few images to compare with."""
        if facts["held_out"] < FEWEST:
            return 0
        return min(1000, int(facts["held_out"])) if self.num_eval_samples == "auto" else int(self.num_eval_samples)

    def metrics_of(self, facts: Mapping[str, Any]) -> Mapping[str, Literal["max", "min"]]:
        """Without the Frechet distance if there are no more samples than features have numbers."""
        stacked = facts.get("stacked", 1)
        numbers = {"inception": 2048, "auto": FEATURES * stacked}.get(self.features, 0)  # 0: unknown
        if self.features == "pixels" or (self.features == "auto" and facts["classes"] < 2):
            numbers = facts["channels"] * min(SIDE, facts["image_size"]) ** 2
        known = super().metrics_of(facts)
        few = 0 < self.num_held_out(facts) <= numbers
        return {name: mode for name, mode in known.items() if not (few and name == "frechet_distance")}

    def no_held_out_reason(self, facts: Mapping[str, Any]) -> str:
        count = facts["held_out"]
        if facts.get("unread_held_out"):
            return super().no_held_out_reason(facts)
        return f"the data has {count or 'none'} of the {FEWEST} held-out images that a verdict needs"

    def validate_data(self, facts: Mapping[str, Any]) -> list[Problem]:
        problems = super().validate_data(facts)
        if self.conditional and facts["classes"] < 2:
            known = f"one class ({facts['class_names'][0]})" if facts["classes"] else "no labels"
            hint = "leave it out, or use data with classes"
            problems.append(Problem(MISFIT, "conditional", f"data={self.data} has {known}", hint, True))
        return problems
