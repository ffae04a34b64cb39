"""What is broken in the processes of a pool before they train: `LocalGroup(..., setup="broken:FUNCTION")`."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from trainers.distributed import shared_memory
from trainers.engine import loop


def small_memory() -> None:
    """Shared memory is the little disk that the test has mounted."""
    shared_memory.SHARED_MEMORY = os.environ["SMALL_MEMORY"]


def no_memory() -> None:
    raise MemoryError


def one_rank() -> None:
    """The second worker moves one parameter a little after its third step."""
    train_step = loop.train_step

    def broken(trainer: Any) -> bool:
        done = train_step(trainer)
        if trainer.step == 3 and dist.get_rank() == 1:
            with torch.no_grad():
                trainer.networks["two"].main[1].weight[0, 0] += 1e-6
        return done

    loop.train_step = broken


def one_optimizer() -> None:
    """The last worker's momentum is another one after the fourth step; its weights are still the same."""
    train_step = loop.train_step

    def broken(trainer: Any) -> bool:
        done = train_step(trainer)
        if trainer.step == 4 and dist.get_rank() == 2:
            state = trainer.optimizers["one"].optimizer.state
            next(iter(state.values()))["momentum_buffer"] *= 1.5
        return done

    loop.train_step = broken


def weights_that_overflow() -> None:
    """Every worker ends up with a weight that is not finite, after a loss that was."""
    train_step = loop.train_step

    def broken(trainer: Any) -> bool:
        done = train_step(trainer)
        if trainer.step == 3:
            with torch.no_grad():
                trainer.networks["two"].main[1].weight[0, 0] = torch.inf
        return done

    loop.train_step = broken
