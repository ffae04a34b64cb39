"""The other side of benchmarks/elastic.py: TorchTrainer on a cluster at an address, with one or two workers.

Rank 0 writes `WORKERS STEP` to `steps` in the working folder after each step, and saves every 10.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import ray
import torch
from ray import train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def networks() -> torch.nn.Module:
    layers = [torch.nn.Conv2d(1, 4, 4, 2, 1), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(4, 8, 4, 2, 1),
              torch.nn.LeakyReLU(0.2), torch.nn.Flatten(), torch.nn.Linear(8 * 16, 1)]  # fmt: skip
    return torch.nn.Sequential(*layers)


def loop(words: dict[str, str]) -> None:
    network, context, step = networks(), train.get_context(), 0
    if (saved := train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            told = torch.load(Path(folder) / "state.pt")
        network.load_state_dict(told["model"])
        step = told["step"]
    model = train.torch.prepare_model(network)
    optimizer = torch.optim.Adam(model.parameters(), 2e-4)
    while step < 100_000:
        optimizer.zero_grad()
        model(torch.randn(8 // context.get_world_size(), 1, 16, 16)).mean().backward()
        optimizer.step()
        step += 1
        if context.get_world_rank() == 0:
            with open(words["steps"], "a") as file:
                file.write(f"{context.get_world_size()} {step}\n")
        if step % 10 == 0:
            with tempfile.TemporaryDirectory() as folder:
                if context.get_world_rank() == 0:
                    torch.save({"model": network.state_dict(), "step": step}, Path(folder) / "state.pt")
                    train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))
                else:
                    train.report({"step": step})


if __name__ == "__main__":
    ray.init(address=sys.argv[1])
    TorchTrainer(
        loop,
        train_loop_config={"steps": os.path.abspath("steps")},
        scaling_config=ScalingConfig(num_workers=(1, 2), elastic_resize_monitor_interval_s=2),
        run_config=RunConfig(
            name="run", storage_path=os.path.abspath("storage"), failure_config=FailureConfig(max_failures=10),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()  # fmt: skip
