"""A small classifier: the network named in the settings."""

from torch import nn

from trainers.families.classification.learning import Classification
from trainers.families.classifier.networks import build


class Classifier(Classification):
    def networks(self) -> dict[str, nn.Module]:
        channels, size = self.facts["channels"], self.facts["image_size"]
        return {"network": build(self.config.model, channels, size, self.config.class_count(self.facts))}
