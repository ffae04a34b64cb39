"""The one loop: it trains every family, on one worker or many, in this process, in Ray actors and in searches."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from trainers.engine.config import Config
from trainers.engine.control import Control
from trainers.engine.errors import Stopped
from trainers.engine.family import Data, Family
from trainers.engine.record import Recorder
from trainers.engine.runfolder import RunFolder
from trainers.engine.step import advance
from trainers.engine.trainer import Trainer
from trainers.engine.world import World


def train(
    family: Family, data: Data, config: Config, world: World, folder: RunFolder, control: Control,
    facts: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Train a run to its last step, from its newest checkpoint or its beginning. Returns its result; rank 0's counts.

    `facts` go into each manifest. Raises Stopped after saving when a stop was asked for, TroupeError when the run
    failed; the caller's random state, default dtype and threads are put back, and shared memory is given back.
    """
    with put_back(), contextlib.ExitStack() as held:
        if world.rank == 0:
            held.enter_context(folder.lock(patience=10))
        torch.set_default_dtype(torch.float64 if config.precision == "float64" else torch.float32)
        torch.set_num_threads(config.threads_per_worker)
        trainer = Trainer(family, data, config, world, control)
        held.callback(trainer.close)
        recorder = Recorder(trainer, folder, facts)
        if trainer.exchange.notice and world.rank == 0:
            control.say(trainer.exchange.notice)
        recorder.begin()
        while trainer.step < config.steps and not trainer.reached:
            done = advance(trainer)
            if done:
                recorder.after_step()
            if not done or (trainer.stop_agreed and trainer.step < config.steps and not trainer.reached):
                recorder.save()
                raise Stopped(
                    f"{folder.name}: stopped at step {trainer.step} of {config.steps} and saved; go on with "
                    f"--resume {folder.name}"
                )
        return recorder.finish()


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Restore what a run changes in its process: random state, default dtype, threads."""
    threads, dtype, state = torch.get_num_threads(), torch.get_default_dtype(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        random.setstate(state)
