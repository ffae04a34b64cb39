"""Critic steps of WGAN, without norms in the critic: real and fake go together there."""

from workload import first_phase as OF_OURS

from plain._critic import PICTURE_SIZE
from plain._critic import SETTINGS as COMMON
from plain._critic import clipped as steps

SETTINGS = {**COMMON, "critic_norm": False}
FASTER = {"float32": 1.15, "bfloat16": 1.8}  # what is asked of ours, in times

__all__ = ["FASTER", "OF_OURS", "PICTURE_SIZE", "SETTINGS", "steps"]
