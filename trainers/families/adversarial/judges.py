"""The judges of images for a verdict: pixels, or a classifier. They map images (rows, channels, size, size) in [-1, 1]
to features (rows, numbers), and to logits (rows, classes) if the judge knows classes."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, interpolate

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem
from trainers.contract.streams import sample_indices
from trainers.data.images import signed
from trainers.families.adversarial.settings import FEATURES, MODELS, SIDE
from trainers.families.classifier.config import HE
from trainers.storage import cache
from trainers.storage.tensors import load_weights, read_weights

BATCH, EPOCHS, MOST_STEPS = 100, 4, 600  # of its training
SEED = 20171209  # of its initial weights and of the order of its samples: it depends on the data alone


class Seen(NamedTuple):
    features: Tensor
    logits: Tensor | None


class Pixels(nn.Module):
    """The mean colours of a grid of 16x16 parts."""

    def forward(self, images: Tensor) -> Seen:
        side = min(SIDE, images.shape[-1])
        return Seen(adaptive_avg_pool2d(images, side).flatten(1), None)


class SmallClassifier(nn.Module):
    """Convolutions that halve an image down to 4x4, and two linear layers: features and logits.

    Images stacked in the channels are processed one by one: `classes` are those of one image, features are
    concatenated, and the logits of all combinations are sums, so that their softmax is a product.
    """

    def __init__(self, channels: int, size: int, classes: int, stacked: int = 1) -> None:
        super().__init__()
        self.stacked = stacked
        channels //= stacked
        layers: list[nn.Module] = []
        width = 16
        while size > 4:
            layers += [nn.Conv2d(channels, width, 5, stride=2, padding=2), nn.ReLU()]
            channels, width, size = width, min(64, 2 * width), -(-size // 2)
        self.body = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(channels * size**2, FEATURES),
            nn.ReLU(),
            nn.BatchNorm1d(FEATURES, affine=False),
        )
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("accuracy", torch.tensor(float("nan")))  # on the held-out part

    def forward(self, images: Tensor) -> Seen:
        features = self.body(images.reshape(-1, images.shape[1] // self.stacked, *images.shape[2:]))
        each = self.head(features).unflatten(0, (-1, self.stacked)).unbind(1)
        logits = each[0]
        for more in each[1:]:
            logits = (logits[:, :, None] + more[:, None]).flatten(1)
        return Seen(features.view(len(images), -1), logits)


class Classifier(nn.Module):
    """An external classifier: the inputs of its last linear layer are the features, its outputs the logits."""

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        size: int,
        moments: tuple[Sequence[float], Sequence[float]],
        knows_classes: bool,
    ) -> None:
        super().__init__()
        self.network, self.channels, self.size, self.knows_classes = network, channels, size, knows_classes
        self.mean: Tensor
        self.deviation: Tensor
        for name, part in zip(("mean", "deviation"), moments, strict=True):
            self.register_buffer(name, torch.tensor(part).view(1, -1, 1, 1))
        self.last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1:]  # none in SqueezeNet
        self.given: list[Tensor] = []
        for layer in self.last:
            layer.register_forward_pre_hook(lambda module, given: self.given.append(given[0]))

    def forward(self, images: Tensor) -> Seen:
        images = images.add(1).div(2)
        if images.shape[1] != self.channels:
            images = images.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        if images.shape[-1] != self.size:  # with antialiasing, as Pillow does
            images = interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        images = (images - self.mean) / self.deviation
        self.given.clear()
        logits = self.network(images)
        features = self.given[-1] if self.last else self.network.features(images).mean((2, 3))  # type: ignore[operator]
        self.given.clear()
        return Seen(features.flatten(1), logits if self.knows_classes else None)


class Inception(nn.Module):
    """The network of the Inception score and the FID, in torch-fidelity's port from TensorFlow (Heusel et al. 2017).

    With the published weights `distance` is `fid`. Raises TroupeError (exit code 3) if the weights cannot be loaded.
    """

    PUBLISHED = "6726825d"  # start of the SHA-256 of their file

    def __init__(self, file: Path | None) -> None:
        super().__init__()
        from torch_fidelity import feature_extractor_inceptionv3 as theirs

        label = f"inception:{file}" if file else "inception"
        published = file is None or hashlib.sha256(file.read_bytes()).hexdigest().startswith(self.PUBLISHED)
        self.distance = "fid" if published else "fd_inception"
        weights = read_weights(file, ("network",))["network"] if file is not None else None
        try:
            if weights is None:
                with contextlib.redirect_stdout(sys.stderr):  # torch prints to stdout, which is for results
                    weights = theirs.load_state_dict_from_url(theirs.URL_INCEPTION_V3, weights_only=True)
            read = io.BytesIO()  # their loader would execute code in a file: it only gets what was read here
            torch.save(weights, read)
            read.seek(0)
            self.network = theirs.FeatureExtractorInceptionV3("inception", ["2048"], read)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            reason = f"no weights of Inception ({str(error).splitlines()[0]})"
            hint = "use other weights" if file else "download them on another machine, and use inception:FILE"
            raise TroupeError(Problem("no-weights", "features", reason, hint, label), ENVIRONMENT) from None

    def forward(self, images: Tensor) -> Seen:
        images = images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        self.network.feature_extractor_internal_dtype = self.network.fc.weight.dtype
        return Seen(self.network(images.expand(-1, 3, -1, -1))[0], None)


def judge_from_run(folder: Path, facts: Mapping[str, Any]) -> Classifier:
    """The network of a classifier's run. Raises TroupeError (exit code 3) if it has no checkpoint."""
    from trainers.families import classifiers
    from trainers.run_folders.run_folder import RunFolder
    from trainers.storage import checkpoint

    stored = RunFolder(folder).read_settings(lambda line: None)
    weights = checkpoint.newest_intact(folder / "checkpoints")
    kind = classifiers.CONFIGS[stored["family"]]
    if weights is None:
        reason, hint = "has no complete checkpoint", "use another run"
        raise TroupeError(Problem("no-checkpoint", "features", reason, hint, str(folder)), ENVIRONMENT)
    config = kind.of(stored["settings"], stored["family"])
    source_facts = stored["facts"]
    family = classifiers.classifier_class(stored["family"])(config, source_facts)
    same = list(source_facts.get("class_names", ())) == list(facts.get("class_names", ()))
    return _loaded(family, config, source_facts, weights, same, str(folder))


def judge_from_weights(model: str, file: Path, facts: Mapping[str, Any]) -> Classifier:
    """A model of `classifier` by name, with weights from a file. Raises TroupeError if they do not fit it."""
    from trainers.families import classifiers

    model = MODELS.get(model, model)
    weights = read_weights(file, ("network",))["network"]
    last = [tensor for name, tensor in weights.items() if name.endswith("weight") and tensor.dim() in (2, 4)][-1]
    # He et al.'s models are for 32 pixels, torchvision's for more
    size = 32 if model in HE else 299 if model == "inception_v3" else 224
    source_facts = {
        "channels": 3,
        "image_size": size,
        "classes": len(last),
        "class_names": (),
        "size": 1,
        "held_out": 1,
    }
    config = classifiers.CONFIGS["classifier"].of({"model": model}, "classifier")
    family = classifiers.classifier_class("classifier")(config, source_facts)
    return _loaded(family, config, source_facts, file, len(last) == facts["classes"], f"{model}:{file}")


def _loaded(family: Any, config: Any, facts: Mapping[str, Any], weights: Path, knows: bool, label: str) -> Classifier:
    network = family.networks()["network"]
    load_weights({"network": network}, read_weights(weights, ("network",), ema=True), "features", label)
    channels = facts["channels"]
    return Classifier(network, channels, facts["image_size"], config.channel_moments(channels), knows)


def train_judge(judge: nn.Module, data: Any, heartbeat: Callable[[], None] = lambda: None) -> dict[str, Tensor]:
    """Train a classifier; returns its weights, and its `accuracy` on the held-out part; cached by the data."""
    path = cache.cache_path(data, "judge", str(judge), BATCH, EPOCHS, MOST_STEPS, SEED)
    if path is not None and (cached := cache.read_cached(path, lambda line: None)) is not None:
        return cached
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(SEED)
        learner = copy.deepcopy(judge).float().train().requires_grad_(True)
        for layer in learner.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.reset_parameters()
        steps = min(MOST_STEPS, -(-EPOCHS * data.size // BATCH))
        optimizer = torch.optim.Adam(learner.parameters(), 2e-3, fused=True)
        course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            batch = data.batch(sample_indices(data.size, SEED, step * BATCH, BATCH).tolist())
            optimizer.zero_grad()
            cross_entropy(learner(signed(batch["images"], torch.float32)).logits, batch["labels"]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            course.step()
            heartbeat()
        learner.eval()
        right = 0
        with torch.no_grad():
            for start in range(0, data.held_out, BATCH):
                batch = data.held_out_batch(range(start, min(start + BATCH, data.held_out)))
                guesses = learner(signed(batch["images"], torch.float32)).logits.argmax(1)
                right += int((guesses == batch["labels"]).sum())
        learner.accuracy.fill_(right / data.held_out if data.held_out else float("nan"))  # type: ignore[operator]
    weights = {name: tensor.detach().cpu() for name, tensor in learner.state_dict().items()}
    if path is not None:
        cache.write_cached(path, weights)
    return weights
