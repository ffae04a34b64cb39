"""A Wide-ResNet."""

from torch import nn

from trainers.families.classification.layers import ConvLayers
from trainers.families.classification.learning import Classification
from trainers.families.wide_resnet.networks import WideResNet


class WideResNetFamily(Classification):
    def network(self, channels: int, classes: int) -> nn.Module:
        config = self.config
        return WideResNet(
            config.depth,
            config.widen_factor,
            config.dropout,
            channels,
            classes,
            config.kernel_size,
            config.convs_per_block,
            config.groups,
            config.width_multiplier,
            ConvLayers(config.layer_order, config.norm_momentum, config.leaky_slope),
        )
