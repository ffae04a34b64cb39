"""The least that trains the same networks for one step with Ray's own TorchTrainer: two workers, its defaults.

python torch_trainer.py FILE: worker 0 writes FILE when the step is done.
"""

import sys
from pathlib import Path

import ray
import ray.train
import ray.train.torch


def train_loop(settings: dict[str, str]) -> None:
    sys.path.insert(0, settings["folder"])
    from torch_alone import networks, one_step

    generator, discriminator = (ray.train.torch.prepare_model(network) for network in networks())
    one_step(generator, discriminator, 32)
    if ray.train.get_context().get_world_rank() == 0:
        Path(settings["file"]).write_text("done\n")
    ray.train.report({"done": 1})


if __name__ == "__main__":
    ray.init()
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"file": str(Path(sys.argv[1]).resolve()), "folder": str(Path(__file__).resolve().parent)},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
    )
    trainer.fit()
