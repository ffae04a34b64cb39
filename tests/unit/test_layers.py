"""Faster layers compute what torch's own do."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from trainers.runtime import processor
from trainers.runtime.convolutions import WIDE, Conv2d, Winograd, faster
from trainers.runtime.processor import FASTER, Ways

SHAPES = itertools.product((1, 2, 3, 4, 5, 8), (1, 2), (1, 3, 4), (0, 1))
CASES = [case for case in SHAPES if case[0] + 2 * case[3] >= case[2]]  # (size, stride, kernel, padding)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("size", "stride", "kernel", "padding"), CASES)
def test_a_convolution_is_that_of_torch_with_its_gradients(
    size: int, stride: int, kernel: int, padding: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ours = Conv2d(5, 7, kernel, stride, padding).double().to(memory_format=layout)
    theirs = nn.Conv2d(5, 7, kernel, stride, padding).double()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(3, 5, size, size + 1, dtype=torch.float64).to(memory_format=layout)
    one, other = images.clone().requires_grad_(), images.clone().requires_grad_()
    results = ours(one), theirs(other)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(results[1])
    for result in results:
        (result * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-12)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-12, atol=1e-12)


def test_small_grids_do_not_use_the_slow_kernel_and_large_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, input: asked.append(input.shape[2]) or plain(self, input))
    layer = Conv2d(2, 2, 3, padding=1)
    for size in (2, 4, 5, 8):
        layer(torch.zeros(1, 2, size, size))
    assert asked == [5, 8]


def wide_pair(size: tuple[int, int], bias: bool = False) -> tuple[nn.Conv2d, nn.Conv2d, torch.Tensor]:
    """Ours in float32, torch's in float64 with the same weights, and images that Winograd's way takes."""
    torch.manual_seed(0)
    ours = nn.Conv2d(WIDE, WIDE + 8, 3, padding=1, bias=bias).to(memory_format=torch.channels_last)
    theirs = nn.Conv2d(WIDE, WIDE + 8, 3, padding=1, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    faster(ours, Ways(winograd=True))
    return ours, theirs, torch.randn(3, WIDE, *size).contiguous(memory_format=torch.channels_last)


def near(mine: torch.Tensor, exact: torch.Tensor) -> bool:
    return bool((mine.double() - exact).abs().max() < 5e-5 * exact.abs().max())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (16, 4)])
def test_winograds_way_is_near_the_exact_one_with_its_gradients(size: tuple[int, int], bias: bool) -> None:
    ours, theirs, images = wide_pair(size, bias)
    one, other = images.clone().requires_grad_(), images.double().requires_grad_()
    results = ours(one).mul_(2), theirs(other).mul_(2)  # what comes out may be changed in place
    assert results[0].grad_fn is not None
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    assert near(*results)
    weights = torch.randn_like(results[0])
    for result in results:
        (result * weights).sum().backward()
    assert near(one.grad, other.grad)  # type: ignore[arg-type]
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert near(mine.grad, its.grad)  # type: ignore[arg-type]


def test_gradients_of_winograds_gradients_are_those_of_torch() -> None:
    ours, theirs, images = wide_pair((8, 8))
    found = []
    for layer, own in ((ours, images), (theirs, images.double())):
        own = own.clone().requires_grad_()
        (inner,) = torch.autograd.grad(layer(own).pow(2).sum(), own, create_graph=True)
        inner.pow(2).sum().backward()
        found.append((own.grad, layer.weight.grad))
    for mine, its in zip(*found, strict=True):
        assert near(mine, its)  # type: ignore[arg-type]


def test_winograds_way_gives_the_same_bits_each_time_and_wherever_the_images_lie() -> None:
    ours, _, images = wide_pair((8, 8))
    bits = []
    for ahead in (0, 1, 5):
        held = torch.empty(ahead * 3 + images.numel())[ahead * 3 :].view(3, 8, 8, WIDE).permute(0, 3, 1, 2)
        ours.zero_grad()
        result = ours(held.copy_(images))
        result.square().sum().backward()
        bits.append((result.detach(), ours.weight.grad))
    for result, gradient in bits:
        assert torch.equal(result, bits[0][0])
        assert torch.equal(gradient, bits[0][1])  # type: ignore[arg-type]


def test_winograds_way_is_taken_only_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Winograd, "apply", lambda images, weight: asked.append(0) or images)
    images = torch.randn(2, WIDE, 8, 8).contiguous(memory_format=torch.channels_last)
    layer = Conv2d(WIDE, WIDE, 3, padding=1)
    layer(images)
    assert len(asked) == 1
    layer(images.contiguous())
    layer(images[:, :, :7])
    layer.double()(images.double())
    Conv2d(WIDE, WIDE, 3, padding=1, stride=2)(images)
    Conv2d(WIDE, WIDE - 1, 3, padding=1)(images)
    Conv2d(WIDE, WIDE, 3, padding=1, groups=2)(images)
    with torch.autocast("cpu", torch.bfloat16):
        Conv2d(WIDE, WIDE, 3, padding=1)(images)
    assert len(asked) == 1


def test_only_torchs_own_convolutions_are_made_faster() -> None:
    class Special(nn.Conv2d):
        pass

    network = nn.Sequential(nn.Conv2d(1, 2, 3), Special(2, 3, 3), nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Linear(4, 5))
    names = list(network.state_dict())
    faster(network, Ways(places=16))
    assert [type(layer) for layer in network.modules() if isinstance(layer, nn.Conv2d)] == [Conv2d, Special, Conv2d]
    assert list(network.state_dict()) == names


def test_bfloat16_by_autocast() -> None:
    layer = Conv2d(4, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(torch.randn(2, 4, 2, 2))
    assert result.dtype == torch.bfloat16
    result.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_which_way_is_taken_follows_from_the_kind_of_processor_and_the_number_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind, precision in [*FASTER, ("GenuineIntel 6 avx512f", "float32"), ("arm64", "bfloat16")]:
        monkeypatch.setattr(processor, "kind", lambda kind=kind: kind)
        network = nn.Sequential(nn.Conv2d(1, 2, 3))
        ways = processor.ways(precision)
        assert ways == FASTER.get((kind, precision), Ways())
        faster(network, ways)
        (layer,) = network
        assert type(layer) is (Conv2d if (kind, precision) in FASTER else nn.Conv2d)
        assert (kind, precision) not in FASTER or layer.ways == ways


def test_a_kind_that_was_never_measured_and_float64_take_torchs_own() -> None:
    assert {precision for _, precision in FASTER} <= {"float32", "bfloat16"}
    assert processor.ways("float64") == Ways() == FASTER.get(("GenuineIntel 6 avx2", "float32"), Ways())
    assert str(Ways()) == "torch's own"
    assert str(Ways(places=4, winograd=True)) == "products up to 4 places and winograd"


def test_winograds_way_is_for_float32_only() -> None:
    assert {precision for (_, precision), ways in FASTER.items() if ways.winograd} == {"float32"}


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
         "flags\t\t: fpu avx2 avx512f avx512_bf16\n",
         "AuthenticAMD 25 avx512_bf16", "AMD EPYC (model 17)"),
        ("vendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: avx2 avx512f amx_bf16 avx512_bf16\n",
         "GenuineIntel amx_bf16", "Xeon (model ?)"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: sse\n", "GenuineIntel", ""),
    ],
)  # fmt: skip
def test_a_kind_is_the_maker_and_the_newest_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: str, name: str
) -> None:
    (tmp_path / "cpuinfo").write_text(text + "\n\nvendor_id\t: another core\n")
    monkeypatch.setattr(processor, "CPUINFO", str(tmp_path / "cpuinfo"))
    assert processor.kind.__wrapped__() == kind
    assert not name or processor.name() == name


def test_narrow_convolutions_take_torchs_own_where_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, input: asked.append(self.in_channels) or plain(self, input))
    for channels, size in ((4, 2), (8, 2), (8, 3)):
        layer = Conv2d(channels, 2, 3, padding=1)
        layer.ways = Ways(places=4, width=8)
        layer(torch.zeros(1, channels, size, size))
    assert asked == [4, 8]
