"""What holds for every family, built in or not, without its asking."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.environment import environment
from cluster.local import LocalGroup
from cluster.verify import TOLERANCE, compare
from tests.jobs import OWN_FAMILIES, last_state, microbatches, plan_of, train_until, trained, variants
from trainers import registry
from trainers.engine import checkpoint
from trainers.engine.tensors import named_tensors

EVERY = pytest.mark.parametrize(("family", "variant"), variants())
GOLDEN = Path(__file__).parent.parent / "golden"


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[Any]:
    """Tensors whose bits differ; the plain values must be equal."""
    assert {key: one[key] for key in ("step", "position", "phase_counts", "best")} == {
        key: other[key] for key in ("step", "position", "phase_counts", "best")
    }
    return [difference for difference in compare(one, other) if difference.relative > 0]


@EVERY
def test_any_number_of_workers_gives_the_same_bits(pool: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    alone = trained(pool, plan_of(family, variant, tmp_path / "1"), 1)
    grids = sorted((tmp_path / "1" / "grids").iterdir())
    for workers in range(2, min(4, microbatches(family, variant)) + 1):
        together = trained(pool, plan_of(family, variant, tmp_path / str(workers)), workers)
        assert differences(alone, together) == []
        for grid in grids:
            assert (tmp_path / str(workers) / "grids" / grid.name).read_bytes() == grid.read_bytes()


@EVERY
def test_an_evaluation_is_the_same_on_any_number_of_workers(
    pool: LocalGroup, tmp_path: Path, family: str, variant: str
) -> None:
    if not registry.config_class(family, (OWN_FAMILIES,)).metrics:
        pytest.skip("evaluates nothing")
    alone = trained(pool, plan_of(family, variant, tmp_path / "1", steps=1, evaluate_every=1), 1)
    together = trained(pool, plan_of(family, variant, tmp_path / "3", steps=1, evaluate_every=1), 3)
    assert together["results"] == alone["results"] != {}
    assert together["best"] == alone["best"] != {}


@EVERY
def test_bfloat16_gives_the_same_bits_too(pool: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    alone = trained(pool, plan_of(family, variant, tmp_path / "1", precision="bfloat16", steps=2), 1)
    together = trained(pool, plan_of(family, variant, tmp_path / "3", precision="bfloat16", steps=2), 3)
    assert differences(alone, together) == []


@EVERY
def test_ddp_gives_the_same_run_in_float64(pool: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    words = {"exchange": "ddp", "precision": "float64"}
    alone = trained(pool, plan_of(family, variant, tmp_path / "1", **words), 1)
    for workers in (2, 3):
        together = trained(pool, plan_of(family, variant, tmp_path / str(workers), **words), workers)
        worst = compare(alone, together)[0]
        assert worst.relative <= TOLERANCE, worst


@EVERY
def test_both_exchanges_compute_the_same_in_float64(
    pool: LocalGroup, tmp_path: Path, family: str, variant: str
) -> None:
    exact = trained(pool, plan_of(family, variant, tmp_path / "exact", precision="float64"), 2)
    ddp = trained(pool, plan_of(family, variant, tmp_path / "ddp", precision="float64", exchange="ddp"), 2)
    worst = compare(exact, ddp)[0]
    assert worst.relative <= TOLERANCE, worst


@EVERY
@pytest.mark.parametrize("exchange", ["exact", "ddp"])
def test_a_resume_on_another_number_of_workers_gives_the_same_bits(
    pool: LocalGroup, tmp_path: Path, family: str, variant: str, exchange: str
) -> None:
    straight = trained(pool, plan_of(family, variant, tmp_path / "straight", exchange=exchange), 2)
    plan = plan_of(family, variant, tmp_path / "parts", exchange=exchange)
    other = (3, 1) if exchange == "exact" else (2, 2)
    pool.run(train_until, plan, 0, workers=2)
    pool.run(train_until, plan, 2, workers=other[0])
    assert 0 < last_state(plan.folder)["step"] < plan.config().steps
    parts = trained(pool, plan, other[1])
    assert differences(straight, parts) == []


@EVERY
def test_grids_and_evaluation_move_nothing(pool: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    rare = trained(pool, plan_of(family, variant, tmp_path / "rare", evaluate_every=0, sample_every=1000), 2)
    words = {"sample_every": 1, "log_every": 1, "checkpoint_every": 1}
    if registry.config_class(family, (OWN_FAMILIES,)).metrics:
        words["evaluate_every"] = 1
    often = trained(pool, plan_of(family, variant, tmp_path / "often", **words), 2)
    rare |= {key: often[key] for key in ("best", "history")}
    assert differences(rare, often) == []


@EVERY
def test_the_seed_changes_the_run(pool: LocalGroup, tmp_path: Path, family: str, variant: str) -> None:
    one = trained(pool, plan_of(family, variant, tmp_path / "0", steps=1), 1)
    other = trained(pool, plan_of(family, variant, tmp_path / "1", steps=1, seed=1), 1)
    assert compare(one, other)[0].relative > 0


@EVERY
def test_checkpoints_hold_only_tensors_and_plain_values(
    pool: LocalGroup, tmp_path: Path, family: str, variant: str
) -> None:
    trained(pool, plan_of(family, variant, tmp_path / "run", steps=1), 1)
    state = last_state(tmp_path / "run")  # loads with weights_only
    assert all(isinstance(tensor, torch.Tensor) for _, tensor in named_tensors(state))
    for path in checkpoint.all_in(tmp_path / "run" / "checkpoints"):
        assert str(tmp_path) not in (path / "manifest.json").read_text()


@EVERY
def test_losses_are_those_stored(
    pool: LocalGroup, tmp_path: Path, family: str, variant: str, request: pytest.FixtureRequest
) -> None:
    losses = losses_of(pool, tmp_path / "run", family, variant)
    stored = GOLDEN / f"{family}-{variant}.json"
    if request.config.getoption("--write-golden"):
        stored.parent.mkdir(exist_ok=True)
        stored.write_text(json.dumps(losses, indent=1) + "\n")
    assert_stored(losses, family, variant)


@pytest.fixture(scope="module")
def older_processor() -> Iterator[LocalGroup]:
    """A process that computes as on a processor without any of the newer instructions, as far as libraries let it."""
    older = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
    with environment(older), LocalGroup(1) as group:
        yield group


@pytest.mark.slow
@EVERY
def test_losses_are_those_stored_on_other_processors_too(
    older_processor: LocalGroup, tmp_path: Path, family: str, variant: str
) -> None:
    assert older_processor.run(cpu_capability) == ["DEFAULT"]
    assert_stored(losses_of(older_processor, tmp_path / "run", family, variant), family, variant)


def cpu_capability(world: Any) -> str:
    return torch.backends.cpu.get_cpu_capability()


def losses_of(pool: LocalGroup, folder: Path, family: str, variant: str) -> list[dict[str, float]]:
    """The losses of each step in float64; of images of noise, since where pixels are equal a last bit may decide."""
    kind = registry.config_class(family, (OWN_FAMILIES,))
    words = {"data": "noise"} if kind.learns_from == "images" else {}
    trained(pool, plan_of(family, variant, folder, precision="float64", log_every=1, **words), 1)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [{key: value for key, value in row.items() if key.endswith("_loss")} for row in rows]
    return [row for row in losses if row]


def assert_stored(losses: list[dict[str, float]], family: str, variant: str) -> None:
    golden = json.loads((GOLDEN / f"{family}-{variant}.json").read_text())
    assert len(golden) == len(losses) > 0
    for known, found in zip(golden, losses, strict=True):
        assert known.keys() == found.keys()
        for name in known:
            assert math.isclose(known[name], found[name], rel_tol=1e-9, abs_tol=1e-9), name
