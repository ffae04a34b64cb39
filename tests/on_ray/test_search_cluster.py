"""Searches on a cluster of several nodes: trials of several workers get all that they need, or wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clusters import ray_here
from commands import until

from cluster import search
from cluster.ranking.leaderboard import FINISHED
from trainers.base.errors import ENVIRONMENT, TroupeError

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(400)]

NODES, CPUS = 4, 4
TINY: dict[str, Any] = {
    "model": "mlp", "data": "digits", "steps": 2, "space": "none", "batch_size": 24, "microbatch_size": 4
}  # fmt: skip


def test_on_sixteen_cpus_trials_of_three_workers_share_four_nodes_and_free_them(tmp_path: Path) -> None:
    with ray_here(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1") as ray:
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            for _ in range(NODES):
                cluster.add_node(num_cpus=CPUS, object_store_memory=10**8)
            ray.init(address=cluster.address, log_to_driver=False)
            with pytest.raises(TroupeError, match="workers=17: needs 17 CPUs") as error:
                search("classifier", learning_rate="0.1,0.2", workers=17, runs_dir=tmp_path,
                       **{**TINY, "batch_size": 68})  # fmt: skip
            assert error.value.code == ENVIRONMENT
            result = search("classifier", name="s", learning_rate="0.01,0.02,0.03,0.04,0.05,0.06,0.07", workers=3,
                            runs_dir=tmp_path, address=cluster.address, **TINY)  # fmt: skip
            states = [point["trials"][0]["state"] for point in result["points"]]
            assert states == [FINISHED] * 7
            until(lambda: ray.available_resources().get("CPU") == NODES * CPUS, "all CPUs are free", 20)
        finally:
            ray.shutdown()
            cluster.shutdown()
