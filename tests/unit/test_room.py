"""Room for workers on the nodes of a Ray: what does not fit is told at once, and not after a minute. Without Ray."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from sentences import Sentences

from cluster.backend import connection
from cluster.backend.connection import missing_resources
from cluster.host import requirements
from cluster.host.environment import worker_environment
from cluster.host.requirements import needs
from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem
from trainers.families import registry


def nodes(*cpus: float, **more: float) -> list[dict[str, float]]:
    return [{"CPU": count, **more} for count in cpus]


@pytest.mark.parametrize(
    ("each", "workers", "there"),
    [
        ({"CPU": 1.0}, 4, nodes(4)), ({"CPU": 1.0}, 4, nodes(2, 2)), ({"CPU": 4.0}, 2, nodes(4, 4)),
        ({"CPU": 4.0}, 2, nodes(8)), ({"CPU": 3.0}, 2, nodes(1, 4, 4)),
        ({"CPU": 2.0, "GPU": 1.0}, 4, nodes(4, 4, GPU=2)),
    ],
)  # fmt: skip
def test_workers_that_fit_lack_nothing(each: dict[str, float], workers: int, there: list[dict[str, float]]) -> None:
    assert missing_resources(each, workers, there, "the cluster") is None


def told(problem: Problem | None) -> list[Problem]:
    assert problem is not None
    assert (problem.code, problem.about) == ("no-room", "workers")
    return [problem]


def test_too_few_cpus_or_gpus_in_all_are_told(sentences: Sentences) -> None:
    both = {"CPU": 1.0, "GPU": 1.0}
    for each, workers, there, where in (
        ({"CPU": 1.0}, 4, nodes(1, 2), "the cluster"),
        ({"CPU": 1.0}, 2, [{}], "this machine"),
        (both, 3, nodes(8, GPU=2), "the cluster"),
        ({**both, "CPU": 8.0}, 2, nodes(8, GPU=2), "this machine"),
    ):
        (problem,) = told(missing_resources(each, workers, there, where))
        assert problem.value == workers
        sentences([problem])  # what is needed, and what is there


def test_a_worker_needs_all_it_takes_on_one_node(sentences: Sentences) -> None:
    (problem,) = told(missing_resources({"CPU": 8.0}, 2, nodes(4, 4, 4, 4), "the cluster"))
    assert "threads_per_worker" in problem.hint
    sentences([problem])
    assert missing_resources({"CPU": 3.0}, 2, nodes(4, 2), "the cluster") is not None
    assert missing_resources({"CPU": 2.0, "GPU": 1.0}, 2, [{"CPU": 8}, {"CPU": 2, "GPU": 4}], "the cluster") is not None


def test_a_worker_takes_its_threads_and_one_gpu() -> None:
    assert needs({"threads_per_worker": 3, "device": "cpu"}) == {"CPU": 3.0}
    assert needs({"threads_per_worker": 3, "device": "cuda"}) == {"CPU": 3.0, "GPU": 1.0}


def test_a_gpu_that_is_given_few_samples_is_told_of_more_that_fit() -> None:
    kind = registry.config_class("dcgan")

    def told(**words: Any) -> str | None:
        config = kind.of({"device": "cuda", "batch_size": 64, **words}, "dcgan")
        return requirements.hint(config)

    line = "16 samples at once may be too few for a GPU; microbatch_size=64 changes the results, and may be faster"
    assert told(microbatch_size=16) == line
    assert told(microbatch_size=16, workers=3) is None, "21 do not divide 64, and 16 do"
    assert told(microbatch_size=64) is None


def test_the_ray_of_our_caller_is_looked_at_and_its_workers_get_our_environment(
    monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    kind = registry.config_class("dcgan")
    config = kind.of({**kind.tiny["tiny"], "device": "cpu", "grad_sync": "exact", "workers": 2})
    there: list[dict[str, Any]] = [{"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": False}]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: there)
    monkeypatch.setattr(connection, "reject_forked", lambda: None)  # another test may have used Ray in this process
    with pytest.raises(TroupeError) as caught, connection._own(config, False):
        pass
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about, one.value) for one in caught.value.problems] == [("no-room", "workers", 2)]
    sentences(caught.value.problems)
    there[0]["Resources"] = {"CPU": 2.0}
    with connection._own(config, False) as used:
        assert used.runtime_env == {"env_vars": worker_environment()}
