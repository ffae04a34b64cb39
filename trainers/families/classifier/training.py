"""A small classifier: the network named in the settings."""

from torch import nn

from trainers.families.classification.learning import Classification
from trainers.families.classifier.networks import build


class Classifier(Classification):
    def network(self, channels: int, classes: int) -> nn.Module:
        size = self.facts["image_size"]
        return build(self.config.model, channels, size, classes, **self.config.model_settings)
