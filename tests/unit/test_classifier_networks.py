"""The networks of wide_resnet, darknet and classifier: as large as published, and which images fit them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from tiers import slow
from torch import Tensor, nn

from trainers.base.problems import sentence, sentences
from trainers.families.classification.layers import ConvLayers
from trainers.families.classifier.config import OWN, Config, torchvision_models
from trainers.families.classifier.networks import RowsLSTM, Subsample, build, misfit
from trainers.families.darknet.networks import Darknet, ResLayer
from trainers.families.wide_resnet.networks import WideResNet
from trainers.runtime.precision import autocast_for

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
SHARED = [folder / "shared" / "data" / "resnet_cifar10" for folder in (ROOT, ROOT.parent)]
AUXILIARY = ("googlenet", "inception_v3")
ORDERS = ("conv_norm_act", "norm_act_conv", "conv_act_norm")

SMALL: dict[str, Callable[[int, int, int], nn.Module]] = {
    "wide_resnet": lambda channels, size, classes: WideResNet(10, 2, 0.0, channels, classes),
    "dropout": lambda channels, size, classes: WideResNet(16, 1, 0.3, channels, classes),
    "darknet": lambda channels, size, classes: Darknet([1, 2], 4, 0.5, 1, channels, classes),
    "widening": lambda channels, size, classes: Darknet([1, 1], 4, 1.5, 0, channels, classes),
    **{
        f"darknet-{order}": lambda channels, size, classes, order=order: Darknet(
            [1, 2], 4, 0.5, 1, channels, classes, 5, 3, 1.5, ConvLayers(order, 0.01, 0.2)
        )
        for order in ORDERS
    },
    **{
        f"wide_resnet-{order}": lambda channels, size, classes, order=order: WideResNet(
            15, 1, 0.3, channels, classes, 5, 3, 2, 1.5, ConvLayers(order, 0.01, 0.0)
        )
        for order in ORDERS
    },
    **{
        f"rows-{cell}": lambda channels, size, classes, cell=cell: build(
            "lstm_rows", channels, size, classes, cell=cell, units=8, layers=3, bidirectional=True
        )
        for cell in ("lstm", "gru", "rnn")
    },
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
    ("depth", "convs", "groups"), [(28, 1, 3), (28, 2, 3), (40, 3, 3), (40, 4, 3), (21, 2, 4), (7, 5, 1)]
)
def test_the_depth_of_a_wide_resnet_counts_its_convolutions(depth: int, convs: int, groups: int) -> None:
    with torch.device("meta"):
        network = WideResNet(depth, 4, 0.0, 3, 10, convs=convs, groups=groups)
        grid = network.blocks(network.stem(torch.empty(2, 3, 32, 32)))
    assert len(convolutions(network)) == depth
    assert len(network.blocks) * convs + groups + 1 == depth
    assert grid.shape == (2, 64 << (groups - 1), 64 >> groups, 64 >> groups)


def test_groups_have_a_multiple_of_the_channels_of_the_group_before() -> None:
    def widths(network: nn.Module) -> list[int]:
        found = [layer.out_channels for layer in convolutions(network)]
        return list(dict.fromkeys(found))

    with torch.device("meta"):
        assert widths(Darknet([0, 0, 0], 8, 0.5, 1, 3, 10, multiplier=1.5)) == [8, 12, 18, 27]
        assert widths(WideResNet(10, 2, 0.0, 3, 10, multiplier=3.0)) == [16, 32, 96, 288]


@pytest.mark.parametrize(
    ("convs", "inner", "kernels"),
    [(1, 0.5, [5]), (2, 0.5, [1, 5]), (3, 0.5, [1, 5, 5]), (3, 1.0, [5, 5, 5]), (2, 2.0, [5, 5])],
)
def test_a_residual_layer_has_as_many_convolutions_of_that_size(convs: int, inner: float, kernels: list[int]) -> None:
    found = convolutions(ResLayer(8, inner, kernel_size=5, convs=convs))
    assert [layer.kernel_size[0] for layer in found] == kernels
    assert (found[0].in_channels, found[-1].out_channels) == (8, 8)
    assert {layer.out_channels for layer in found[:-1]} <= {round(8 * inner)}


@pytest.mark.parametrize("make", [SMALL[f"{name}-{order}"] for name in ("darknet", "wide_resnet") for order in ORDERS])
@pytest.mark.parametrize("momentum", [0.01])
def test_norms_move_by_the_momentum(make: Callable[[int, int, int], nn.Module], momentum: float) -> None:
    norms = [layer for layer in make(3, 16, 10).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {layer.momentum for layer in norms} == {momentum}


@pytest.mark.parametrize(
    ("order", "layer", "stem", "end"),
    [
        ("conv_norm_act", "conv norm act", "conv norm act", ""),
        ("conv_act_norm", "conv act norm", "conv act norm", ""),
        ("norm_act_conv", "norm act conv", "conv", "norm act"),  # an image is not normalized, the last sum is
    ],
)
def test_norm_and_activation_lie_where_they_are_asked_for(order: str, layer: str, stem: str, end: str) -> None:
    def kinds(parts: Iterable[nn.Module]) -> str:
        names = {nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.LeakyReLU: "act", nn.ReLU: "act"}
        return " ".join(names[type(part)] for part in parts)  # type: ignore[index]

    layers = ConvLayers(order, 0.1, 0.1)
    assert kinds(layers.layer(4, 8, 3)) == layer
    assert kinds(layers.stem(3, 8)) == stem
    assert kinds(layers.before(8)) == end
    darknet = Darknet([1], 4, 0.5, 0, 3, 10, layers=layers)
    assert kinds(part for part in darknet.modules() if not list(part.children()) and type(part) in (
        nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU,
    )) == " ".join(filter(None, [stem, *[layer] * 3, end]))  # fmt: skip


def test_the_slope_of_the_activation_is_the_one_that_is_asked_for() -> None:
    for slope, kind in ((0.3, nn.LeakyReLU), (0.0, nn.ReLU)):
        activation = ConvLayers("conv_norm_act", 0.1, slope).after(4)[1]
        assert type(activation) is kind
        assert activation(torch.tensor([-1.0])).item() == pytest.approx(-slope)


def test_dropout_of_a_single_convolution_precedes_it() -> None:
    network = WideResNet(7, 1, 0.3, 3, 10, convs=1)
    kinds = [[type(part) for part in block.residual] for block in network.blocks]  # type: ignore[union-attr]
    assert kinds == [[nn.Dropout, nn.Conv2d]] * 3


def test_the_stages_of_the_residual_network_have_the_blocks_that_are_asked_for() -> None:
    with torch.device("meta"):
        network = build("residual", 3, 32, 10, blocks=(1, 2, 4))
        assert [len(stage) for stage in (network.layer1, network.layer2, network.layer3)] == [1, 2, 4]  # type: ignore[arg-type]
        assert parameters(build("residual", 3, 32, 10, blocks=(2, 2, 2))) == 195_738


def test_a_row_network_reads_rows_both_ways_to_the_end() -> None:
    """The last row of the downward direction, the first one of the upward direction: both have seen all rows."""
    network = RowsLSTM(1, 6, 3, "gru", 4, 1, bidirectional=True)
    for row in (0, 5):
        given = images(1, 6, 1).requires_grad_(True)
        network(given).sum().backward()
        assert given.grad is not None
        assert given.grad[0, 0, row].abs().min() > 0
    outputs = network.lstm(given.detach().transpose(1, 2).flatten(2))[0]
    whole = torch.cat([outputs[:, -1, :4], outputs[:, 0, 4:]], 1)
    torch.testing.assert_close(network(given), network.linear(whole))


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_a_row_network_has_the_cells_units_and_layers_that_are_asked_for(cell: str, gates: int) -> None:
    network = RowsLSTM(1, 28, 10, cell, 32, 3)
    assert [tuple(network.lstm.weight_ih_l0.shape), tuple(network.lstm.weight_hh_l2.shape)] == [
        (gates * 32, 28), (gates * 32, 32),
    ]  # fmt: skip


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
