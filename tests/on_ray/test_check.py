"""`troupe check`: everything that is wrong, at once, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clusters import Cluster, hiding
from commands import Commands, Done

from cluster.host import hardware
from trainers.distributed.process_group import free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]


def findings(done: Done) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.out)["result"]["findings"]
    return found


def wrong(done: Done) -> list[str]:
    return [one["message"] for one in findings(done) if one["state"] == "WRONG"]


class Second(NamedTuple):
    """A node beside the head of `cluster`: it has a CPU, says that it has two GPUs, and a folder lies under an empty
    disk there, where one can be mounted."""

    cluster: Cluster
    folder: Path
    is_hidden: bool

    def checked(self, commands: Commands, *words: str) -> Done:
        return commands.run("check", *words, "--json", on=self.cluster)


@pytest.fixture(scope="module")
def second(shared: Commands, cluster: Cluster) -> Iterator[Second]:
    folder = shared.folder / "hidden"
    folder.mkdir()
    prefix = hiding(shared, folder)
    with cluster.node("--num-gpus=2", cpus=1, prefix=prefix):
        yield Second(cluster, folder, bool(prefix))


def test_a_machine_that_has_all_is_told_so(troupe: Commands) -> None:
    done = troupe.run("check", "dcgan", "data=digits")
    assert done.code == 0, done
    assert done.out.endswith("nothing is wrong\n")
    assert "data=digits: found" in done.out
    assert not list((troupe.folder / "runs").glob(".*")), "nothing is left"


def test_all_that_this_machine_lacks_is_told_at_once(troupe: Commands) -> None:
    (troupe.folder / "file").write_text("")
    done = troupe.run("check", "dcgan", "data=mnist", "device=cpu", "workers=4096", "batch_size=65536", "--json",
                      "--runs-dir", "file/runs", "--data-dir", "nowhere")  # fmt: skip
    assert done.code == 3, done
    room, runs = wrong(done)
    (data,) = [one["message"] for one in findings(done) if one["state"] == "note"]
    assert room.startswith("workers=4096: needs 4096 CPUs, this machine has ")
    assert runs == "file/runs: cannot be written (Not a directory)"
    assert data.startswith("data=mnist: is not in nowhere, and would be downloaded; or put its four *-ubyte.gz files")
    words = troupe.run("check", "dcgan", "wokers=2")
    assert words.code == 2
    assert words.mistakes == ["troupe: wokers: no such setting of dcgan; did you mean workers?"]


def test_an_address_that_does_not_answer_and_a_wrong_token_are_findings(troupe: Commands, cluster: Cluster) -> None:
    done = troupe.run("check", "--address", f"127.0.0.1:{free_port()}", "--json")
    assert done.code == 3, done
    assert "no Ray answers there" in wrong(done)[0]
    other = {**cluster.environment, "RAY_AUTH_TOKEN": "b" * 64}
    done = troupe.run("check", "--address", cluster.address, "--json", environment=other)
    assert done.code == 3, done
    assert "rejected the token" in wrong(done)[0]
    assert done.seconds < 15, "Ray itself asks for 20 s"


def test_a_cluster_is_looked_at_node_by_node_and_its_nodes_reach_one_another(troupe: Commands, second: Second) -> None:
    done = second.checked(troupe, "dcgan", "batch_size=64", "data=digits", "workers=3", "device=cpu")
    assert done.code == 0, done
    assert done.seconds < 60
    told = [one["message"] for one in findings(done)]
    assert any(line.startswith(f"{second.cluster.address}: 2 nodes") for line in told)
    assert any(line.startswith("3 of 3 CPUs free") for line in told)
    assert any(line.startswith("2 nodes: all-reduce of 4.2 MB at ") for line in told), "a real all-reduce"


def test_all_that_a_cluster_lacks_is_told_together(troupe: Commands, second: Second) -> None:
    """Workers that do not fit, a node that does not see the runs, and GPUs that are none."""
    done = second.checked(troupe, "dcgan", "batch_size=64", "workers=4", "data=mnist", "--data-dir", "nowhere",
                          "--runs-dir", str(second.folder))  # fmt: skip
    assert done.code == 3, done
    lines = wrong(done)
    assert "workers=4: needs 4 CPUs, the cluster has 3" in lines
    if second.is_hidden:
        assert f"does not see {second.folder.resolve()}; put it on a disk that all nodes share" in lines
    if hardware.gpus() == 0:
        assert any(line.startswith("the GPUs cannot reach each other (") for line in lines)
        assert len(lines) == 2 + second.is_hidden
    notes = [one["message"] for one in findings(done) if one["state"] == "note"]
    assert sum(line.startswith("data=mnist: is not in nowhere") for line in notes) == 2, "one for each node"
    if not second.is_hidden:
        pytest.skip("no disk can be mounted here: all but the hidden folder was looked at")
