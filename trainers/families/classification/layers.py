"""Convolutions with batch norm and activation, in any of the orders that residual networks have."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ConvLayers:
    """Makes convolutions with norm and activation in one `order`; a convolution of odd size keeps the grid at stride 1.

    In `norm_act_conv` (pre-activation) norm and activation precede each convolution (He 2016, "Identity Mappings in
    Deep Residual Networks", section 4); in `conv_norm_act` and `conv_act_norm` they follow it.
    """

    order: str
    norm_momentum: float  # share of a step's statistics in the running averages
    leaky_slope: float  # of the activation below zero; 0: ReLU

    def before(self, channels: int) -> list[nn.Module]:
        """Norm and activation of a convolution's input: none unless the order is `norm_act_conv`."""
        return [self._norm(channels), self._activation()] if self.order == "norm_act_conv" else []

    def after(self, channels: int) -> list[nn.Module]:
        """Norm and activation of a convolution's output: none if the order is `norm_act_conv`."""
        if self.order == "norm_act_conv":
            return []
        both = [self._norm(channels), self._activation()]
        return both if self.order == "conv_norm_act" else both[::-1]

    def layer(self, before: int, after: int, kernel_size: int, stride: int = 1, dropout: float = 0.0) -> nn.Sequential:
        """A convolution with its norm and its activation, with dropout in front of the convolution if it is not 0."""
        conv = convolution(before, after, kernel_size, stride)
        dropped = [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(*self.before(before), *dropped, conv, *self.after(after))

    def stem(self, channels: int, after: int) -> nn.Sequential:
        """The first layer, a 3x3 convolution, whose input is an image: never normalized."""
        return nn.Sequential(convolution(channels, after, 3), *self.after(after))

    def _norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, momentum=self.norm_momentum)

    def _activation(self) -> nn.Module:
        return nn.LeakyReLU(self.leaky_slope, inplace=True) if self.leaky_slope else nn.ReLU(inplace=True)


def convolution(before: int, after: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded by half its size."""
    return nn.Conv2d(before, after, kernel_size, stride, padding=kernel_size // 2, bias=False)
