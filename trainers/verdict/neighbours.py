"""Realism, diversity and copies of samples, measured by their nearest neighbours.

Features are (samples, numbers). Distances are Euclidean, in float64, and computed block by block, so that 50,000
samples of 2,048 numbers need less than 2 GB besides the features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.verdict.distances import Beat

BLOCK = 2048  # samples compared at once
BALL, WIDE_BALL = 3, 5  # neighbours inside: Kynkaanniemi et al. 2019, section 3.1; Naeem et al. 2020, section 3.3
CLOSEST = 0.01  # quantile of held-out images' distances, below which a sample counts as a copy
CELLS, AXES = 3, 64  # of the space that is searched for copies
FEWEST = 20  # samples of each kind, at least, in a cell that counts


class Quality(NamedTuple):
    precision: float  # share of generated samples inside the balls of real ones
    recall: float  # share of real samples inside the balls of generated ones
    density: float  # number of real balls around a generated sample, over the expected number; above 1 at the modes
    coverage: float  # share of real samples with a generated one nearby


def quality(real: Tensor, generated: Tensor, heartbeat: Beat = lambda: None) -> Quality:
    """Improved precision and recall (Kynkaanniemi et al. 2019, section 2), density and coverage (Naeem et al. 2020,
    section 3). Raises ValueError if there are too few samples to count their neighbours."""
    if min(len(real), len(generated)) <= WIDE_BALL:
        raise ValueError(f"precision, recall, density and coverage need more than {WIDE_BALL} samples of each")
    ball_real, wide_real = radii(real, BALL, WIDE_BALL, heartbeat=heartbeat)
    (ball_generated,) = radii(generated, BALL, heartbeat=heartbeat)
    inside = torch.zeros(len(generated), dtype=torch.bool)
    reached, covered = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    hits = 0
    for rows, columns, distance in _blocks(real, generated, heartbeat):
        inside[columns] |= (distance <= ball_real[rows, None]).any(0)
        reached[rows] |= (distance <= ball_generated[None, columns]).any(1)
        near = distance <= wide_real[rows, None]
        covered[rows] |= near.any(1)
        hits += int(near.sum())
    return Quality(
        float(inside.double().mean()),
        float(reached.double().mean()),
        hits / (WIDE_BALL * len(generated)),
        float(covered.double().mean()),
    )


def expected_coverage(real: int, generated: int, neighbours: int = WIDE_BALL) -> float:
    """Coverage of samples of one distribution (Naeem et al. 2020, appendix C): 1 - prod (N-1-i) / (N+M-1-i)."""
    return 1 - math.prod((real - 1 - i) / (real + generated - 1 - i) for i in range(neighbours))


def nearest(points: Tensor, among: Tensor, heartbeat: Beat = lambda: None) -> tuple[Tensor, Tensor]:
    """The distance of each point to the nearest one in `among`, and its index; each (points,)."""
    distances = torch.full((len(points),), math.inf, dtype=torch.float64)
    indices = torch.zeros(len(points), dtype=torch.int64)
    for rows, columns, distance in _blocks(points, among, heartbeat):
        least, column = distance.min(1)
        closer = least < distances[rows]
        distances[rows] = torch.where(closer, least, distances[rows])
        indices[rows] = torch.where(closer, column + columns.start, indices[rows])
    return distances, indices


def radii(points: Tensor, *neighbours: int, heartbeat: Beat = lambda: None) -> list[Tensor]:
    """The distance of each point to its k-th nearest other one, for each k; each (points,)."""
    most = max(neighbours)
    distances = torch.full((len(points), most + 1), math.inf, dtype=torch.float64)
    for rows, _, distance in _blocks(points, points, heartbeat):
        both = torch.cat([distances[rows], distance], 1)
        distances[rows] = both.topk(most + 1, dim=1, largest=False, sorted=True).values
    return [distances[:, count] for count in neighbours]  # the nearest is the point itself


class Copies(NamedTuple):
    memorization_rate: float  # share of samples nearer to a training image than 99 of 100 held-out images are
    copy_test: float  # C_T: far below 0 if samples are nearer to training images than held-out ones are
    closest: list[tuple[int, int]]  # (sample, training image), the closest pairs first


class Originals:
    """Training images that samples may be copies of, and held-out ones for comparison."""

    def __init__(self, train: Tensor, held_out: Tensor, heartbeat: Beat = lambda: None) -> None:
        self.train = train
        self.limit = nearest(held_out, train, heartbeat)[0].quantile(CLOSEST)
        # C_T is computed in the space of the training images' principal axes, in cells found by k-means
        wide = train.double()
        self.mean = wide.mean(0)
        apart = wide - self.mean
        self.axes = torch.linalg.eigh(apart.T @ apart).eigenvectors[:, -AXES:]
        turned, tested = self._turned(train), self._turned(held_out)
        self.centres = _centres(turned)
        cells, tests = self._cells(turned), self._cells(tested)
        self.train_points = [turned[cells == cell] for cell in range(len(self.centres))]
        self.tested = [
            nearest(tested[tests == cell], points, heartbeat)[0] for cell, points in enumerate(self.train_points)
        ]

    def copies(self, generated: Tensor, pairs: int = 16, heartbeat: Beat = lambda: None) -> Copies:
        """Whether samples are copies: their distances to the nearest training image, compared with held-out images'.

        `copy_test` is C_T of Meehan et al. 2020, section 4: the z-score of the Mann-Whitney U between both kinds of
        distances in each cell of the space, weighted by the held-out images there; nan if no cell has enough.
        """
        distances, indices = nearest(generated, self.train, heartbeat)
        order = distances.argsort()[:pairs].tolist()
        made = self._turned(generated)
        cells = self._cells(made)
        total, weight = 0.0, 0
        for cell, (points, tests) in enumerate(zip(self.train_points, self.tested, strict=True)):
            fakes = made[cells == cell]
            if len(points) and min(len(tests), len(fakes)) >= FEWEST:
                total += len(tests) * _u_score(nearest(fakes, points, heartbeat)[0], tests)
                weight += len(tests)
        return Copies(
            float((distances < self.limit).double().mean()),
            total / weight if weight else math.nan,
            [(sample, int(indices[sample])) for sample in order],
        )

    def _turned(self, points: Tensor) -> Tensor:
        turned: Tensor = (points.double() - self.mean) @ self.axes
        return turned

    def _cells(self, points: Tensor) -> Tensor:
        return torch.cdist(points, self.centres).argmin(1)


def _centres(points: Tensor) -> Tensor:
    """Deterministic k-means: it starts from the points that are farthest from those before."""
    centres = [points[(points - points.mean(0)).square().sum(1).argmax()]]
    while len(centres) < min(CELLS, len(points)):
        centres.append(points[torch.cdist(points, torch.stack(centres)).amin(1).argmax()])
    means = torch.stack(centres)
    for _ in range(100):
        of = torch.cdist(points, means).argmin(1)
        moved = torch.stack(
            [points[of == cell].mean(0) if (of == cell).any() else means[cell] for cell in range(len(means))]
        )
        if torch.equal(moved, means):
            break
        means = moved
    return means


def _u_score(one: Tensor, other: Tensor) -> float:
    """The z-score of the Mann-Whitney U: below 0 if numbers of `one` are mostly the smaller ones."""
    both = torch.cat([one, other])
    _, inverse, counts = torch.unique(both, return_inverse=True, return_counts=True)
    above = counts.cumsum(0).double()
    ranks = (above - (counts.double() - 1) / 2)[inverse]  # ties share their ranks
    n, m = len(one), len(other)
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def _blocks(one: Tensor, other: Tensor, heartbeat: Beat) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and distances of every block of (one, other)."""
    for start in range(0, len(one), BLOCK):
        rows = slice(start, min(start + BLOCK, len(one)))
        left = one[rows].double().cpu()
        for begin in range(0, len(other), BLOCK):
            columns = slice(begin, min(begin + BLOCK, len(other)))
            right = other[columns].double().cpu()
            squares = left.square().sum(1)[:, None] + right.square().sum(1) - 2 * (left @ right.T)
            yield rows, columns, squares.clamp(min=0).sqrt()
            heartbeat()
