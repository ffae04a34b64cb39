"""Shared settings of the families of image classifiers."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from trainers.base.problems import Problem
from trainers.data.image_folders import decoding
from trainers.data.image_folders.folder_names import part_kinds
from trainers.data.image_folders.levels import where_labels_are
from trainers.data.settings import ImageConfig
from trainers.settings.config import MISFIT
from trainers.settings.fields import Check, setting
from trainers.settings.rules import BESIDE, VALUE

MEANS = {  # mean and standard deviation of each channel, in [0, 1]
    "half": ((0.5,), (0.5,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0,), (1.0,)),
}

TINY = {"data": "digits", "image_size": 8, "batch_size": 8, "microbatch_size": 2, "steps": 4}  # for variants
ADAMW_RATE = 0.002  # default with adamw: that of sgd would be about a hundred times too high
STEPS = (  # from an image to probabilities, for readers of an exported config
    "float32, (rows, channels, height, width)",
    "(x - 255 * mean) / (255 * deviation), of each channel",
    "for each of the views: mirrored left to right or not, moved down and right by the given pixels with the border "
    "filled by reflection; the network in eval mode; the mean of its outputs by the views' weights",
    "softmax: the probability of each of the classes, in their order",
)


def view(weight: float, mirrored: bool = False, moved: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    return {"mirrored": mirrored, "moved": list(moved), "weight": weight}


def _padding_fits(crop_padding: int, image_size: int | str) -> Problem | None:
    if image_size == "auto" or crop_padding < int(image_size):
        return None
    return Problem(BESIDE, "crop_padding", f"must be less than image_size={image_size}", value=crop_padding)


def _padding_used(padding: str, crop_padding: int) -> Problem | None:
    if padding == "reflect" or crop_padding:
        return None
    return Problem(
        BESIDE, "padding", "has no effect with crop_padding=0", "use crop_padding=4, or leave it out", padding
    )


def _one_crop(enlarge: int, crop_padding: int) -> Problem | None:
    if not enlarge or not crop_padding:
        return None
    reason, hint = f"crop_padding={crop_padding} crops too", "use crop_padding=0"
    return Problem(BESIDE, "enlarge", reason, hint, enlarge)


def _enlarges(enlarge: int, image_size: int | str) -> Problem | None:
    if image_size == "auto" or not enlarge or enlarge > int(image_size):
        return None
    hint = f"use enlarge={int(image_size) * 5 // 4}"  # as 40 for 32 pixels
    return Problem(BESIDE, "enlarge", f"must be more than the images' {image_size} pixels", hint, enlarge)


class ClassificationConfig(ImageConfig):
    """The settings of every family that classifies images."""

    metrics: ClassVar[Mapping[str, Literal["max", "min"]]] = {"accuracy": "max", "loss": "min"}
    momentum_setting: ClassVar[str] = "momentum"
    defaults: ClassVar[Mapping[str, Any]] = {"batch_size": 128, "microbatch_size": 32}
    checks: ClassVar[tuple[Check, ...]] = (
        *ImageConfig.checks,
        Check(("crop_padding", "image_size"), _padding_fits),
        Check(("padding", "crop_padding"), _padding_used),
        Check(("enlarge", "crop_padding"), _one_crop),
        Check(("enlarge", "image_size"), _enlarges),
    )

    data: str = setting(
        "cifar10", "data set; `troupe datasets` lists them; it must have labels", free=True, group="data"
    )
    optimizer: Literal["sgd", "adamw"] = setting(
        "sgd", "sgd with momentum, or adamw", source="Loshchilov 2019", group="optimizer"
    )
    learning_rate: float = setting(0.1, "peak learning rate; 0.002 with adamw", above=0, log=True, group="optimizer")
    momentum: float = setting(
        0.9,
        "momentum of sgd, beta1 of adamw; one_cycle uses cycle_momentum instead",
        at_least=0,
        below=1,
        group="optimizer",
    )
    nesterov: bool = setting(True, "sgd: Nesterov momentum", source="Sutskever 2013, section 2.1", group="optimizer")
    weight_decay: float = setting(
        5e-4, "weight decay; not applied to biases and norms", at_least=0, log=True, group="optimizer"
    )
    label_smoothing: float = setting(
        0.0,
        "share of the target that is spread over all classes",
        at_least=0,
        below=1,
        source="Szegedy 2016, section 7",
        group="optimizer",
    )
    crop_padding: int = setting(
        4,
        "random crop after padding by this many pixels; 0 if images are enlarged instead",
        unit="pixels",
        at_least=0,
        group="data",
    )
    padding: Literal["reflect", "zero"] = setting(
        "reflect", "what the border of crop_padding shows: the image reflected, or black", group="data"
    )
    enlarge: int = setting(
        0,
        "enlarge training images to this side, and crop them at random to their own; 0: as they are",
        unit="pixels",
        at_least=0,
        at_most=1400,
        group="data",
    )
    flip: Literal["none", "random", "alternating"] = setting(
        "random",
        "horizontal flips; random: half of the images; alternating: each image every other epoch",
        source="Jordan 2024, section 3.6",
        group="data",
    )
    cutout: int = setting(
        0,
        "side of a square that is cut out of each image",
        unit="pixels",
        at_least=0,
        source="DeVries 2017",
        group="data",
    )
    normalization: Literal["auto", "half", "cifar10", "mnist", "imagenet", "none"] = setting(
        "auto",
        "mean and deviation of channels; auto: those of the model's published weights, of cifar10, or 0.5",
        group="data",
    )
    classes: int | Literal["auto"] = setting(
        "auto",
        "number of classes; auto: that of the data",
        at_least=2,
        at_most=1_000_000,
        group="data",
    )

    @classmethod
    def derived_defaults(cls, said: Mapping[str, Any]) -> Mapping[str, Any]:
        rate = {"learning_rate": ADAMW_RATE} if said.get("optimizer") == "adamw" else {}
        return rate | ({"crop_padding": 0} if said.get("enlarge") else {})

    @classmethod
    def target_problem(cls, target: str, family: str = "the family") -> Problem | None:
        metric, _, number = target.partition(":")
        problem = super().target_problem(target, family)
        if problem is None and metric == "eval_accuracy" and float(number) > 1:
            share = float(number) / 100 if float(number) <= 100 else 0.94
            hint = f"use target=eval_accuracy:{share:g}"
            return Problem(VALUE, "target", "an accuracy is at most 1", hint, target)
        return problem

    def channel_moments(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, or one for all."""
        name = self.usual_moments() if self.normalization == "auto" else self.normalization
        fits = self.normalization != "auto" or len(MEANS[name][0]) in (1, channels)
        return MEANS[name if fits else "half"]

    def usual_moments(self) -> str:
        """The normalization that `auto` stands for, if the channels fit."""
        return "cifar10" if self.data == "cifar10" else "half"

    def input_spec(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        described = decoding.preprocessing(facts)
        mean, deviation = (
            list(part if len(part) > 1 else part * facts["channels"])
            for part in self.channel_moments(facts["channels"])
        )
        steps = [*described["steps"], *STEPS]
        return {
            **described,
            "steps": steps,
            "mean": mean,
            "deviation": deviation,
            "views": self.views(),
            "classes": list(facts["class_names"]),
        }

    def views(self) -> list[dict[str, Any]]:
        """The views of an image in evaluations: mirrored or not, moved down and right by this many pixels (the border
        is filled by reflection), and the weight in the mean of the logits."""
        return [view(1.0)]

    def class_count(self, facts: Mapping[str, Any]) -> int:
        """The number of classes of the network's output."""
        return int(facts["classes"]) if self.classes == "auto" else self.classes

    def validate_data(self, facts: Mapping[str, Any]) -> list[Problem]:
        classes, channels, size = facts["classes"], facts["channels"], facts["image_size"]
        problems = super().validate_data(facts)
        names = facts.get("class_names", ())

        def of_data(code: str, reason: str, hint: str) -> None:
            problems.append(Problem(code, "data", reason, hint, self.data))

        if classes >= 2 and names and self.folders != "classes" and all(part_kinds(names).values()):
            of_data(
                "parts-as-classes",
                f"its folders {' and '.join(names)} are splits, not classes",
                "rename the training split to train, and the other to test or val",
            )
        for name, why in facts.get("lost_classes", {}).items():
            of_data(
                "empty-class",
                f"class {name} has no training image ({why})",
                "add images to its folder, or remove it",
            )
        links = facts.get("links", ())
        for link in links:
            reason = f"its folder {link.partition(' ->')[0]} is a link ({link}): both have the same images"
            of_data("linked-folders", reason, "put other images there, or remove the link")
        if classes < 2 and (strays := facts.get("strays")):
            lie = "image" if len(strays) == 1 else "images"
            of_data(
                "stray-images",
                f"{lie} next to its class folders: {', '.join(strays)}",
                "move them into their class folders, or away",
            )
        elif classes < 2 and not facts.get("lost_classes") and not links:
            labeled = where_labels_are(self.data) if self.data.startswith("imagefolder:") else ""
            of_data("no-labels", "has no labels", labeled or "put images into one folder per class")
        elif classes >= 2 and self.classes != "auto" and self.classes != classes:
            reason = f"data={self.data} has {classes}"
            problems.append(Problem(MISFIT, "classes", reason, "leave classes out", self.classes))
        expected = len(self.channel_moments(channels)[0])
        if expected not in (1, channels):
            reason = f"is for {expected} channels, data={self.data} has {channels}"
            problems.append(Problem(MISFIT, "normalization", reason, "use normalization=half", self.normalization))
        if self.crop_padding >= size:
            reason = f"must be less than the images' {size} pixels"
            problems.append(Problem(MISFIT, "crop_padding", reason, value=self.crop_padding))
        enlarged = _enlarges(self.enlarge, size)
        return [*problems, *([enlarged] if enlarged else [])]
