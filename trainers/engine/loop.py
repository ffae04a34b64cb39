"""The training loop of every family, on one worker or many, in this process, in Ray actors and in searches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from trainers.base.errors import FAILED, NotStarted, Stopped, TroupeError
from trainers.base.problems import Problem
from trainers.contract.family import Data, Family
from trainers.distributed.process_group import World
from trainers.engine import memory
from trainers.engine.control import Control, Interrupted
from trainers.engine.recorder import Recorder
from trainers.engine.step import train_step
from trainers.engine.trainer import Trainer
from trainers.run_folders.mirror import Mirror
from trainers.run_folders.run_folder import RunFolder
from trainers.run_folders.run_locks import Writer
from trainers.runtime import processor
from trainers.settings.config import Config


def train_loop(
    family: Family,
    data: Data,
    config: Config,
    world: World,
    folder: RunFolder,
    control: Control,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Train a run to its last step, from its newest checkpoint or from the start. Returns its result; only rank 0's is
    used.

    `facts` go into each manifest. Raises Stopped after saving if a stop was requested, TroupeError if the run failed;
    shared memory is released. Called within `global_state.with_default_globals`, which restores what a run sets.
    """
    with torch_runtime(config), contextlib.ExitStack() as stack:
        writer = Writer(folder.path, folder.name)
        if world.rank == 0:
            stack.enter_context(writer.holding(patience=10))
        notice = memory.check_memory(family, data, world)
        if notice and world.rank == 0:
            control.notify(notice)
        trainer = Trainer(family, data, config, world, control)
        trainer.name = folder.name
        stack.callback(trainer.close)
        mirror = Mirror(folder.path if world.rank == 0 else None, control.notify, control.heartbeat)
        stack.callback(mirror.end)
        recorder = Recorder(trainer, folder, facts, writer, mirror)
        if trainer.grad_sync.notice and world.rank == 0:
            control.notify(trainer.grad_sync.notice)
        control.restart_clock()  # imports and loading do not count as work: the longest piece sets timeouts
        try:
            recorder.start()
        except Interrupted:
            raise NotStarted from None
        try:
            if train_to_end(trainer, recorder):
                return recorder.finish()
        except Interrupted:
            pass
        recorder.save()
        recorder.flush()
        reason = f"stopped at step {trainer.step} of {config.steps} and saved"
        raise Stopped(Problem("stopped", folder.name, reason, resumes=True, run=folder.name))


def train_to_end(trainer: Trainer, recorder: Recorder) -> bool:
    """Make steps up to the last one (True), or until all workers have agreed on a stop (False).

    Raises Interrupted if a stop interrupted the work that follows a step; it is then pending.
    """

    def ended() -> bool:
        return not trainer.pending and (trainer.step >= trainer.config.steps or trainer.reached)

    while not ended():
        if not trainer.pending and not train_step(trainer):
            return False
        recorder.after_step()
        if trainer.stop_agreed and not ended():
            return False
    return True


@contextlib.contextmanager
def torch_runtime(config: Config) -> Iterator[None]:
    """Set up the process for a run, the same in every worker: default dtype, threads, GPU algorithms. Torch's random
    state is restored here, the rest by `global_state.with_default_globals`."""
    on_gpu = config.device == "cuda"
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []), contextlib.ExitStack() as stack:
        if on_gpu and config.grad_sync == "exact":
            stack.enter_context(reproducible())
        if config.compile:
            stack.enter_context(torch.compiler.set_stance("default"))
        torch.set_default_dtype(torch.float64 if config.precision == "float64" else torch.float32)
        torch.set_num_threads(config.threads_per_worker)
        yield


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Deterministic algorithms on a GPU: the same bits each time.

    Raises TroupeError if an operation has none. The environment is restored here, the rest by
    `global_state.with_default_globals`.
    """
    added = {name: value for name, value in processor.CUBLAS.items() if name not in os.environ}
    try:
        os.environ.update(added)  # read by cuBLAS when it is first used
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False  # the fastest algorithm may differ each time
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        yield
    except RuntimeError as error:
        operation, separator, _ = str(error).partition(" does not have a deterministic implementation")
        if not separator:
            raise
        reason = f"{operation} has no deterministic implementation on a GPU"
        raise TroupeError(
            Problem("exchange-misfit", "grad_sync", reason, "use grad_sync=ddp", "exact"), FAILED
        ) from error
    finally:
        for name in added:
            os.environ.pop(name, None)
