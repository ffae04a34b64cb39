"""Settings of the families whose residual layers vary: `darknet` and `wide_resnet`."""

from typing import ClassVar, Literal

from trainers.base.problems import Problem
from trainers.families.classification.settings import ClassificationConfig
from trainers.settings.config import MISFIT
from trainers.settings.fields import Check, setting
from trainers.settings.rules import VALUE


def _odd(kernel_size: int) -> Problem | None:
    if kernel_size % 2:
        return None
    hint = f"use kernel_size={kernel_size - 1} or kernel_size={kernel_size + 1}"
    return Problem(VALUE, "kernel_size", "must be odd: an even one changes the size of the images", hint, kernel_size)


class ResidualConfig(ClassificationConfig):
    """The settings of the residual layers of both families."""

    checks: ClassVar[tuple[Check, ...]] = (*ClassificationConfig.checks, Check(("kernel_size",), _odd))

    kernel_size: int = setting(3, "side of the filters of residual layers, odd", at_least=1, at_most=31, network=True)
    convs_per_block: int = setting(
        2,
        "convolutions that are added to the input together",
        at_least=1,
        at_most=16,
        source="Zagoruyko 2016, section 2.2",
        network=True,
    )
    width_multiplier: float = setting(
        2.0, "channels of a group, as a multiple of those of the one before", at_least=1, at_most=4, network=True
    )
    layer_order: Literal["conv_norm_act", "norm_act_conv", "conv_act_norm"] = setting(
        "conv_norm_act",
        "order of convolution, batch norm and activation; norm_act_conv is the pre-activation of He 2016",
        network=True,
    )
    norm_momentum: float = setting(0.1, "share of each step in the running averages of batch norms", above=0, at_most=1)
    leaky_slope: float = setting(0.1, "slope of the activation below zero; 0: ReLU", at_least=0, below=1, network=True)

    def lonely_norms(self, side: int) -> list[Problem]:
        """A problem if the last batch norms, of images of this many pixels, would see a single number."""
        if side > 1 or self.microbatch_size > 1:
            return []
        reason = "the last norms need at least two images"
        return [Problem(MISFIT, "microbatch_size", reason, "use microbatch_size=2", 1)]
