"""How classifiers learn: one phase, augmented and normalized on the device; accuracy, confusion, worst mistakes."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from trainers.contract import augmentation, schedules
from trainers.contract.evaluation import Evaluation, Totals
from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.families.classification.drawing import draw_confusion, draw_mistakes

AUXILIARY = 0.3  # weight of each auxiliary output's loss (Szegedy 2015, section 5)


class Classification(Family):
    """A family of one network named `network`: images in, logits out, in training also auxiliary logits if it has
    them."""

    ema_networks = ("network",)

    def networks(self) -> dict[str, nn.Module]:
        return {"network": self.network(self.facts["channels"], self.config.class_count(self.facts))}

    def network(self, channels: int, classes: int) -> nn.Module:
        """The network, for images with these channels."""
        raise NotImplementedError

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        config = self.config
        optimizer: torch.optim.Optimizer
        groups = weight_decay_groups(networks["network"], config.weight_decay)
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, betas=(config.momentum, 0.999), fused=True)
        else:
            nesterov = config.nesterov and config.momentum > 0
            optimizer = torch.optim.SGD(groups, lr=0.1, momentum=config.momentum, nesterov=nesterov, fused=True)
        return {"network": (optimizer, schedules.of(config, config.learning_rate))}

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (Phase("classify", ("network",), "network", self.classify),)

    def classify(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        labels = microbatch["labels"]
        outputs = networks["network"](self.normalized(self.augmented(microbatch), microbatch.dtype))
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = self.loss(logits, labels, microbatch.dtype)
        for other in auxiliary:
            loss = loss + AUXILIARY * self.loss(other, labels, microbatch.dtype)
        return Loss(loss, {"accuracy": (logits.argmax(1) == labels).double().mean()})

    def loss(self, logits: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Cross entropy with smoothed labels."""
        return cross_entropy(logits.to(dtype), labels, label_smoothing=self.config.label_smoothing)

    def augmented(self, microbatch: MicroBatch) -> Tensor:
        """uint8 images of a micro-batch, shifted or enlarged, flipped and cut out according to the settings."""
        config, images = self.config, microbatch["images"]
        flipped = None
        if config.flip == "random":
            flipped = augmentation.random_flips(len(images), microbatch.random)
        elif config.flip == "alternating":
            flipped = augmentation.alternating_flips(microbatch.indices, microbatch.epochs, config.seed).to(
                images.device
            )
        if config.enlarge:
            images = augmentation.enlarge_and_crop(images, config.enlarge, flipped, microbatch.random)
        elif config.crop_padding or flipped is not None:
            images = augmentation.crop_and_flip(
                images, config.crop_padding, flipped, microbatch.random, config.padding == "reflect"
            )
        if config.cutout:
            channels = images.shape[1]
            fill = torch.tensor(config.channel_moments(channels)[0], device=images.device).mul(255).round()
            images = augmentation.cutout(images, config.cutout, fill.expand(channels), microbatch.random)
        return images

    def normalized(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 images as numbers around 0, in the run's memory format."""
        mean, deviation = (
            torch.tensor(part, dtype=dtype, device=images.device).view(1, -1, 1, 1)
            for part in self.config.channel_moments(images.shape[1])
        )
        layout = torch.channels_last if self.config.memory_format == "channels_last" else torch.contiguous_format
        return images.to(dtype, memory_format=layout).sub_(mean * 255).div_(deviation * 255)

    def logits(self, networks: Networks, microbatch: MicroBatch) -> Tensor:
        """Logits of a micro-batch's images, (rows, classes), as in `Config.input_spec`: the mean over all views."""
        images, views = self.normalized(microbatch["images"], microbatch.dtype), self.config.views()
        height, width = images.shape[2:]
        border = max(abs(pixels) for view in views for pixels in view["moved"])
        wide = pad(images, (border,) * 4, "reflect") if border else images
        total, exact = torch.zeros((), device=images.device), torch.promote_types(images.dtype, torch.float32)
        for view in views:
            down, right = view["moved"]
            seen = wide[:, :, border - down :, border - right :][:, :, :height, :width] if border else images
            seen = seen.flip(3) if view["mirrored"] else seen
            total = total + view["weight"] * networks["network"](seen).to(exact)
        return total.to(microbatch.dtype)

    def predict(self, networks: Networks, microbatch: MicroBatch) -> Tensor:
        return self.logits(networks, microbatch).softmax(1)

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        labels, logits = microbatch["labels"], self.logits(networks, microbatch)
        guesses, count = logits.argmax(1), logits.shape[1]
        confusion = torch.bincount(labels * count + guesses, minlength=count * count).view(count, count)
        microbatch.intermediates["sure"], microbatch.intermediates["guesses"] = logits.softmax(1).max(1).values, guesses
        return {
            "accuracy": ((guesses == labels).sum(), len(labels)),
            "loss": (cross_entropy(logits, labels, reduction="sum"), len(labels)),
            "confusion": (confusion, len(labels)),
        }

    def pictures(self, found: Evaluation, data: Data) -> dict[str, Image.Image | None]:
        if not found.totals:
            return {"confusion": None, "mistakes": None}
        images = data.held_out_batch([sample for _, sample, _ in found.shown])["images"]
        mistakes = draw_mistakes(images.permute(0, 2, 3, 1).cpu().numpy(), [caption for *_, caption in found.shown])
        counts = torch.as_tensor(found.totals["confusion"][0]).numpy()
        return {"confusion": draw_confusion(counts, self.facts["class_names"]), "mistakes": mistakes}

    def rank_samples(self, microbatch: MicroBatch) -> tuple[Tensor, Sequence[str]]:
        labels, guesses, sure = (
            microbatch["labels"],
            microbatch.intermediates["guesses"],
            microbatch.intermediates["sure"],
        )
        names = self.facts["class_names"]
        captions = [
            f"{names[guess]} ({share:.1%}), is {names[label]}"
            for guess, label, share in zip(guesses.tolist(), labels.tolist(), sure.tolist(), strict=True)
        ]
        return torch.where(guesses == labels, -torch.inf, sure.double()), captions


def weight_decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters in two groups: filters and matrices with weight decay, biases, norms and scales without."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim > 1 and "bias" not in name and "scale" not in name].append(parameter)
    still, pulled = groups
    return [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((pulled, weight_decay), (still, 0.0))
        if parameters
    ]
