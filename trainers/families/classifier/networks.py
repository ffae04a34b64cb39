"""Classifiers from perceptrons to He et al.'s residual networks, and those of torchvision, all built by name.

"The book" is Liao Xingyu's on PyTorch (2017). Parameters have PyTorch's initial values unless noted.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu
from torch.overrides import TorchFunctionMode

from trainers.base.problems import Problem
from trainers.settings.config import MISFIT

USUAL_SIZES = (8, 16, 28, 32, 64, 96, 128, 224, 256, 299, 384, 512)


def build(model: str, channels: int, size: int, classes: int, **settings: Any) -> nn.Module:
    """The network of that name: images (rows, channels, size, size) to logits (rows, classes).

    `settings` are those of the model alone: `blocks` of `residual`; `cell`, `units`, `layers` and `bidirectional` of
    `lstm_rows`.
    `googlenet` and `inception_v3` return a named tuple in training mode: `logits` and those of their auxiliary heads.
    """
    match model:
        case "mlp":
            return perceptron(channels * size**2, classes, lambda width: [])
        case "mlp_relu":
            return perceptron(channels * size**2, classes, lambda width: [nn.ReLU(True)])
        case "mlp_bn":
            return perceptron(channels * size**2, classes, lambda width: [nn.BatchNorm1d(width), nn.ReLU(True)])
        case "cnn":
            return cnn(channels, size, classes)
        case "simple_cnn":
            return simple_cnn(channels, size, classes)
        case "lenet":
            return lenet(channels, size, classes)
        case "lstm_rows":
            return RowsLSTM(channels, size, classes, **settings)
        case "residual":
            return ResNet(settings.get("blocks", (3, 3, 3)), channels, classes, projection=True)
        case "resnet20" | "resnet32" | "resnet44" | "resnet56" | "resnet110":
            return ResNet([int(model.removeprefix("resnet")) // 6] * 3, channels, classes)
        case _:
            return from_torchvision(model, channels, size, classes)


def misfit(model: str, channels: int, size: int, classes: int, rows: int = 2) -> Problem | None:
    """What is wrong with `rows` such images for that model, or None; only computes shapes."""
    if fits(model, channels, size, classes, rows):
        return None
    if rows == 1 and fits(model, channels, size, classes):
        reason = f"a norm of model={model} needs at least two images"
        return Problem(MISFIT, "microbatch_size", reason, "use microbatch_size=2", 1)

    def first(sizes: Sequence[int]) -> list[str]:
        return next(([f"image_size={usual}"] for usual in sizes if fits(model, channels, usual, classes)), [])

    near = [
        *first([usual for usual in reversed(USUAL_SIZES) if usual < size]),
        *first([usual for usual in USUAL_SIZES if usual > size]),
    ]
    hint = f"use {' or '.join(near)}" if near else ""
    return Problem(MISFIT, "model", f"does not fit images of {size}x{size}", hint, model)


@functools.cache
def fits(model: str, channels: int, size: int, classes: int, rows: int = 2) -> bool:
    """Whether the model accepts such images in training mode: heads used only there need more pixels."""
    try:
        with torch.device("meta"), torch.no_grad():
            build(model, channels, size, classes).train()(torch.empty(rows, channels, size, size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def perceptron(inputs: int, classes: int, between: Callable[[int], list[nn.Module]]) -> nn.Module:
    """Three linear layers, 300 and 100 wide, with `between(width)` after the first two (the book, section 3.8)."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(inputs, 300), *between(300)),
        *(nn.Linear(300, 100), *between(100)),
        nn.Linear(100, classes),
    )


def cnn(channels: int, size: int, classes: int) -> nn.Module:
    """Four convolutions with norm, without padding, and three linear layers (the book, section 4.5)."""

    def conv(before: int, after: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(before, after, 3), nn.BatchNorm2d(after), nn.ReLU(True)

    grid = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        *(*conv(channels, 16), *conv(16, 32), nn.MaxPool2d(2)),
        *(*conv(32, 64), *conv(64, 128), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(flat(128, grid), 1024), nn.ReLU(True)),
        *(nn.Linear(1024, 128), nn.ReLU(True)),
        nn.Linear(128, classes),
    )


def simple_cnn(channels: int, size: int, classes: int) -> nn.Module:
    """Three padded convolutions, each with 2x2 max pooling, and three linear layers (the book, section 4.3.2)."""

    def conv(before: int, after: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(before, after, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)

    return nn.Sequential(
        *(*conv(channels, 32), *conv(32, 64), *conv(64, 128)),
        *(nn.Flatten(), nn.Linear(flat(128, size // 8), 512), nn.ReLU(True)),
        *(nn.Linear(512, 64), nn.ReLU(True)),
        nn.Linear(64, classes),
    )


def lenet(channels: int, size: int, classes: int) -> nn.Module:
    """LeNet as in the book (section 4.4.1): without activations, as its author notes; kept so."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 3, padding=1), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(flat(16, (size // 2 - 4) // 2), 120), nn.Linear(120, 84), nn.Linear(84, classes)),
    )


def flat(channels: int, grid: int) -> int:
    """The number of features of the last grid. Raises ValueError if it is empty."""
    if grid < 1:
        raise ValueError("the images are too small for this model")
    return channels * grid**2


CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class RowsLSTM(nn.Module):
    """Reads an image row by row, all channels of a row at once (the book, section 5.3.2), with one of the cells of its
    section 5.2. Read upwards too, the logits follow from what either direction has read last.

    The book does not specify units and layers: 128 and 2 are chosen here.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        cell: str = "lstm",
        units: int = 128,
        layers: int = 2,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        kind: Any = CELLS[cell]
        self.units, self.bidirectional = units, bidirectional
        self.lstm = kind(channels * size, units, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.linear = nn.Linear(units * (1 + bidirectional), classes)

    def forward(self, images: Tensor) -> Tensor:
        outputs, _ = self.lstm(images.transpose(1, 2).flatten(2))  # (rows, height, channels * width)
        last = outputs[:, -1]
        if self.bidirectional:
            last = torch.cat([last[:, : self.units], outputs[:, 0, self.units :]], 1)
        logits: Tensor = self.linear(last)
        return logits


class ResNet(nn.Module):
    """Images of any size to logits: three stages of 16, 32 and 64 channels (He et al. 2016, section 4.2).

    Names as in github.com/akamaster/pytorch_resnet_cifar10, so that its published weights can be loaded. With
    `projection` the shortcuts are those of the book (section 4.7), which does not specify the blocks of a stage.
    """

    def __init__(self, blocks: Sequence[int], channels: int, classes: int, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, 1, blocks[0], projection)
        self.layer2 = stage(16, 32, 2, blocks[1], projection)
        self.layer3 = stage(32, 64, 2, blocks[2], projection)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        features = relu(self.bn1(self.conv1(images)), inplace=True)
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(self.pool(features).flatten(1))
        return logits


def stage(before: int, after: int, stride: int, blocks: int, projection: bool) -> nn.Sequential:
    """Blocks of one width; the first can halve the grid."""
    rest = (Block(after, after, 1, projection) for _ in range(blocks - 1))
    return nn.Sequential(Block(before, after, stride, projection), *rest)


class Block(nn.Module):
    """Two 3x3 convolutions with norm, added to the input (He et al. 2016, figure 2)."""

    def __init__(self, before: int, after: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if (before, stride) != (after, 1):
            conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            self.shortcut = (
                nn.Sequential(conv, nn.BatchNorm2d(after)) if projection else Subsample(after - before, stride)
            )

    def forward(self, images: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(images)), inplace=True)))
        return relu(residual.add_(self.shortcut(images)), inplace=True)  # a norm keeps no output for backward


class Subsample(nn.Module):
    """A shortcut without parameters: subsampled pixels, channels of zeros on both sides (He et al. 2016, option A)."""

    def __init__(self, zeros: int, stride: int) -> None:
        super().__init__()
        self.zeros, self.stride = zeros, stride

    def forward(self, images: Tensor) -> Tensor:
        low = self.zeros // 2
        return pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, low, self.zeros - low))


def initialise(layer: nn.Module) -> None:
    """Weights and filters N(0, 2 / inputs) (He et al. 2015, equation 10), as initially for the published weights."""
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        nn.init.kaiming_normal_(layer.weight)


def from_torchvision(model: str, channels: int, size: int, classes: int) -> nn.Module:
    """A classifier of torchvision, untrained; its first filters are adapted to the number of channels."""
    from torchvision import models

    options: dict[str, Any] = {}
    if model in ("googlenet", "inception_v3"):
        options = {"aux_logits": True, "init_weights": True}  # avoids torchvision's warning about the latter
    elif model.startswith("vit"):
        options = {"image_size": size}
    elif model.startswith("maxvit"):
        options = {"input_size": (size, size)}
    with PlansOnCPU() if model.startswith("regnet") else nullcontext():
        network: nn.Module = models.get_model(model, weights=None, num_classes=classes, **options)
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    if channels != 3:  # repeat or drop filters, and keep the scale of their outputs
        filters = first.weight.detach()[:, [channel % 3 for channel in range(channels)]]
        first.in_channels, first.weight = channels, nn.Parameter(filters * (3 / channels) ** 0.5)
    return network


class PlansOnCPU(TorchFunctionMode):
    """Keeps numbers that are read on the CPU: RegNet's widths, if it is built on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.arange, torch.tensor):
            kwargs = {"device": "cpu", **(kwargs or {})}
        return func(*args, **(kwargs or {}))
