"""Which kinds of things generated samples show, and how often, beside the real ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Modes(NamedTuple):
    covered: int  # classes with a sample or more
    classes: int
    histogram: list[int]  # samples of each class
    entropy: float  # of the histogram, over that of equal parts: 1 where all classes come equally often
    divergence: float  # Kullback and Leibler's, of the samples' classes from the data's, in nats


def modes(labels: Tensor, real_shares: Tensor) -> Modes:
    """`labels` (samples,): what a classifier takes each sample for. `real_shares` (classes,): of each in the data.

    Raises ValueError without samples. As in Metz et al. 2017, section 3.3, a class counts as covered by one sample; its
    divergence is that of the samples from the data, finite as every class of the data has some share.
    """
    if not len(labels):
        raise ValueError("classes can be counted of one sample or more")
    counts = torch.bincount(labels, minlength=len(real_shares))
    shares = counts.double() / counts.sum()
    there = shares > 0
    wanted = real_shares.double() / real_shares.sum()
    entropy = -(shares[there] * shares[there].log()).sum() / torch.tensor(float(len(real_shares))).log()
    divergence = (shares[there] * (shares[there] / wanted[there]).log()).sum()
    return Modes(
        int((counts > 0).sum()), len(real_shares), counts.tolist(), float(entropy), float(divergence.clamp(min=0))
    )
