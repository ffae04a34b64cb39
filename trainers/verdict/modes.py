"""Classes of generated samples, and their frequencies, compared with the real ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Modes(NamedTuple):
    covered: int  # classes with at least one sample
    classes: int
    histogram: list[int]  # samples of each class
    entropy: float  # of the histogram, over that of equal parts: 1 if all classes are equally frequent
    divergence: float  # Kullback-Leibler divergence of the samples' classes from the data's, in nats


def modes(labels: Tensor, real_shares: Tensor) -> Modes:
    """`labels` (samples,): the predicted class of each sample. `real_shares` (classes,): of each class in the data.

    Raises ValueError without samples. As in Metz et al. 2017, section 3.3, one sample covers a class, and the
    divergence is that of the samples from the data, which is finite as every class of the data has some share.
    """
    if not len(labels):
        raise ValueError("counting classes needs at least one sample")
    counts = torch.bincount(labels, minlength=len(real_shares))
    shares = counts.double() / counts.sum()
    present = shares > 0
    expected = real_shares.double() / real_shares.sum()
    entropy = -(shares[present] * shares[present].log()).sum() / torch.tensor(float(len(real_shares))).log()
    divergence = (shares[present] * (shares[present] / expected[present]).log()).sum()
    return Modes(
        int((counts > 0).sum()), len(real_shares), counts.tolist(), float(entropy), float(divergence.clamp(min=0))
    )
