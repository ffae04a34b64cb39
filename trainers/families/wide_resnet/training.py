"""A Wide-ResNet."""

from torch import nn

from trainers.families.classification.learning import Classification
from trainers.families.wide_resnet.networks import WideResNet


class WideResNetFamily(Classification):
    def networks(self) -> dict[str, nn.Module]:
        config = self.config
        return {
            "network": WideResNet(
                config.depth,
                config.widen_factor,
                config.dropout,
                self.facts["channels"],
                config.class_count(self.facts),
            )
        }
