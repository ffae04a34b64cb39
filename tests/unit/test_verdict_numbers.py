"""Numbers of a verdict: what is known in closed form, what others compute, and what they are for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.verdict.distances import Moments, frechet, kernel_distance, moments
from trainers.verdict.modes import modes
from trainers.verdict.neighbours import Originals, expected_coverage, nearest, quality, radii


def normal(count: int, numbers: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, numbers, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


# Distances of distributions


def test_the_frechet_distance_of_two_gaussians_is_the_known_one() -> None:
    variances = (torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 16.0]).double())
    means = (torch.zeros(3).double(), torch.tensor([1.0, 2.0, 2.0]).double())
    turned = torch.linalg.qr(normal(3, 3, 0)).Q
    one, other = (Moments(turned @ mean, turned @ torch.diag(variance) @ turned.T, 10)
                  for mean, variance in zip(means, variances, strict=True))  # fmt: skip
    # axes are shared, so it is |m1 - m2|^2 and the squared differences of standard deviations
    assert frechet(one, other) == pytest.approx(9 + 1 + 1 + 1)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)


def test_its_bias_falls_with_the_number_of_samples() -> None:
    found = {count: frechet(moments(normal(count, 128, 1)), moments(normal(count, 128, 2))) for count in (1000, 5000)}
    assert 7.6 < found[1000] < 9.2
    assert 1.5 < found[5000] < 1.9


def test_the_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    of_same = [kernel_distance(normal(300, 8, seed), normal(400, 8, seed + 100)) for seed in range(20)]
    assert abs(np.mean(of_same)) < 3 * np.std(of_same) / math.sqrt(20)
    assert min(of_same) < 0 < max(of_same)
    assert kernel_distance(normal(300, 8, 0), normal(300, 8, 1, shift=0.5)) > 10 * np.std(of_same)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.verdict import distances, neighbours

    one, other = normal(70, 5, 0), normal(50, 5, 1)
    whole = (kernel_distance(one, other), quality(one, other), nearest(other, one)[1].tolist())
    monkeypatch.setattr(distances, "BLOCK", 16)
    monkeypatch.setattr(neighbours, "BLOCK", 16)
    parts = (kernel_distance(one, other), quality(one, other), nearest(other, one)[1].tolist())
    assert parts[0] == pytest.approx(whole[0], rel=1e-9)
    assert parts[1:] == whole[1:]


# Neighbours


def test_coverage_and_density_of_equal_distributions_are_the_known_ones() -> None:
    assert expected_coverage(1000, 1000) == pytest.approx(0.969, abs=5e-4)
    found = [quality(normal(1000, 16, seed), normal(1000, 16, seed + 50)) for seed in range(6)]
    assert np.mean([one.coverage for one in found]) == pytest.approx(0.969, abs=0.01)
    assert np.mean([one.density for one in found]) == pytest.approx(1, abs=0.06)
    assert np.mean([one.precision for one in found]) == pytest.approx(0.79, abs=0.02), "nothing real reaches 1"


def test_radii_are_those_of_the_nearest_others() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert [radius.tolist() for radius in radii(points, 1, 2)] == [[1, 1, 2, 4], [3, 2, 3, 6]]


def test_precision_falls_where_samples_are_unreal_and_recall_where_they_are_alike() -> None:
    real, good = normal(500, 8, 0), normal(500, 8, 1)
    unreal = torch.cat([good[:250], normal(250, 8, 2, shift=8.0)])
    alike = good[:1] + 0.01 * normal(500, 8, 3)
    assert quality(real, unreal).precision < 0.6 * quality(real, good).precision
    assert quality(real, unreal).density < 0.6 * quality(real, good).density
    assert quality(real, alike).recall < 0.05
    assert quality(real, alike).coverage < 0.05


def test_an_honest_sample_copies_one_time_in_a_hundred_and_a_copy_machine_always() -> None:
    train, held_out = normal(2000, 16, 0), normal(2000, 16, 1)
    originals = Originals(train, held_out)
    honest = originals.copies(normal(2000, 16, 2))
    assert honest.memorization_rate == pytest.approx(0.01, abs=0.008)
    assert abs(honest.copy_test) < 3
    machine = originals.copies(train[:1000] + 0.05 * normal(1000, 16, 3))
    assert machine.memorization_rate > 0.99
    assert machine.copy_test < -10
    half = originals.copies(torch.cat([train[:500], normal(500, 16, 4)]))
    assert half.memorization_rate == pytest.approx(0.5, abs=0.02)
    assert [sample == image for sample, image in half.closest] == [True] * 16
    blurred = originals.copies(0.2 * normal(2000, 16, 5))
    assert blurred.copy_test < 0 < originals.copies(2 * normal(2000, 16, 5)).copy_test


# Modes


def test_modes_count_classes_and_how_unequal_they_come() -> None:
    every = modes(torch.arange(100) % 10, torch.ones(10))
    assert (every.covered, every.histogram) == (10, [10] * 10)
    assert every.entropy == pytest.approx(1)
    assert every.divergence == pytest.approx(0)
    one = modes(torch.full((100,), 3), torch.ones(10))
    assert (one.covered, one.entropy) == (1, 0)
    assert one.divergence == pytest.approx(math.log(10))
    unequal = modes(torch.tensor([0, 0, 0, 1]), torch.tensor([3.0, 1.0]))
    assert unequal.divergence == pytest.approx(0), "the data is as unequal"


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="two samples"):
        moments(normal(1, 4, 0))
    with pytest.raises(ValueError, match="two samples"):
        kernel_distance(normal(1, 4, 0), normal(9, 4, 0))
    with pytest.raises(ValueError, match="more than 5"):
        quality(normal(5, 4, 0), normal(9, 4, 0))
    with pytest.raises(ValueError, match="one sample"):
        modes(torch.zeros(0, dtype=torch.int64), torch.ones(3))


# What others compute of the same features


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, Tensor]:
    real, generated = normal(600, 32, 0).float(), (0.9 * normal(500, 32, 1, shift=0.1)).float()
    return real, generated


def test_torch_fidelity_agrees(features: tuple[Tensor, Tensor]) -> None:
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    real, generated = features
    theirs = metric_fid.fid_statistics_to_metric(
        metric_fid.fid_features_to_statistics(generated), metric_fid.fid_features_to_statistics(real), verbose=False
    )
    ours = frechet(moments(generated), moments(real))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], abs=1e-3)
    theirs = metric_kid.kid_features_to_metric(
        generated[:500], real[:500], kid_subsets=1, kid_subset_size=500, verbose=False, rng_seed=0
    )
    assert kernel_distance(generated[:500], real[:500]) == pytest.approx(
        theirs["kernel_inception_distance_mean"], abs=1e-3
    )
    theirs = metric_prc.prc_features_to_metric(generated, real, prc_neighborhood=3, prc_batch_size=100, verbose=False)
    assert quality(real, generated).precision == pytest.approx(theirs["precision"], abs=1e-3)
    assert quality(real, generated).recall == pytest.approx(theirs["recall"], abs=1e-3)


@pytest.mark.slow
def test_prdc_agrees(features: tuple[Tensor, Tensor]) -> None:
    from prdc import compute_prdc

    real, generated = features
    theirs = compute_prdc(real.numpy(), generated.numpy(), nearest_k=5)
    ours = quality(real, generated)
    assert ours.density == pytest.approx(theirs["density"], abs=1e-3)
    assert ours.coverage == pytest.approx(theirs["coverage"], abs=1e-3)
    theirs = compute_prdc(real.numpy(), generated.numpy(), nearest_k=3)
    assert ours.precision == pytest.approx(theirs["precision"], abs=1e-3)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1e-3)


@pytest.mark.slow
def test_torchmetrics_agrees(features: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.image.fid import _compute_fid

    real, generated = (moments(part) for part in features)
    theirs = _compute_fid(real.mean, real.covariance, generated.mean, generated.covariance)
    assert frechet(real, generated) == pytest.approx(float(theirs), abs=1e-3)


def test_what_takes_long_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.verdict import distances, neighbours
    from trainers.verdict.verdict import Reference

    monkeypatch.setattr(distances, "BLOCK", 8)
    monkeypatch.setattr(neighbours, "BLOCK", 8)
    random = torch.Generator().manual_seed(0)
    train, held_out, made = (torch.randn(64, 4, generator=random) for _ in range(3))
    beats: list[int] = []
    reference = Reference(64, train, held_out, heartbeat=lambda: beats.append(1))
    begun = len(beats)
    assert begun > 6 * 64, "each of 8 x 8 blocks, in kernels, balls, neighbours and copies"
    reference.verdict(made, heartbeat=lambda: beats.append(1))
    assert len(beats) - begun > 5 * 64
