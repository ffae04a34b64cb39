"""The families that classify images: a run of one of them can judge the samples of a GAN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.families.cifar_speed.config import Config as CifarSpeedConfig
from trainers.families.classification.settings import ClassificationConfig
from trainers.families.classifier.config import Config as ClassifierConfig
from trainers.families.darknet.config import Config as DarknetConfig
from trainers.families.wide_resnet.config import Config as WideResNetConfig

if TYPE_CHECKING:
    from trainers.families.classification.learning import Classification

CONFIGS: dict[str, type[ClassificationConfig]] = {
    "cifar_speed": CifarSpeedConfig,
    "classifier": ClassifierConfig,
    "darknet": DarknetConfig,
    "wide_resnet": WideResNetConfig,
}


def classifier_class(name: str) -> type[Classification]:
    """The training part of one of them. Imports torch."""
    from trainers.families.cifar_speed.training import CifarSpeed
    from trainers.families.classifier.training import Classifier
    from trainers.families.darknet.training import DarknetFamily
    from trainers.families.wide_resnet.training import WideResNetFamily

    return {
        "cifar_speed": CifarSpeed,
        "classifier": Classifier,
        "darknet": DarknetFamily,
        "wide_resnet": WideResNetFamily,
    }[name]
