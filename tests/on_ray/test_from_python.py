"""`from cluster import train`: the same run, in a process that is left as it was."""

from __future__ import annotations

import json
import sys

import pytest
from commands import FRAGILE, Commands, assert_same_run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]

SCRIPT = """
import json, os, random, signal, sys, threading

import numpy
import torch

import cluster
from cluster import train
from trainers.engine.errors import TroupeError


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
        "folder": os.getcwd(), "stdout": sys.stdout is sys.__stdout__,
        "process": os.getpid(),
    }


signal.signal(signal.SIGINT, mine)
signal.signal(signal.SIGTERM, mine)
torch.set_num_threads(2)
torch.set_default_dtype(torch.float64)
torch.manual_seed(7); random.seed(7); numpy.random.seed(7)
settings = dict(image_size=8, batch_size=8, microbatch_size=2, log_every=1, families=[sys.argv[1]])
changed, told = {}, {}
for name, words in {
    "one": {"family": "fragile", "name": "one", "steps": 6},
    "two": {"family": "fragile", "name": "two", "steps": 6, "workers": 2},
    "failed": {"family": "fragile", "name": "failed", "steps": 6, "nan_at": 3},
    "failed on Ray": {"family": "fragile", "name": "failed-on-ray", "steps": 6, "raise_at": 3, "workers": 2},
    "wrong": {"family": "fragile", "batch_sice": 4, "steps": -1},
    "in use": {"family": "fragile", "name": "one"},
}.items():
    before = surroundings()
    try:
        told[name] = train(**words, **settings)
    except TroupeError as error:
        told[name] = {"code": error.code, "mistakes": error.mistakes}
    after = surroundings()
    changed[name] = [key for key in before if before[key] != after[key]]
print(json.dumps({"told": told, "changed": changed, "threads": [t.name for t in threading.enumerate()]}))
"""


def test_train_from_python_returns_results_raises_mistakes_and_puts_everything_back(troupe: Commands) -> None:
    (troupe.folder / "script.py").write_text(SCRIPT)
    done = troupe.call(sys.executable, "script.py", str(FRAGILE)).wait(110)
    assert done.code == 0, done
    assert done.err == ""
    (line,) = done.out.splitlines()  # nothing else is printed where no progress was asked for
    answer = json.loads(line)
    told = answer["told"]
    assert answer["changed"] == {name: [] for name in told}
    for name in ("one", "two"):
        assert told[name]["steps"] == 6
        assert told[name]["checkpoint"] == f"runs/{name}/checkpoints/step_00000006"
    assert told["one"]["metrics"] == told["two"]["metrics"] != {}
    assert_same_run(troupe.path("two"), troupe.path("one"))
    assert told["failed"]["code"] == 1
    assert told["failed"]["mistakes"][0].startswith("step 3: the loss of phase second is not finite")
    assert told["failed on Ray"]["code"] == 1
    (line,) = told["failed on Ray"]["mistakes"]
    assert line.startswith("worker 0: ")
    assert "/fragile/training.py:50: ValueError: made up: micro-batch 1 of step 3" in line
    assert told["wrong"]["code"] == 2
    assert [mistake.split(":")[0] for mistake in told["wrong"]["mistakes"]] == ["batch_sice", "steps=-1"]
    assert told["in use"]["code"] == 4


CALLERS_RAY = """
import json, sys, time

import ray

from cluster import train
from trainers.engine.errors import TroupeError

settings = dict(image_size=8, batch_size=8, microbatch_size=2, steps=2, workers=2, families=[sys.argv[1]])
told = []
for cpus in (1, 2):
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    began = time.monotonic()
    try:
        told.append(train("fragile", name=f"on-{cpus}", **settings)["steps"])
    except TroupeError as error:
        told.append([error.code, error.mistakes, time.monotonic() - began])
    assert ray.is_initialized()
    ray.shutdown()
print(json.dumps(told))
"""


def test_where_the_callers_ray_has_no_room_it_is_told_at_once(troupe: Commands) -> None:
    (troupe.folder / "script.py").write_text(CALLERS_RAY)
    done = troupe.call(sys.executable, "script.py", str(FRAGILE)).wait(110)
    assert done.code == 0, done
    (code, mistakes, seconds), steps = json.loads(done.out.splitlines()[-1])
    assert (code, mistakes) == (3, ["workers=2: needs 2 CPUs, the Ray of this process has 1"])
    assert seconds < 30
    assert not troupe.path("on-1").exists()
    assert steps == 2


REPORTS = """
import json, sys

from cluster import train

told = {}
for workers in (1, 2):
    rows = []
    result = train("fragile", name=f"with-{workers}", workers=workers, image_size=8, batch_size=8, microbatch_size=2,
                   steps=40, log_every=1, pause=0.01, families=[sys.argv[1]],
                   report=lambda step, row: rows.append([step, row["first_loss"]]))
    told[workers] = rows
print(json.dumps(told))
"""


def test_every_row_is_reported_once_and_in_order(troupe: Commands) -> None:
    """From this process, and from an actor that ends while its last rows are still to be handed over."""
    (troupe.folder / "script.py").write_text(REPORTS)
    done = troupe.call(sys.executable, "script.py", str(FRAGILE)).wait(110)
    assert done.code == 0, done
    told = json.loads(done.out.splitlines()[-1])
    written = [json.loads(line) for line in (troupe.path("with-2") / "metrics.jsonl").read_text().splitlines()]
    assert told["1"] == told["2"] == [[row["step"], row["first_loss"]] for row in written]
    assert [step for step, _ in told["2"]] == list(range(1, 41))
