"""What holds on a GPU. One card is enough: several workers share it and meet over gloo, as NCCL wants a card for each.

pytest tests/gpu        # skipped, with the reason, where there is no GPU
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from commands import DCGAN, Commands

from cluster import train
from cluster.backend.process_pool import LocalGroup
from cluster.inspection.verify import TOLERANCE, compare
from tests.jobs import OWN_FAMILIES, each, last_state, microbatches, plan_of, train_until, trained, variants
from trainers.base.errors import TroupeError
from trainers.distributed.process_group import World, free_port
from trainers.engine.loop import reproducible
from trainers.families import registry
from trainers.runtime.global_state import at_defaults
from trainers.storage.tensors import named_tensors

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
EVERY = each(variants())


@pytest.fixture(scope="module")
def pair() -> Iterator[LocalGroup]:
    """Two processes that share the card."""
    with LocalGroup(2) as group:
        yield group


def run(pool: LocalGroup, folder: Path, family: str, variant: str, workers: int, **changes: Any) -> dict[str, Any]:
    """The state that a tiny run of noise ends with, on the GPU."""
    return trained(pool, plan_for(folder, family, variant, **changes), workers)


def plan_for(folder: Path, family: str, variant: str, **changes: Any) -> Any:
    kind = registry.config_class(family, (OWN_FAMILIES,))
    data = {"data": kind.input_kind.replace("images", "noise")} if "images" in kind.input_kind else {}
    often = {"sample_every": 2, "log_every": 1, "checkpoint_every": 2, "evaluate_every": 2 if kind.metrics else 0}
    return plan_of(family, variant, folder, **{"device": "cuda", **data, **often, **changes})


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[Any]:
    plain = ("step", "position", "phase_counts", "best", "results", "history", "watched")
    assert {key: one[key] for key in plain} == {key: other[key] for key in plain}
    return [difference for difference in compare(one, other) if difference.relative > 0]


@EVERY
def test_two_workers_give_the_bits_of_one(pair: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    alone = run(pair, tmp_path / "one", family, variant, 1)
    together = run(pair, tmp_path / "two", family, variant, min(2, microbatches(family, variant)))
    assert differing(alone, together) == []


@EVERY
def test_ddp_gives_the_exact_run_in_float64(pair: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    exact = run(pair, tmp_path / "one", family, variant, 1, precision="float64")
    workers = min(2, microbatches(family, variant))
    ddp = run(pair, tmp_path / "two", family, variant, workers, precision="float64", grad_sync="ddp")
    worst = compare(exact, ddp)[0]
    assert worst.relative <= TOLERANCE, worst


@EVERY
def test_bfloat16_gives_numbers(pair: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    state = run(pair, tmp_path / "run", family, variant, 1, precision="bfloat16")
    assert all(bool(tensor.isfinite().all()) for _, tensor in named_tensors(state) if tensor.is_floating_point())


@pytest.mark.parametrize(("family", "variant"), [("dcgan", "tiny"), ("wgan_gp", "tiny"), ("words", "tiny")])
def test_a_resume_gives_the_same_bits(pair: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    straight = run(pair, tmp_path / "straight", family, variant, 1)
    plan = plan_for(tmp_path / "parts", family, variant)
    pair.run(train_until, plan, 2, workers=2)
    assert 0 < last_state(plan.folder)["step"] < plan.config().steps
    assert differing(straight, trained(pair, plan, 1)) == []


def test_cuda_follows_the_processor(pair: LocalGroup, tmp_path: Path) -> None:
    """Where nothing random is drawn on the device, float64 gives what the CPU gives."""
    words = {"precision": "float64", "flip": "none", "crop_padding": 0}
    here = run(pair, tmp_path / "cpu", "classifier", "cnn", 1, device="cpu", **words)
    there = run(pair, tmp_path / "cuda", "classifier", "cnn", 1, **words)
    worst = compare({"networks": here["networks"]}, {"networks": there["networks"]})[0]
    assert worst.relative <= 1e-6, worst


def test_ddp_meets_over_nccl(tmp_path: Path) -> None:
    """A group of one rank: wrappers, hooks and all-reduce are NCCL's, and the numbers those of exact."""
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        from cluster.inspection.verify import train_quietly

        states = []
        for group, grad_sync in ((None, "exact"), (dist.group.WORLD, "ddp")):
            plan = plan_for(tmp_path / grad_sync, "dcgan", "tiny", precision="float64", grad_sync=grad_sync)
            train_quietly(World(0, 1, group), plan)
            states.append(last_state(plan.folder))
        worst = compare(*states)[0]
        assert worst.relative <= TOLERANCE, worst
    finally:
        dist.destroy_process_group()


def test_the_process_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    words: dict[str, Any] = {"image_size": 16, "width": 4, "latent_dim": 8, "steps": 2, "evaluate_every": 0}
    train("dcgan", device="cuda", grad_sync="exact", **words)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch._inductor.config.deterministic
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_what_has_no_reproducible_way_is_an_error() -> None:
    """Never other bits in silence."""
    image = torch.rand(1, 1, 8, 8, device="cuda", requires_grad=True)
    told = r"^grad_sync=exact: adaptive_avg_pool2d.*; use grad_sync=ddp$"
    with pytest.raises(TroupeError, match=told), at_defaults(), reproducible():
        torch.nn.functional.adaptive_avg_pool2d(image, (3, 3)).sum().backward()


def test_the_command_from_the_first_step_to_the_verdict(troupe: Commands) -> None:
    """`auto` takes the GPU; the run can be looked at, goes on, and goes on elsewhere."""
    words = [word for word in DCGAN if word != "evaluate_every=0"]
    troupe.train(*words, "steps=20", "features=pixels", "--name", "run")
    settings = json.loads((troupe.path("run") / "settings.json").read_text())["settings"]
    assert (settings["device"], settings["grad_sync"]) == ("cuda", "ddp")
    verdict = json.loads((troupe.path("run") / "verdict.json").read_text())
    assert math.isfinite(verdict["final"]["numbers"]["frechet_distance"]["generated"])
    for verb in (("sample", "run"), ("evaluate", "run"), ("export", "run")):
        done = troupe.run(*verb)
        assert done.code == 0, done
    troupe.train("--resume", "run", "steps=30")
    troupe.train("--resume", "run", "steps=40", "device=cpu", "grad_sync=exact", "--allow-changes")
    assert last_state(troupe.path("run"))["step"] == 40


def test_verify_of_a_gpu(troupe: Commands) -> None:
    done = troupe.run("verify", "dcgan", "device=cuda", "workers=2", seconds=200)
    assert done.code == 0, done


def test_more_workers_than_cards_is_told(troupe: Commands) -> None:
    cards = torch.cuda.device_count()
    done = troupe.run("train", *DCGAN, "steps=2", "device=cuda", f"workers={cards + 1}")
    assert done.code == 3
    assert len(done.mistakes) == 1
    assert "each needs a GPU" in done.mistakes[0]
