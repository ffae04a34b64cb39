"""The networks of wide_resnet, darknet and classifier: as large as published, and which images fit them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiers import slow
from torch import Tensor, nn

from trainers.base.problems import sentence, sentences
from trainers.families.classifier.config import OWN, Config, torchvision_models
from trainers.families.classifier.networks import Subsample, build, misfit
from trainers.families.darknet.networks import Darknet, ResLayer
from trainers.families.wide_resnet.networks import WideResNet
from trainers.runtime.precision import autocast_for

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
SHARED = [folder / "shared" / "data" / "resnet_cifar10" for folder in (ROOT, ROOT.parent)]
AUXILIARY = ("googlenet", "inception_v3")

SMALL: dict[str, Callable[[int, int, int], nn.Module]] = {
    "wide_resnet": lambda channels, size, classes: WideResNet(10, 2, 0.0, channels, classes),
    "dropout": lambda channels, size, classes: WideResNet(16, 1, 0.3, channels, classes),
    "darknet": lambda channels, size, classes: Darknet([1, 2], 4, 0.5, 1, channels, classes),
    "widening": lambda channels, size, classes: Darknet([1, 1], 4, 1.5, 0, channels, classes),
    **{
        name: lambda channels, size, classes, name=name: build(name, channels, size, classes)
        for name in OWN
        if name not in ("resnet32", "resnet44", "resnet56", "resnet110")  # as resnet20
    },
}
small = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def images(channels: int = 3, size: int = 17, rows: int = 2) -> Tensor:
    return torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("model", "channels", "size", "expected"),
    [
        ("mlp", 1, 28, 266_610), ("mlp_relu", 1, 28, 266_610), ("mlp_bn", 1, 28, 267_410),
        ("cnn", 1, 28, 2_328_298), ("simple_cnn", 3, 32, 1_175_818), ("lenet", 1, 28, 61_610),
        ("lstm_rows", 1, 28, 214_282), ("residual", 3, 32, 292_954),
        ("resnet20", 3, 32, 269_722), ("resnet32", 3, 32, 464_154), ("resnet44", 3, 32, 658_586),
        ("resnet56", 3, 32, 853_018), ("resnet110", 3, 32, 1_727_962),
        ("alexnet", 3, 224, 57_044_810), ("vgg16", 3, 224, 134_301_514), ("resnet18", 3, 32, 11_181_642),
    ],
)  # fmt: skip
def test_classifiers_have_as_many_parameters_as_published(model: str, channels: int, size: int, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(build(model, channels, size, 10)) == expected


@pytest.mark.parametrize(("depth", "widen_factor", "expected"), [(16, 4, 2_748_890), (28, 10, 36_479_194)])
def test_wide_resnets_have_as_many_parameters_as_published(depth: int, widen_factor: int, expected: int) -> None:
    with torch.device("meta"):
        network = WideResNet(depth, widen_factor, 0.0, 3, 10)
        grid = network.blocks(network.stem(torch.empty(2, 3, 32, 32)))
    assert parameters(network) == expected
    assert len(convolutions(network)) == depth  # a linear layer and three shortcuts more than the residual ones
    assert grid.shape == (2, 64 * widen_factor, 8, 8)


def test_a_wide_resnet_drops_between_the_two_convolutions_of_a_block_and_only_if_told_to() -> None:
    def drops(dropout: float) -> list[float]:
        return [m.p for m in WideResNet(16, 1, dropout, 3, 10).modules() if isinstance(m, nn.Dropout)]

    assert drops(0.3) == [0.3] * 6
    assert drops(0.0) == []


def test_a_wide_resnet_begins_with_the_filters_of_its_authors() -> None:
    network = WideResNet(10, 8, 0.0, 3, 10)
    last = convolutions(network.blocks)[-2]
    assert last.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert not network.linear.bias.any()


def test_darknet_is_the_network_of_the_lesson() -> None:
    with torch.device("meta"):
        network = Darknet([1, 2, 4, 6, 3], 32, inner=0.5, stride_one=1, channels=3, classes=10)
        shapes = [images(3, 32).to("meta")]
        for layer in network.main[:-3]:
            shapes.append(layer(shapes[-1]))
    assert parameters(network) == 31_410_922
    assert len(convolutions(network)) == 38
    grids = list(dict.fromkeys((shape.shape[1], shape.shape[2]) for shape in shapes[1:]))
    assert grids == [(32, 32), (64, 16), (128, 16), (256, 8), (512, 4), (1024, 2)]


@pytest.mark.parametrize(
    ("inner", "kernels", "middle"), [(0.5, [1, 3], 4), (0.01, [1, 3], 1), (1.0, [3, 3], 8), (2.0, [3, 3], 16)]
)
def test_a_residual_layer_narrows_by_1x1_and_widens_by_3x3(inner: float, kernels: list[int], middle: int) -> None:
    first, second = convolutions(ResLayer(8, inner))
    assert [first.kernel_size[0], second.kernel_size[0]] == kernels
    assert first.out_channels == second.in_channels == middle


@small
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 16, 2), (4, 17, 7)])
def test_images_of_any_channels_and_odd_sizes_become_logits(
    make: Callable[[int, int, int], nn.Module], channels: int, size: int, classes: int
) -> None:
    assert make(channels, size, classes)(images(channels, size)).shape == (2, classes)


@small
def test_logits_are_the_same_in_float64_and_with_channels_last(make: Callable[[int, int, int], nn.Module]) -> None:
    network = make(3, 17, 5).eval()
    plain = network(images())
    double = network.double()(images().double())
    last = network.to(memory_format=torch.channels_last)(images().double().to(memory_format=torch.channels_last))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), plain, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(last, double)


@small
def test_gradients_reach_every_parameter_also_in_bfloat16(make: Callable[[int, int, int], nn.Module]) -> None:
    network = make(3, 17, 5)
    with autocast_for("bfloat16", "cpu"):
        logits = network(images())
    assert torch._C._get_mkldnn_enabled()
    logits.float().logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_shortcut_without_parameters_leaves_pixels_out_and_adds_channels_of_zeros_on_both_sides() -> None:
    given = images(2, 5)
    made = Subsample(2, stride=2)(given)
    assert made.shape == (2, 4, 3, 3)
    assert torch.equal(made[:, 1:3], given[:, :, ::2, ::2])
    assert not made[:, [0, 3]].any()


@pytest.mark.parametrize("file", ["resnet20-12fca82f.th", "resnet56-4bfd9763.th"])
def test_published_weights_of_he_et_al_can_be_loaded(file: str) -> None:
    path = next((folder / file for folder in SHARED if (folder / file).exists()), None)
    if path is None:
        pytest.skip(f"{file} of github.com/akamaster/pytorch_resnet_cifar10 is not here")
    weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    network = build(file.partition("-")[0], 3, 32, 10)
    network.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()}, strict=True)


def test_names_are_those_of_the_published_weights() -> None:
    names = list(build("resnet20", 3, 32, 10).state_dict())
    assert names[:7:6] == ["conv1.weight", "layer1.0.conv1.weight"]
    assert "layer3.2.bn2.running_var" in names
    assert names[-2:] == ["linear.weight", "linear.bias"]
    assert not [name for name in names if "shortcut" in name]


def test_lenet_has_no_activation_as_in_the_book() -> None:
    kinds = {type(layer) for layer in build("lenet", 1, 28, 10).children()}
    assert kinds == {nn.Conv2d, nn.MaxPool2d, nn.Flatten, nn.Linear}


@pytest.mark.slow
def test_every_classifier_of_torchvision_can_be_built_without_memory() -> None:
    names = torchvision_models()
    assert {"alexnet", "vgg16", "googlenet", "resnet18", "vit_b_16", "regnet_y_400mf"} <= set(names)
    assert not set(names) & set(OWN)
    for name in names:
        with torch.device("meta"):
            network = build(name, 1, 224, 7)
        assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}, name
        assert convolutions(network)[0].weight.shape[1] == 1, name


@pytest.mark.parametrize(("channels", "factor"), [(1, 3**0.5), *slow((2, 1.5**0.5), (6, 0.5**0.5))])
def test_a_torchvision_model_takes_other_channels_with_its_own_filters(channels: int, factor: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        three = convolutions(build("resnet18", 3, 32, 10))[0]
        torch.manual_seed(1)
        network = build("resnet18", channels, 32, 10)
    first = convolutions(network)[0]
    assert first.in_channels == channels
    assert torch.equal(first.weight[:, -1], three.weight[:, (channels - 1) % 3] * factor)
    assert network(images(channels, 32)).shape == (2, 10)


def test_inception_networks_give_auxiliary_logits_when_they_learn_and_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = build("googlenet", 1, 32, 7)
    learning = network(images(1, 32))
    assert [part.shape for part in learning] == [(2, 7)] * 3
    assert learning.logits is learning[0]
    assert network.eval()(images(1, 32)).shape == (2, 7)
    with torch.device("meta"):
        shapes = [part.shape for part in build("inception_v3", 3, 299, 7)(torch.empty(2, 3, 299, 299))]
    assert shapes == [(2, 7)] * 2


@pytest.mark.parametrize(
    ("model", "size", "usual"),
    [
        ("alexnet", 32, "64"), ("vit_b_16", 40, "32|64"), ("cnn", 15, "16"), ("simple_cnn", 7, "8"),
        ("lenet", 11, "16"),
        *slow(("vgg11", 28, "32"), ("inception_v3", 128, "299"), ("maxvit_t", 32, "224")),
    ],
)  # fmt: skip
def test_a_misfit_is_told_with_the_nearest_sizes_that_fit(model: str, size: int, usual: str) -> None:
    sizes = " or ".join(f"image_size={side}" for side in usual.split("|"))
    problem = misfit(model, 3, size, 10)
    assert problem is not None
    assert sentence(problem) == f"model={model}: does not fit images of {size}x{size}; use {sizes}"


@pytest.mark.parametrize(("model", "size"), [("mlp_bn", 8), ("resnet18", 32)])
def test_a_norm_over_one_number_is_told(model: str, size: int) -> None:
    problem = misfit(model, 1, size, 10, rows=1)
    assert problem is not None
    assert sentence(problem) == (
        f"microbatch_size=1: a norm of model={model} needs at least two images; use microbatch_size=2"
    )
    assert misfit(model, 1, size, 10, rows=2) is None
    assert misfit("resnet18", 1, 64, 10, rows=1) is None


@pytest.mark.parametrize(
    ("model", "size"),
    [("mlp", 1), ("mlp_bn", 5), ("lstm_rows", 3), ("resnet20", 1), ("residual", 9), ("cnn", 16), ("simple_cnn", 8),
     ("lenet", 12), ("alexnet", 63), ("googlenet", 32), ("swin_t", 32),
     *slow(("regnet_x_400mf", 32), ("vit_h_14", 28))],
)  # fmt: skip
def test_what_fits_is_no_misfit(model: str, size: int) -> None:
    assert misfit(model, 1, size, 10) is None


def test_an_unknown_model_is_told_with_the_nearest_name() -> None:
    _, problems = Config.from_words({"model": "resnet_20"}, "classifier")
    assert sentences(problems) == ["model=resnet_20: no such model; did you mean resnet20?"]


def test_names_of_torchvision_are_read_as_it_says_them_itself() -> None:
    from torchvision import models

    assert set(torchvision_models()) == set(models.list_models(module=models))


def test_looking_for_misfits_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    assert misfit("googlenet", 1, 8, 10) is not None
    assert misfit("swin_t", 1, 32, 10) is None
    assert torch.equal(torch.get_rng_state(), before)
