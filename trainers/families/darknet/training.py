"""A Darknet."""

from torch import nn

from trainers.families.classification.layers import ConvLayers
from trainers.families.classification.learning import Classification
from trainers.families.darknet.networks import Darknet


class DarknetFamily(Classification):
    def network(self, channels: int, classes: int) -> nn.Module:
        config = self.config
        return Darknet(
            config.blocks,
            config.first_width,
            config.inner,
            config.stride_one,
            channels,
            classes,
            config.kernel_size,
            config.convs_per_block,
            config.width_multiplier,
            ConvLayers(config.layer_order, config.norm_momentum, config.leaky_slope),
        )
