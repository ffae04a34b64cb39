"""CPU time of our own code in a step, as a part of a whole step of DCGAN.

Our own code is all of `train_step()` with a made-up family in DCGAN's two phases, whose two networks have one
parameter each: what is left is the loop, the data path (the same pictures), the reduction, noise, metrics and the
optimizers' calls. It is an upper bound: torch's own cost of two tiny graphs and optimizer steps counts as ours. A
second row gives each of the two networks DCGAN's batch norm layers too, on 2x1 numbers, since running averages are
ours as well. Each side runs in a process of its own, in the environment of workers, one micro-batch in a step.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from typing import Any

import common

CASES: dict[str, dict[str, Any]] = {
    "64 px, batch 64": {"image_size": 64, "batch_size": 64, "microbatch_size": 64},
    "16 px, batch 16, width 16": {"image_size": 16, "batch_size": 16, "microbatch_size": 16, "width": 16},
}
AT_MOST = {"64 px, batch 64": 0.02, "16 px, batch 16, width 16": 0.10}
STEPS = {"one parameter": 300, "with batch norm": 300, "DCGAN": 12}
SMALL_STEPS = {"one parameter": 500, "with batch norm": 500, "DCGAN": 150}


def side(case: str, what: str, steps: int) -> list[float]:
    """CPU seconds of each step."""
    import torch
    import workload
    from torch import nn

    from trainers.contract.family import Loss, MicroBatch, Networks
    from trainers.families.dcgan.training import DCGAN

    class Small(nn.Module):
        """One parameter, and batch norm layers of these widths."""

        def __init__(self, widths: list[int]) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.norms = nn.ModuleList(nn.BatchNorm1d(width, affine=False) for width in widths)
            self.inputs = [torch.randn(2, width) for width in widths]

        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            for norm, fixed in zip(self.norms, self.inputs, strict=True):
                norm(fixed)
            return numbers * self.weight

    class Nothing(DCGAN):
        """DCGAN's phases, optimizers and settings, with next to nothing in them."""

        def networks(self) -> dict[str, nn.Module]:
            def widths(network: nn.Module) -> list[int]:
                layers = (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
                return [layer.num_features for layer in layers] if what == "with batch norm" else []

            return {name: Small(widths(network)) for name, network in super().networks().items()}

        def discriminate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
            fakes = networks["generator"](microbatch.randn(microbatch.size, self.config.latent_dim, 1, 1)[0, 0, 0])
            microbatch.intermediates["fakes"] = fakes
            real = networks["discriminator"](microbatch["images"][0, 0, 0, :1].to(microbatch.dtype))
            fake = networks["discriminator"](fakes.detach())
            loss = fake.mean() - real.mean()
            return Loss(loss, {"real_score": real.mean(), "fake_score": fake.mean()})

        def generate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
            return Loss(-networks["discriminator"](microbatch.intermediates["fakes"]).mean())

    config = workload.config_of("dcgan", **CASES[case])
    data = workload.generated(CASES[case]["image_size"])
    if what == "DCGAN":
        trainer = workload.trainer_of("dcgan", config, data)
    else:
        trainer = workload.trainer_for(Nothing(config, data.facts), config, data)
    return workload.seconds_of_steps(
        partial(workload.train_step, trainer), max(2, steps // 10), steps, time.process_time
    )


def main() -> None:
    options = common.parser(__doc__, rounds=5)
    given = options.parse_args()
    rows, bounds, raw = [], [], {}
    for case, limit in AT_MOST.items():
        counts = STEPS if case == "64 px, batch 64" else SMALL_STEPS
        sides = {
            f"{case}: {what}": partial(common.side, __file__, case, what, steps, environment=common.our_environment())
            for what, steps in counts.items()
        }
        answers = raw[case] = common.alternate(sides, given.rounds)
        # Means, not medians: a slow step of the loop (a new epoch's order) counts as well.
        means = {what: [statistics.fmean(steps) for steps in answers[f"{case}: {what}"]] for what in counts}
        for what in ("one parameter", "with batch norm"):
            parts = [own / whole for own, whole in zip(means[what], means["DCGAN"], strict=True)]
            rows.append({
                "step": case, "our own code": what, "n": given.rounds,
                "its CPU us": common.spread([1e6 * mean for mean in means[what]]),
                "DCGAN's CPU ms": common.spread([1e3 * mean for mean in means["DCGAN"]]),
                "part of it in %": common.spread([100 * part for part in parts]),
            })  # fmt: skip
            if what == "one parameter":
                bounds.append(common.at_most(f"{case}: our own code, part of a step", statistics.median(parts), limit))
    common.report("loop_cost", given.rounds, rows, bounds, raw)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        common.tell(side(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        main()
