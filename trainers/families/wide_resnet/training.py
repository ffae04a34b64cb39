"""A Wide-ResNet."""

from torch import nn

from trainers.families.classification.learning import Classification
from trainers.families.wide_resnet.networks import WideResNet


class WideResNetFamily(Classification):
    def network(self, channels: int, classes: int) -> nn.Module:
        return WideResNet(self.config.depth, self.config.widen_factor, self.config.dropout, channels, classes)
