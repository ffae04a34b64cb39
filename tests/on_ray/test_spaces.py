"""The default space of every family runs: what it says is worth trying can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiers import long

from cluster import search
from cluster.searching import space
from trainers.families import registry

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SMALL = {"data": "digits", "steps": 1, "batch_size": 8, "microbatch_size": 4, "ema": 0}
LARGE: dict[str, dict[str, Any]] = {  # the rest of it takes minutes on two cores, and bfloat16 many on some
    "wide_resnet": {"widen_factor": "1,2", "depth": "16,22"},
    "cifar_speed": {"precision": "float32", "test_views": "one"},
}
QUICK = ("classifier", "dcgan")
IMAGES = {"dcgan": 32, "wgan": 32, "wgan_gp": 32}


@pytest.mark.parametrize(
    "family",
    [*QUICK, *long(*(family for family in registry.families() if family not in QUICK))],
)
def test_the_default_space_of_a_family_runs(ray: Any, family: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {**SMALL, **LARGE.get(family, {})}
    if family in IMAGES:
        words |= {
            "image_size": IMAGES[family],
            "features": "pixels",
            "num_eval_samples": 100,
            "metric": "kernel_distance",
        }
    result = search(family, trials=2, runs_dir=tmp_path, **words)
    assert result["failed"] == 0
    searched = space.module_of(family, None, ())[0]
    assert set(result["points"][0]["settings"]) == set(searched)
    assert all(point["mean"] is not None for point in result["points"])
