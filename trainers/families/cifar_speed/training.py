"""Training of cifar_speed: as every classifier, with whitened patches, its own groups, and a pull to the average."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.contract import schedules
from trainers.contract.family import Data, Optimizers
from trainers.families.cifar_speed.networks import FastNet, whitening
from trainers.families.classification.learning import Classification

SAMPLES = 5000  # images from which the whitening is computed
PULL = 0.95  # decay of the running average in one step, at the end of the run


class CifarSpeed(Classification):
    def network(self, channels: int, classes: int) -> nn.Module:
        return FastNet(self.config.widths, channels, classes)

    def setup(self, networks: Mapping[str, nn.Module], data: Data) -> Mapping[str, Tensor]:
        network = networks["network"]
        assert isinstance(network, FastNet)
        images = data.batch(range(min(SAMPLES, data.size)))["images"]
        mean, deviation = (
            torch.tensor(part, dtype=torch.float64, device=images.device).mul(255).expand(images.shape[1])
            for part in self.config.channel_moments(images.shape[1])
        )
        network.whiten.weight.copy_(whitening(images, mean, deviation))
        return {}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        config, network = self.config, networks["network"]
        trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        groups = [
            {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [trained.pop("whiten.bias")], "weight_decay": 0.0},
            {"params": [p for p in trained.values() if p.ndim <= 1], "weight_decay": 0, "lr_scale": config.bias_scale},
        ]
        nesterov = config.nesterov and config.momentum > 0
        arguments: dict[str, Any] = {"lr": 0.1, "momentum": config.momentum, "nesterov": nesterov, "fused": True}
        course = schedules.of(config, config.learning_rate)
        if not config.lookahead:
            return {"network": (torch.optim.SGD(groups, **arguments), course)}

        def schedule(step: int, history: Sequence[float]) -> Mapping[str, float]:
            done, last = (step + 1) / config.steps, step + 1 >= config.steps > config.lookahead
            pulled = (step + 1) % config.lookahead == 0 or last
            kept = 1.0 if last else PULL**config.lookahead * done**3
            return {**course(step, history), "kept": kept if pulled else -1.0}

        return {"network": (Lookahead(groups, **arguments), schedule)}


class Lookahead(torch.optim.SGD):
    """SGD that sets the weights to their running average at some steps (Zhang 2019; Jordan 2024, section 3.4).

    `kept` of a group is the part of the average that is kept at this step; below 0: no pull at this step.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if "average" not in self.state[parameter]:
                    self.state[parameter]["average"] = parameter.detach().clone()
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                if group["kept"] < 0:
                    continue
                averages = [self.state[parameter]["average"] for parameter in group["params"]]
                torch._foreach_lerp_(averages, group["params"], 1 - group["kept"])
                torch._foreach_copy_(group["params"], averages)
