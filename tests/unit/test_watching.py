"""What a watch makes of scores and images, and what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.data.images import ImageData, Part
from trainers.families.adversarial import watching
from trainers.families.adversarial.watching import GENERATED, HELD_OUT, TRAIN


def rows_of(scores: tuple[Tensor, Tensor, Tensor], generated: Tensor | None = None) -> dict[str, Tensor]:
    """64 training images, as many held-out and generated ones, of one distribution where nothing else is said."""
    random = torch.Generator().manual_seed(0)
    pixels = [torch.randn(64, 256, generator=random) for _ in range(3)]
    pixels[GENERATED] = pixels[GENERATED] if generated is None else generated
    kinds = torch.arange(3).repeat_interleave(64)
    return {"kinds": kinds, "scores": torch.cat(scores), "pixels": torch.cat(pixels)}


def noise() -> Tensor:
    return torch.randn(64, 256, generator=torch.Generator().manual_seed(1))


def some(mean: float) -> Tensor:
    return torch.linspace(-1, 1, 64) + mean


def test_all_is_well_where_samples_are_as_real_ones() -> None:
    found = watching.numbers_of(rows_of((some(1), some(1), some(0))), {})
    assert found["watch_diversity"] == pytest.approx(1, abs=0.05)
    assert (
        found["critic_ranking_accuracy"] == found["critic_ranking_accuracy_held_out"] == pytest.approx(0.875, abs=0.01)
    )
    assert found["critic_slope"] == pytest.approx(1 / 512**0.5, rel=0.05)  # means 1 apart, images sqrt(2 * 256)
    assert found["collapse_strikes"] == 0
    assert watching.worry(found) is None


def test_what_is_above_is_counted_pair_by_pair() -> None:
    assert watching.above(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0, 2.0, 4.0])) == (1.5 + 3) / 8


BAD: dict[str, tuple[dict[str, Tensor], dict[str, float], str]] = {
    "one image": (
        rows_of((some(1), some(1), some(0)), torch.ones(64, 256)), {},
        "the samples collapse: they differ 0% as much as real images do;",
    ),
    "fallen": (
        rows_of((some(1), some(1), some(0)), noise() / 5), {"watch_diversity_most": 0.9},
        "the samples collapse: they differ 20% as much as real images do, 90% at best;",
    ),
    "running away": (
        rows_of((some(500), some(500), some(-500))), {},
        "the losses diverge: scores of real and generated images are 44",
    ),
    "no numbers": (
        rows_of((some(1), some(1), torch.full((64,), torch.nan))), {},
        "the losses diverge: scores of real and generated images are nan",
    ),
    "by heart": (
        rows_of((some(2), some(0), some(0))), {},
        "the training images are memorized: they get higher scores than generated ones in 100% of all pairs, "
        "held-out images in 50%;",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", BAD)
def test_the_second_look_in_a_row_is_a_worry(how: str) -> None:
    rows, before, line = BAD[how]
    first = watching.numbers_of(rows, before)
    assert first["collapse_strikes"] == 1
    assert watching.worry(first) is None
    second = watching.numbers_of(rows, first)
    assert second["collapse_strikes"] == 2
    told = watching.worry(second)
    assert told is not None
    assert told.startswith(line)
    assert "\n" not in told
    well = watching.numbers_of(rows_of((some(1), some(1), some(0))), {**second, "watch_diversity_most": 1.0})
    assert well["collapse_strikes"] == 0


def test_an_untrained_generator_is_no_worry() -> None:
    found = watching.numbers_of(rows_of((some(1), some(1), some(0)), noise() / 100), {})
    assert found["collapse_strikes"] == 0


class Sizes:
    batch_size, microbatch_size = 24, 16


@pytest.mark.parametrize(("held_out", "kinds"), [(100, {TRAIN: 48, HELD_OUT: 48, GENERATED: 48}),
                                                 (10, {TRAIN: 48, GENERATED: 48})])  # fmt: skip
def test_whole_micro_batches_of_one_kind_are_looked_at(held_out: int, kinds: dict[int, int]) -> None:
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 16, 16, 1).contiguous().numpy()
    data = ImageData(Part(images), Part(images[:held_out]), fingerprint="made")
    config: Any = Sizes()
    looked = watching.images_of(data, torch.zeros(70, 16, 16, 1, dtype=torch.uint8), None, config)
    assert {kind: int((looked["kinds"] == kind).sum()) for kind in kinds} == kinds
    assert sum(kinds.values()) == len(looked["images"])
    for start in range(0, len(looked["kinds"]), 16):
        assert len(looked["kinds"][start : start + 16].unique()) == 1
    first = looked["images"][:16, 0, 0, 0].tolist()
    assert first == sorted(first)
    assert first[0] < 10
    assert first[-1] > 85, "each is spread over the whole part"


def test_without_held_out_images_none_is_right() -> None:
    rows = rows_of((some(1), some(1), some(0)))
    rows = {name: part[rows["kinds"] != HELD_OUT] for name, part in rows.items()}
    assert "critic_ranking_accuracy_held_out" not in watching.numbers_of(rows, {})


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_images_can_be_watched(count: int) -> None:
    kinds = torch.tensor([TRAIN] * count + [GENERATED] * 64)
    scores = torch.linspace(-1, 1, len(kinds))
    pixels = torch.randn(len(kinds), 256, generator=torch.Generator().manual_seed(0))
    found = watching.numbers_of({"kinds": kinds, "scores": scores, "pixels": pixels}, {})
    assert all(math.isfinite(value) for value in found.values())
    if count == 1:
        assert found["watch_diversity"] == 1, "there is nothing that one image could be compared with"
