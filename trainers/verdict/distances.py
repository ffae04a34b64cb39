"""Distances between the distributions of the features of generated and of real samples.

Features are (samples, numbers), in any floating point format; all sums are computed in float64 and over all samples.
Long computations call `heartbeat` after each block of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Beat = Callable[[], None]  # called after each block
BLOCK = 2048  # samples compared at once


class Moments(NamedTuple):
    """Mean (numbers,) and covariance (numbers, numbers) of features, in float64, and the number of samples."""

    mean: Tensor
    covariance: Tensor
    samples: int


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance. Raises ValueError for fewer than two samples."""
    if len(features) < 2:
        raise ValueError("a covariance needs two samples or more")
    wide = features.double()
    mean = wide.mean(0)
    apart = wide - mean
    return Moments(mean, apart.T @ apart / (len(wide) - 1), len(wide))


def frechet(one: Moments, other: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): the distance of two Gaussians (Dowson and Landau 1982).

    With Inception's features it is the FID (Heusel et al. 2017, section 2). It is biased: between samples of one
    distribution it falls as 1/n, and with fewer samples than numbers it is hardly meaningful.
    """
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    both = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    gap = (one.mean - other.mean).square().sum() + one.covariance.trace() + other.covariance.trace() - 2 * both
    return max(0.0, float(gap))


def kernel_distance(
    one: Tensor, other: Tensor, within_other: float | None = None, heartbeat: Beat = lambda: None
) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (x.y / numbers + 1)^3, over all pairs of samples.

    KID with Inception's features (Binkowski et al. 2018, section 4); zero on average between samples of one
    distribution, for any number of samples, so it can be negative. `within_other` is `kernel_within(other)`, if known.
    Raises ValueError for fewer than two samples.
    """
    if within_other is None:
        within_other = kernel_within(other, heartbeat)
    return (
        kernel_within(one, heartbeat) + within_other - 2 * _kernel_sum(one, other, heartbeat) / (len(one) * len(other))
    )


def kernel_within(features: Tensor, heartbeat: Beat = lambda: None) -> float:
    """The mean kernel of all pairs of different samples. Raises ValueError for fewer than two."""
    if len(features) < 2:
        raise ValueError("a kernel distance needs two samples or more of each")
    itself = float(_kernel(features.double().square().sum(1) / features.shape[1]).sum())
    return (_kernel_sum(features, features, heartbeat) - itself) / (len(features) * (len(features) - 1))


def _kernel_sum(one: Tensor, other: Tensor, heartbeat: Beat) -> float:
    total = 0.0
    for left in torch.split(one, BLOCK):
        for right in torch.split(other, BLOCK):
            total += float(_kernel(left.double() @ right.double().T / one.shape[1]).sum())
            heartbeat()
    return total


def _kernel(product: Tensor) -> Tensor:
    wide = product + 1
    return wide * wide * wide
