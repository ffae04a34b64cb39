"""CPUs and GPUs that can be used here: what a container may use, and what torch can. Without either."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from sentences import Sentences

from cluster.cli.main import command
from cluster.host import hardware, requirements
from cluster.inspection import environment_report, preflight
from trainers.base import cgroups
from trainers.families import registry

SECOND = {"cpu.max": "{quota} {period}\n"}
FIRST = {"cpu.cfs_quota_us": "{quota}\n", "cpu.cfs_period_us": "{period}\n"}
UNUSABLE = "Found no NVIDIA driver on your system"


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A container on a machine of 8 CPUs: what /proc/self/cgroup says, and the quota of one of its groups."""
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(cgroups, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)

    def begin(own: str, folder: str, quota: str, period: str = "100000") -> None:
        (tmp_path / "own").write_text(own + "\n")
        there = tmp_path / "cgroups" / folder
        there.mkdir(parents=True, exist_ok=True)
        for name, text in (SECOND if own.startswith("0::") else FIRST).items():
            (there / name).write_text(text.format(quota=quota, period=period))

    return begin


@pytest.mark.parametrize(
    ("own", "folder"),
    [("0::/", "."), ("0::/box", "box"), ("0::/pod/box", "pod"), ("0::/../../pod", "."),
     ("4:cpu,cpuacct:/box\n0::/", "cpu,cpuacct/box"), ("4:cpu,cpuacct:/docker/1a", "cpu"), ("4:cpu:/", "cpu")],
)  # fmt: skip
def test_a_quota_bounds_the_cpus_and_its_part_counts_as_one(container: Any, own: str, folder: str) -> None:
    for quota, expected in (("50000", 1), ("100000", 1), ("250000", 3), ("1600000", 8)):
        container(own, folder, quota)
        assert hardware.cores() == expected
    for quota in ("max", "-1", "0", "nonsense"):
        container(own, folder, quota)
        assert (hardware.cores(), hardware.why_few_cores()) == (8, "")


def test_the_narrowest_of_all_groups_counts_and_the_affinity_too(
    container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    container("0::/pod/box", "pod", "300000")
    container("0::/pod/box", "pod/box", "max")
    assert hardware.cores() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5})
    assert hardware.cores() == 1
    assert "affinity" in hardware.why_few_cores()
    assert "1 of 8 CPUs" in hardware.why_few_cores()


LIMITED_BY = ("quota", "affinity")


@pytest.mark.parametrize("limit", LIMITED_BY)
def test_it_is_told_wherever_cpus_are_counted(
    container: Any, sentences: Sentences, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    limited(container, monkeypatch, limit)
    kind = registry.config_class("dcgan")
    config = kind.of({"device": "cpu", "workers": 4, "batch_size": 64, "microbatch_size": 4}, "dcgan")
    problems = requirements.room(config, oversubscribe=False)
    assert [(one.code, one.about) for one in problems] == [("no-room", "workers")]
    told = environment_report.facts()
    assert told["cores"] == 2
    assert told["few_cores"] in environment_report.text_of_environment(told)
    (room,) = [one for one in preflight._machine(None) if one.what == "room"]
    (remark,) = requirements.remarks(config, config)
    for line in (*(one.reason for one in problems), room.message, remark):
        assert told["few_cores"] in line
    sentences([*problems, remark])
    alone = config.model_copy(update={"workers": 1})
    assert "0 of 2 cores" not in str(requirements.hint(alone)), "one stays idle, where two can be used"
    assert "workers=2" in str(requirements.hint(alone))


@pytest.mark.parametrize("limit", LIMITED_BY)
def test_a_search_counts_and_tells_them_too(
    container: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    limited(container, monkeypatch, limit)
    words = ["search", "classifier", "model=mlp_bn", "data=digits", "steps=2", "device=cpu", "--space", "none",
             "learning_rate=0.1,0.2,0.3", "--runs-dir", str(tmp_path / "runs"), "--dry-run", "--json"]  # fmt: skip
    monkeypatch.setattr("cluster.searching.launch_search._expected", lambda *_: (1.0, 2, 2))
    assert command(words) == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert told["concurrent_trials"] == 2
    assert [line for line in told["lines"] if hardware.why_few_cores() in line]
    assert command([*words, "workers=3"]) == 3
    (problem,) = json.loads(capsys.readouterr().out)["errors"]
    assert (problem["code"], problem["about"]) == ("no-room", "workers")
    assert hardware.why_few_cores() in problem["reason"]


def limited(container: Any, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Two CPUs of eight can be used."""
    if limit == "quota":
        container("0::/", ".", "150000")
    else:
        container("0::/", ".", "max")
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5, 6})


@pytest.fixture
def driverless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with the device of a GPU, which torch cannot use."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    monkeypatch.setattr(hardware, "DEVICES", tmp_path / "dev")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "_query", lambda visible: hardware.Gpus(0, UNUSABLE))
    return tmp_path


def resolved(family: str = "dcgan", **words: Any) -> tuple[str, list[str]]:
    """The device that is taken, and what is said of that."""
    config = registry.config_class(family).of(words, family)
    settled = config.model_copy(update=requirements.resolve(config, own_machine=True))
    return settled.device, requirements.no_gpu(config, settled)


def test_auto_takes_what_torch_can_use_and_says_why_not(driverless: Path, sentences: Sentences) -> None:
    device, (remark,) = resolved()
    assert (device, UNUSABLE in remark) == ("cpu", True)
    assert resolved(device="cpu") == ("cpu", [])
    config = registry.config_class("dcgan").of({"device": "cuda"}, "dcgan")
    (problem,) = requirements.room(config, oversubscribe=False)
    assert (problem.code, problem.about) == ("no-room", "device")
    sentences([remark, problem])
    (driverless / "dev" / "nvidia0").unlink()
    assert resolved() == ("cpu", []), "there is nothing to say where there is none"


def test_a_gpu_that_torch_can_use_is_taken(driverless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_query", lambda visible: hardware.Gpus(2, ""))
    assert resolved() == ("cuda", [])
    assert requirements.room(registry.config_class("dcgan").of({"device": "cuda", "workers": 2}, "dcgan"), False) == []


@pytest.mark.parametrize("visible", ["NoDevFiles", "", "-1", "-1,0"])
def test_gpus_that_are_hidden_are_no_gpus(driverless: Path, monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setattr(hardware, "_query", lambda visible: pytest.fail("it is known"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (hardware.gpus(), hardware.why_no_gpu()) == (0, hardware.HIDDEN)


def test_a_dry_run_and_a_check_take_what_the_run_would(driverless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dcgan", "data=digits", "evaluate_every=0", "--data-dir", str(driverless)]
    assert command(["train", *words, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert told["settings"]["device"] == "cpu"
    assert [UNUSABLE in remark for remark in told["warnings"]] == [True]
    assert command(["check", *words, "--runs-dir", str(driverless / "runs")]) == 0
    assert UNUSABLE in capsys.readouterr().out
    assert command(["env", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert (told["gpus"], told["no_gpu"]) == (0, UNUSABLE)


@pytest.mark.slow
def test_torch_itself_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it has no GPU, or may see none; a torch of the user's folder is not asked."""
    (tmp_path / "torch.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hardware._query.cache_clear()
    usable, why = hardware._query("")
    assert usable == 0
    assert why
    assert why != "the test process of torch failed"
