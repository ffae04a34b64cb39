"""What holds for every family, built in or not, without its asking."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from cluster.backend import process_pool
from cluster.backend.process_pool import LocalGroup
from cluster.host.environment import environment
from cluster.inspection.verify import TOLERANCE, compare
from tests.jobs import (
    OWN_FAMILIES,
    each,
    last_state,
    microbatches,
    plan_of,
    train_on_clocks,
    train_until,
    trained,
    variants,
)
from trainers.engine import memory
from trainers.families import registry
from trainers.run import open_for
from trainers.storage import checkpoint
from trainers.storage.tensors import named_tensors

FEW = [  # together they have all that a family can: classes, several phases, batch norm, text and carried
    ("dcgan", "conditional"), ("wgan_gp", "tiny"), ("classifier", "resnet20"), ("words", "tiny"), ("painted", "tiny"),
    ("dream", "tiny"), ("judged", "tiny"), ("everything", "uneven"),  # state, own optimizers, closures, a judge
]  # fmt: skip
FIRST = list({family: (family, variant) for family, variant in reversed(variants())}.values())  # one of each family
EVERY, COVERING = each(variants()), each(FEW)
EVERY_AND_FEW_FAST, EVERY_AND_FIRST_FAST = each(variants(), FEW), each(variants(), FIRST)
GOLDEN = Path(__file__).parent.parent / "golden"


class Runs:
    """Runs of tiny variants, each trained once and compared with many; of images of noise, which open at once."""

    def __init__(self, pool: LocalGroup, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.states: dict[Any, dict[str, Any]] = {}

    def words(self, family: str, **changes: Any) -> dict[str, Any]:
        """Everything that can move something, often; and what a test changes."""
        kind = registry.config_class(family, (OWN_FAMILIES,))
        data = {"data": kind.input_kind.replace("images", "noise")} if "images" in kind.input_kind else {}
        often = {"sample_every": 2, "log_every": 1, "checkpoint_every": 2, "evaluate_every": 2 if kind.metrics else 0}
        return {**data, **often, **changes}

    def path(self, family: str, variant: str, workers: int, **changes: Any) -> Path:
        named = "-".join([family, variant, str(workers), *(f"{key}={value}" for key, value in changes.items())])
        return self.folder / named

    def state(self, family: str, variant: str, workers: int, **changes: Any) -> dict[str, Any]:
        """What such a run ends with."""
        path = self.path(family, variant, workers, **changes)
        if path not in self.states:
            plan = plan_of(family, variant, path, **self.words(family, **changes))
            self.states[path] = trained(self.pool, plan, workers)
        return self.states[path]


@pytest.fixture(scope="module")
def runs(pool: LocalGroup, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(pool, tmp_path_factory.mktemp("runs"))


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[Any]:
    """Tensors whose bits differ; the plain values must be equal, those of evaluations too."""
    plain = ("step", "position", "phase_counts", "best", "results", "history", "watched")
    assert {key: one[key] for key in plain} == {key: other[key] for key in plain}
    return [difference for difference in compare(one, other) if difference.relative > 0]


@EVERY_AND_FEW_FAST
def test_three_workers_that_save_by_the_clock_of_rank_0_give_the_bits_of_one(
    runs: Runs, tmp_path: Path, family: str, variant: str
) -> None:
    """The other workers' clocks stand still: they save because they are told. Evaluations and grids are the same."""
    alone, path = runs.state(family, variant, 1), runs.path(family, variant, 1)
    plan = plan_of(family, variant, tmp_path / "run", **runs.words(family, checkpoint_every="1s", keep_checkpoints=100))
    runs.pool.run(train_on_clocks, plan, workers=min(3, microbatches(family, variant)))
    assert differences(alone, last_state(plan.folder)) == []
    saved = [checkpoint.position_of(one.name)[0] for one in checkpoint.all_in(plan.folder / "checkpoints")]
    assert saved == list(range(plan.config().steps + 1))
    if registry.config_class(family, (OWN_FAMILIES,)).metrics:
        assert alone["results"] != {}
        assert alone["best"] != {}
    for grid in sorted((path / "grids").iterdir()):
        assert (plan.folder / "grids" / grid.name).read_bytes() == grid.read_bytes()


@pytest.mark.slow
@EVERY
def test_four_workers_stopped_and_gone_on_with_by_two_give_the_bits_of_one(
    runs: Runs, tmp_path: Path, family: str, variant: str
) -> None:
    plan, most = plan_of(family, variant, tmp_path / "parts", **runs.words(family)), microbatches(family, variant)
    runs.pool.run(train_until, plan, 2, workers=min(4, most))
    assert 0 < last_state(plan.folder)["step"] < plan.config().steps
    assert differences(runs.state(family, variant, 1), trained(runs.pool, plan, min(2, most))) == []


@pytest.mark.slow
@COVERING
def test_bfloat16_gives_the_same_bits_too(runs: Runs, family: str, variant: str) -> None:
    alone, together = (runs.state(family, variant, count, precision="bfloat16", steps=2) for count in (1, 3))
    assert differences(alone, together) == []


@pytest.mark.slow
@EVERY
def test_ddp_on_two_workers_gives_the_exact_run_in_float64(runs: Runs, family: str, variant: str) -> None:
    exact = runs.state(family, variant, 1, precision="float64")
    together = runs.state(family, variant, 2, precision="float64", grad_sync="ddp")
    worst = compare(exact, together)[0]
    assert worst.relative <= TOLERANCE, worst


@pytest.mark.slow
@COVERING
def test_ddp_on_three_workers_gives_the_exact_run_too_and_on_two_it_goes_on_to_the_same_bits(
    runs: Runs, tmp_path: Path, family: str, variant: str
) -> None:
    words = {"precision": "float64", "grad_sync": "ddp"}
    worst = compare(runs.state(family, variant, 1, precision="float64"), runs.state(family, variant, 3, **words))[0]
    assert worst.relative <= TOLERANCE, worst
    plan = plan_of(family, variant, tmp_path / "parts", **runs.words(family, **words))
    runs.pool.run(train_until, plan, 2, workers=2)
    assert 0 < last_state(plan.folder)["step"] < plan.config().steps
    assert differences(runs.state(family, variant, 2, **words), trained(runs.pool, plan, 2)) == []


@pytest.mark.slow
@COVERING
def test_grids_and_evaluation_move_nothing(runs: Runs, family: str, variant: str) -> None:
    often = runs.state(family, variant, 1)
    rare = runs.state(family, variant, 1, evaluate_every=0, sample_every=1000, checkpoint_every=1000)
    rare = {**rare, **{key: often[key] for key in ("best", "history", "results", "kept", "watched")}}
    assert differences(often, rare) == []


@pytest.mark.slow
@COVERING
def test_the_seed_changes_the_run(runs: Runs, family: str, variant: str) -> None:
    one, other = (runs.state(family, variant, 1, **words) for words in ({}, {"seed": 1}))
    parts = ("networks", "carried")
    assert compare({part: one[part] for part in parts}, {part: other[part] for part in parts})[0].relative > 0


@EVERY_AND_FEW_FAST
def test_checkpoints_hold_only_tensors_and_plain_values(runs: Runs, family: str, variant: str) -> None:
    runs.state(family, variant, 1)
    folder = runs.path(family, variant, 1)
    state = last_state(folder)  # loads with weights_only
    assert all(isinstance(tensor, torch.Tensor) for _, tensor in named_tensors(state))
    for path in checkpoint.all_in(folder / "checkpoints"):
        assert str(folder) not in (path / "manifest.json").read_text()


@EVERY_AND_FEW_FAST
def test_the_memory_that_is_told_is_the_memory_of_the_run(
    runs: Runs, tmp_path: Path, family: str, variant: str
) -> None:
    """To the byte for weights; optimizers keep a few numbers more, as how many steps they made."""
    plan = plan_of(family, variant, tmp_path, **runs.words(family))
    facts = open_for(plan.config(), plan.data_dir, plan.families).facts
    need = memory.estimate_memory(registry.family_class(family, plan.families)(plan.config().finalize(facts), facts))
    state = runs.state(family, variant, 1)
    assert need is not None
    assert need.weights == sum(tensor.numel() * 4 for _, tensor in named_tensors(state["networks"]))
    assert need.averages == sum(tensor.numel() * 4 for _, tensor in named_tensors(state["ema"]))
    kept = sum(tensor.numel() * 4 for _, tensor in named_tensors(state["optimizers"]))
    tensors = len(list(named_tensors(state["optimizers"])))
    assert need.optimizers <= kept
    if all(hasattr(torch.optim, one["kind"]) and one["kind"] != "LBFGS" for one in state["optimizers"].values()):
        assert kept <= need.optimizers + 4 * tensors


@EVERY_AND_FIRST_FAST
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
    with environment(older), mock.patch.object(process_pool, "METHOD", "spawn"), LocalGroup(1) as group:
        yield group


@pytest.mark.long
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
    words = {"data": kind.input_kind.replace("images", "noise")} if "images" in kind.input_kind else {}
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
