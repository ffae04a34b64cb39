"""How much memory a run takes is told before anything is built, and what is free respects containers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.cli.main import command
from tests.jobs import OWN_FAMILIES
from trainers.base import cgroups
from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.contract.family import MicroBatch
from trainers.engine import memory
from trainers.families import registry
from trainers.run import open_for

WORDS = {"image_size": 16, "width": 8, "batch_size": 32, "microbatch_size": 8, "device": "cpu", "grad_sync": "exact"}


def opened(folder: Path, name: str = "dcgan", **words: Any) -> tuple[Any, Any]:
    config = registry.config_class(name, (OWN_FAMILIES,)).of({**WORDS, **words}, name)
    data = open_for(config, folder, (OWN_FAMILIES,))
    return registry.family_class(name, (OWN_FAMILIES,))(config.finalize(data.facts), data.facts), data


def test_networks_that_only_judge_are_not_fetched_to_tell_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(family: Any) -> Any:
        raise AssertionError("fetched")

    family, data = opened(tmp_path, "dcgan")
    monkeypatch.setattr(type(family), "frozen_networks", fetched)
    need = memory.estimate_memory(family, data)
    assert need is not None
    assert need.activations, "it was asked for, and failed"


class Together:
    """A rank of several, where all say the same of hosts that are given."""

    def __init__(self, *hosts: str) -> None:
        self.hosts, self.rank, self.size = hosts, 0, len(hosts)

    def all_gather(self, value: Any) -> list[Any]:
        return [(host, *value[1:]) for host in self.hosts]


def test_activations_are_what_the_graphs_of_a_real_micro_batch_keep(tmp_path: Path) -> None:
    family, data = opened(tmp_path, "wgan_gp")
    need = memory.estimate_memory(family, data)
    networks, kept = family.networks(), dict[int, torch.Tensor]()
    weights = {tensor.data_ptr() for net in networks.values() for tensor in net.state_dict().values()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tensors, indices, epochs = family.stream(data).at(range(8))
    microbatch = MicroBatch(tensors, indices, epochs, 0, 0, 8, torch.device("cpu"), torch.float32, torch.Generator())
    critic = family.phases(0)[0]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = critic.loss(networks, microbatch)
    assert loss.value.requires_grad
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert need is not None
    assert need.activations is not None
    assert 0.9 < need.activations / real < 1.2


def test_activations_grow_with_a_micro_batch_and_nothing_else_does(tmp_path: Path) -> None:
    family, data = opened(tmp_path)
    need = memory.estimate_memory(family, data)
    assert need is not None
    twice = memory.estimate_memory(opened(tmp_path, microbatch_size=16)[0], data)
    assert need.activations
    assert twice is not None
    assert twice.activations is not None
    assert 1.9 < twice.activations / need.activations < 2.1  # a micro-batch's, and so without weights
    assert twice.least == need.least


def test_what_is_surely_little_is_not_counted(tmp_path: Path) -> None:
    family, data = opened(tmp_path)
    need = memory.estimate_memory(family, data, unless=1e12)
    assert need is not None
    assert need.activations is None


def test_no_random_number_is_drawn(tmp_path: Path) -> None:
    family, data = opened(tmp_path)
    before = torch.default_generator.get_state()
    memory.estimate_memory(family, data)
    assert torch.equal(torch.default_generator.get_state(), before)


def test_workers_of_one_host_share_its_memory_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, data = opened(tmp_path)
    need = memory.estimate_memory(family)
    assert need is not None
    monkeypatch.setattr(memory, "free_memory", lambda device: 2 * need.least)
    memory.check_memory(family, data, Together("a", "a"))  # type: ignore[arg-type]
    memory.check_memory(family, data, Together("a", "a", "b", "b"))  # type: ignore[arg-type]
    with pytest.raises(TroupeError) as caught:
        memory.check_memory(family, data, Together("a", "a", "a"))  # type: ignore[arg-type]
    assert caught.value.code == ENVIRONMENT
    (problem,) = caught.value.problems
    assert (problem.code, problem.about) == ("no-memory", "")
    assert "image_size=16, width=8" in problem.hint
    assert " 3 workers " in problem.reason
    assert "workers" in problem.hint


def test_an_estimate_that_comes_near_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, data = opened(tmp_path)
    need = memory.estimate_memory(family, data)
    assert need is not None
    assert need.activations is not None
    monkeypatch.setattr(memory, "free_memory", lambda device: need.least + need.activations)
    assert memory.check_memory(family, data, Together("a")).startswith("memory may not be enough: ")  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "free_memory", lambda device: 2 * (need.least + need.activations))
    assert memory.check_memory(family, data, Together("a")) == ""  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    assert memory.check_memory(family, data, Together("a")) == ""  # type: ignore[arg-type]


def test_a_network_that_no_memory_holds_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--dry-run"]):
        asked = ["train", "dcgan", "data=digits", "width=1000000", "device=cpu", *words]
        assert command(asked) == ENVIRONMENT
        (line,) = capsys.readouterr().err.splitlines()
        assert command([*asked, "--json"]) == ENVIRONMENT
        (error,) = json.loads(capsys.readouterr().out)["errors"]
        assert (error["code"], error["about"]) == ("no-memory", "")
        assert "width=1000000" in error["hint"]
        assert "workers" not in error["hint"]
        assert line.startswith("troupe: ")
        assert line.endswith(f"; {error['hint']}")
        assert not list((tmp_path / "runs").glob("[!.]*"))
    assert command(["train", "dcgan", "data=digits", "device=cpu", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["result"]["memory"]
    assert told["message"].startswith("weights 2.1 MB, gradients ")
    assert 2.0e6 < told["bytes"]["weights"] < 2.2e6
    assert command(["train", "dcgan", "device=cpu", "evaluate_every=0", "--dry-run", "--address", "HEAD:6379"]) == 0
    assert "memory: checked by each worker at its start" in capsys.readouterr().out


SECOND = ("memory.max", "memory.current", "inactive_file")
FIRST = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(
    ("own", "names"), [("0::/", SECOND), ("0::/box", SECOND), ("4:memory:/box\n0::/", FIRST), ("4:memory:/", FIRST)]
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, names: tuple[str, str, str]
) -> None:
    """Of the first and the second kind of control groups; files that are only cached are as good as free."""
    most, used, cached = names
    own_file = tmp_path / "own"
    own_file.write_text(own + "\n")
    inside = tmp_path / "cgroups"
    folder = (inside / most).parent
    folder = folder / "box" if "box" in own else folder
    folder.mkdir(parents=True)
    (folder / Path(most).name).write_text("5000\n")
    (folder / Path(used).name).write_text("3000\n")
    (folder / "memory.stat").write_text(f"anon 2000\n{cached} 1000\n")
    monkeypatch.setattr(cgroups, "CGROUPS", inside)
    monkeypatch.setattr(cgroups, "OWN_CGROUPS", own_file)
    assert memory.free_memory("cpu") == 3000
    (folder / Path(most).name).write_text("max\n")
    free = memory.free_memory("cpu")
    assert free is not None
    assert free > 1 << 20  # the machine's
