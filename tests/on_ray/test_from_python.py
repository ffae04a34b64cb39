"""`from cluster import train`: the same run, in a process that is left as it was."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from clusters import Cluster
from commands import FRAGILE, Commands, assert_same_run, metrics
from sentences import Sentences
from tiers import long

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SCRIPT = """
import json, os, random, signal, sys, threading, time

import numpy
import ray
import torch

import cluster
from cluster import train
from trainers.base.errors import TroupeError


LIBRARIES = ("TORCHINDUCTOR_CACHE_DIR", "CRC32C_SW_MODE")  # set on import


def mine(number, frame):
    pass


def surroundings():
    return {
        "interrupt": signal.getsignal(signal.SIGINT) is mine, "terminate": signal.getsignal(signal.SIGTERM) is mine,
        "threads": torch.get_num_threads(), "dtype": str(torch.get_default_dtype()),
        "torch": torch.get_rng_state().tolist(), "random": str(random.getstate()),
        "numpy": str(numpy.random.get_state()), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": {key: value for key, value in os.environ.items() if key not in LIBRARIES},
        "folder": os.getcwd(), "stdout": sys.stdout is sys.__stdout__, "ray": ray.is_initialized(),
        "process": os.getpid(),
    }


signal.signal(signal.SIGINT, mine)
signal.signal(signal.SIGTERM, mine)
torch.set_num_threads(2)
torch.set_default_dtype(torch.float64)
torch.manual_seed(7); random.seed(7); numpy.random.seed(7)
settings = dict(image_size=8, batch_size=8, microbatch_size=2, log_every=1, families=[sys.argv[1]])
changed, seconds, told, rows = {}, {}, {}, {}


def carry_out(called, **words):
    before, began = surroundings(), time.monotonic()
    reported = rows[called] = []
    try:
        told[called] = train("fragile", report=lambda step, row: reported.append([step, row["first_loss"]]), **words,
                             **settings)
    except TroupeError as error:
        told[called] = {"code": error.code, "mistakes": error.mistakes}
    seconds[called], after = time.monotonic() - began, surroundings()
    changed[called] = [key for key in before if before[key] != after[key]]


carry_out("one", name="one", steps=40)
carry_out("two", name="two", steps=40, pause=0.01, workers=2)
carry_out("failed", name="failed", steps=6, nan_at=3)
carry_out("wrong", batch_sice=4, steps=-1)
carry_out("in use", name="one")
ray.init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
signal.signal(signal.SIGTERM, mine)  # Ray has taken it
carry_out("no room", name="wide", steps=2, workers=3, oversubscribe=True)
carry_out("with room", name="narrow", steps=2, workers=2)
carry_out("failed on Ray", name="failed-on-ray", steps=6, raise_at=3, workers=2)
ray.shutdown()
print(json.dumps({"told": told, "changed": changed, "seconds": seconds, "rows": rows}))
"""


@pytest.fixture(scope="module")
def answer(shared: Commands, cluster: Cluster) -> dict[str, Any]:
    """What a process has to tell that trains several times: alone, on a Ray of our own, and on one that it joined."""
    (shared.folder / "script.py").write_text(SCRIPT)
    done = shared.call(
        sys.executable, "script.py", str(FRAGILE), cluster.address, environment=cluster.environment
    ).wait(240)  # fmt: skip
    assert done.code == 0, done
    assert done.err == ""
    (line,) = done.out.splitlines()  # nothing else is printed where no progress was asked for
    return json.loads(line)  # type: ignore[no-any-return]


def test_train_from_python_returns_results_raises_mistakes_and_puts_everything_back(
    shared: Commands, answer: dict[str, Any]
) -> None:
    told = answer["told"]
    assert answer["changed"] == {name: [] for name in told}
    for name in ("one", "two"):
        assert told[name]["steps"] == 40
        assert told[name]["checkpoint"] == f"runs/{name}/checkpoints/step_00000040"
    assert told["one"]["metrics"] == told["two"]["metrics"] != {}
    assert_same_run(shared.path("two"), shared.path("one"))
    assert told["failed"]["code"] == 1
    assert told["failed"]["mistakes"][0].startswith("step 3: the loss of phase second is not finite")
    assert told["failed on Ray"]["code"] == 1
    (line,) = told["failed on Ray"]["mistakes"]
    assert line.startswith("worker 0: ")
    assert "/fragile/training.py:50: ValueError: made up: micro-batch 1 of step 3" in line
    assert told["wrong"]["code"] == 2
    assert [mistake.split(":")[0] for mistake in told["wrong"]["mistakes"]] == ["batch_sice", "steps=-1"]
    assert told["in use"]["code"] == 4


def test_where_the_callers_ray_has_no_room_it_is_told_at_once(shared: Commands, answer: dict[str, Any]) -> None:
    """And where it has, it is used, and left as it was."""
    told = answer["told"]
    assert told["no room"] == {"code": 3, "mistakes": ["workers=3: needs 3 CPUs, the Ray of this process has 2"]}
    assert answer["seconds"]["no room"] < 30
    assert not shared.path("wide").exists()
    assert told["with room"]["steps"] == 2


def test_every_row_is_reported_once_and_in_order(shared: Commands, answer: dict[str, Any]) -> None:
    """From this process, and from an actor that ends while its last rows are still to be handed over."""
    rows = answer["rows"]
    assert rows["one"] == rows["two"] == [[row["step"], row["first_loss"]] for row in metrics(shared.path("two"))]
    assert [step for step, _ in rows["two"]] == list(range(1, 41))


FORKS = """
import os
from cluster import TroupeError, train
words = dict(data="digits", image_size=16, width=4, latent_dim=8, batch_size=8, microbatch_size=2, evaluate_every=0,
             steps=1, workers=2)
train("dcgan", name="parent", **words)
child = os.fork()
if child == 0:
    try:
        train("dcgan", name="child", **words)
    except TroupeError as error:
        print(*((one.code, one.about) for one in error.problems), error.code, error, sep="\\n", flush=True)
    train("dcgan", name="alone", **{**words, "workers": 1})
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


OURS = 'train("dcgan", name="parent", **words)'
THEIRS = "import ray; ray.init(num_cpus=2, include_dashboard=False, logging_level=50); ray.shutdown()"
OWN = f"""
import os, ray
if os.fork() == 0:  # then the process has its own
    {THEIRS}
    from cluster import train
    train("dcgan", data="digits", image_size=16, width=4, latent_dim=8, batch_size=8, microbatch_size=2,
          evaluate_every=0, steps=1, workers=2, name="mine")
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("used", [OURS, THEIRS], ids=["a run", "a program"])
def test_a_process_that_inherited_a_ray_is_refused(troupe: Commands, sentences: Sentences, used: str) -> None:
    done = troupe.call(sys.executable, "-c", FORKS.replace(OURS, used)).wait(120)
    assert done.code == 0, done
    problem, code, sentence = done.out.splitlines()
    assert (problem, code) == ("('ray-inherited', 'workers')", "3")
    sentences([sentence])
    assert not troupe.path("child").exists()
    assert troupe.path("alone").exists()


@pytest.mark.parametrize("code", [OWN, *long(OWN.replace("os.fork() == 0", "True").replace("os._exit(0)", "exit()"))])
def test_a_process_that_has_used_a_ray_of_its_own_is_not(troupe: Commands, code: str) -> None:
    done = troupe.call(sys.executable, "-c", code).wait(120)
    assert done.code == 0, done
    assert metrics(troupe.path("mine"))
