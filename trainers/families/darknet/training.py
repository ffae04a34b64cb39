"""A Darknet."""

from torch import nn

from trainers.families.classification.learning import Classification
from trainers.families.darknet.networks import Darknet


class DarknetFamily(Classification):
    def networks(self) -> dict[str, nn.Module]:
        config = self.config
        return {
            "network": Darknet(
                config.blocks,
                config.first_width,
                config.inner,
                config.stride_one,
                self.facts["channels"],
                config.class_count(self.facts),
            )
        }
