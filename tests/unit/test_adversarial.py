"""What the adversarial families share: networks of every size, slopes by hand, classes, and cheap critic steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sentences import Sentences
from torch import Tensor, nn

from trainers.base.errors import TroupeError
from trainers.contract import schedules
from trainers.data.images import ImageData, Part
from trainers.distributed.process_group import World
from trainers.engine.control import Control
from trainers.engine.step import run_phase, train_step
from trainers.engine.trainer import Trainer
from trainers.families import classifiers, registry
from trainers.families.adversarial.learning import Wasserstein
from trainers.families.adversarial.networks import (
    Critic,
    Generator,
    PooledHead,
    SmoothUpsampling,
    slopes_by_autograd,
    upsampling,
)
from trainers.families.adversarial.perceptrons import PerceptronCritic, PerceptronGenerator
from trainers.families.classification.settings import ClassificationConfig
from trainers.settings.fields import plain

ADVERSARIAL = ("dcgan", "wgan", "wgan_gp")


def data_of(classes: int = 10, size: int = 16, channels: int = 1) -> ImageData:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, size, size, channels), generator=random, dtype=torch.uint8).numpy()
    labels = (torch.arange(64) % max(1, classes)).numpy() if classes else None
    test = Part(images[:16], labels[:16] if labels is not None else None)
    names = tuple(f"kind {number}" for number in range(classes))
    return ImageData(Part(images, labels), test, fingerprint="made", class_names=names)


def trainer_of(family: str, data: ImageData, **settings: Any) -> Trainer:
    small = {"image_size": 16, "width": 4, "latent_dim": 8, "batch_size": 8, "microbatch_size": 4, "device": "cpu",
             "evaluate_every": 0}  # fmt: skip
    config = registry.config_class(family).of({**small, **settings}, family)
    trainer = Trainer(registry.family_class(family)(config, data.facts), data, config, World(), Control())
    trainer.setup()
    return trainer


# Defaults


@pytest.mark.parametrize(("family", "of_the_paper"), [("dcgan", 2e-4), ("wgan", 5e-5), ("wgan_gp", 1e-4)])
def test_small_images_have_defaults_of_their_own_and_larger_ones_those_of_the_paper(
    family: str, of_the_paper: float
) -> None:
    kind = registry.config_class(family)

    def rate(**words: Any) -> float:
        return float(kind.of(words, family).learning_rate)

    small = kind.small["learning_rate"]
    assert small > 5 * of_the_paper
    for words in ({}, {"data": "mnist"}, {"data": "cifar10"}, {"data": "stacked_digits"}, {"image_size": 16}):
        assert rate(**words) == small, words
    for words in ({"image_size": 64}, {"data": "digits+mnist", "image_size": 128}, {"data": "imagefolder:/pictures"}):
        assert rate(**words) == of_the_paper, words
    assert rate(learning_rate=1e-4) == 1e-4
    assert [row.source for row in kind.described() if row.name == "learning_rate"] == [""]


def test_residual_networks_of_small_images_have_the_defaults_of_their_paper() -> None:
    config = registry.config_class("wgan_gp").of({"network": "resnet"}, "wgan_gp")
    assert (config.learning_rate, config.n_critic, config.steps) == (1e-4, 5, 3000)  # type: ignore[attr-defined]


# Networks


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize(("extra", "norm_after", "upsample"), [(0, False, "transposed"), (2, True, "nearest")])
def test_networks_make_and_judge_images_of_every_size(size: int, extra: int, norm_after: bool, upsample: str) -> None:
    generator = Generator(7, 4, 3, size, upsample, classes=5, extra=extra, norm_after=norm_after)
    critic = Critic(4, 3, size, classes=5, extra=extra, norm_after=norm_after)
    labels = torch.tensor([0, 4])
    images = generator(torch.randn(2, 7, 1, 1), labels)
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert critic(images, labels).shape == (2,)
    assert sum(isinstance(layer, (nn.ConvTranspose2d, nn.Upsample)) for layer in generator.modules()) == {
        16: 2, 32: 3, 64: 4, 128: 5,
    }[size]  # fmt: skip


def test_the_norm_lies_where_it_is_asked_for() -> None:
    for norm_after, wanted in ((False, [nn.BatchNorm2d, nn.ReLU]), (True, [nn.ReLU, nn.BatchNorm2d])):
        kinds = [type(layer) for layer in Generator(8, 4, 1, 16, norm_after=norm_after).main]
        assert kinds[1:3] == wanted
    kinds = [type(layer) for layer in Critic(4, 1, 16, norm_after=True).main]
    assert kinds == [nn.Conv2d, nn.LeakyReLU, nn.Conv2d, nn.LeakyReLU, nn.BatchNorm2d, nn.Conv2d]


@pytest.mark.parametrize("side", [4, 5, 16])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_smooth_upsampling_is_that_of_interpolate_and_so_is_its_gradient(mode: str, side: int) -> None:
    images = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 2 * side, 2 * side, dtype=torch.float64)
    found = {}
    for name, layer in (
        ("ours", upsampling(mode, side).double()),
        ("torch", nn.Upsample(scale_factor=2, mode=mode, align_corners=False)),
    ):
        images.grad = None
        made = layer(images)
        (made * weights).sum().backward()
        found[name] = (made.detach(), images.grad)
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert list(upsampling(mode, side).state_dict()) == [], "exports need no matrix"


@pytest.mark.parametrize("upsample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 64])
def test_a_generator_upsamples_in_every_mode(upsample: str, size: int) -> None:
    generator = Generator(7, 4, 3, size, upsample)
    assert generator(torch.randn(2, 7, 1, 1)).shape == (2, 3, size, size)
    assert generator.state_dict().keys() == Generator(7, 4, 3, size, "nearest").state_dict().keys()


@pytest.mark.parametrize("head", ["conv", "pool"])
def test_a_critic_has_the_head_that_is_asked_for(head: str) -> None:
    critic = Critic(4, 1, 16, head=head)
    images = torch.randn(3, 1, 16, 16)
    features = critic.main[:-1](images)
    kinds = {"conv": nn.Conv2d, "pool": PooledHead}
    assert type(critic.main[-1]) is kinds[head]
    if head == "pool":
        wanted = features.mean((2, 3)) @ critic.main[-1].linear.weight[0]  # type: ignore[index, union-attr]
        torch.testing.assert_close(critic(images), wanted)


def norms_of(networks: Mapping[str, nn.Module]) -> list[bool]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return [any(isinstance(layer, kinds) for layer in network.modules()) for network in networks.values()]


@pytest.mark.parametrize("network", ["dcgan", "mlp"])
@pytest.mark.parametrize("family", ["dcgan", "wgan"])
def test_each_network_has_norms_only_if_asked_for(family: str, network: str) -> None:
    for generator, critic in itertools.product((True, False), repeat=2):
        networks = trainer_of(family, data_of(), network=network, generator_norm=generator, critic_norm=critic).networks
        assert norms_of(networks) == [generator, critic]


@pytest.mark.parametrize("network", ["dcgan", "mlp", "resnet"])
def test_the_critic_of_wgan_gp_has_no_norms_and_its_generator_if_asked_for(network: str) -> None:
    for generator in (True, False):
        words: dict[str, Any] = {"network": network, "generator_norm": generator, "image_size": 32}
        assert norms_of(trainer_of("wgan_gp", data_of(size=32), **words).networks) == [generator, False]


@pytest.mark.parametrize("upsample", ["transposed", "nearest", "bicubic"])
def test_residual_generators_upsample_as_asked_for_and_by_default_as_in_the_paper(upsample: str) -> None:
    words: dict[str, Any] = {"network": "resnet", "image_size": 32, "upsample": upsample}
    generator = trainer_of("wgan_gp", data_of(size=32), **words).networks["generator"]
    kind = SmoothUpsampling if upsample == "bicubic" else nn.Upsample
    assert sum(type(layer) is kind for layer in generator.modules()) == 3
    assert generator(torch.randn(2, 8, 1, 1)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("classes", [0, 5])
def test_fully_connected_networks_have_four_hidden_layers(classes: int) -> None:
    generator = PerceptronGenerator(7, 24, 3, 16, True, False, classes)
    critic = PerceptronCritic(24, 3, 16, True, False, classes)
    labels = torch.tensor([0, 4]) if classes else None
    images = generator(torch.randn(2, 7, 1, 1), labels)
    assert images.shape == (2, 3, 16, 16)
    assert critic(images, labels).shape == (2,)
    linear = [[layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)]
              for network in (generator, critic)]  # fmt: skip
    assert linear == [[24] * 4 + [3 * 16 * 16], [24] * 4 + [1]]
    _, slopes = critic.eval()(images, labels, images)
    torch.testing.assert_close(slopes, slopes_by_autograd(critic.score, images, labels))


def test_fully_connected_networks_have_the_units_of_the_paper_by_default() -> None:
    networks = trainer_of("wgan", data_of(), network="mlp", width="auto").networks
    assert {layer.out_features for layer in networks["critic"].modules() if isinstance(layer, nn.Linear)} == {512, 1}


@pytest.mark.parametrize("family", ADVERSARIAL)
def test_settings_stored_without_the_newest_ones_are_those_of_before(family: str) -> None:
    kind = registry.config_class(family)
    new = {"head", "generator_norm", "clip_when", "penalty_sides"}
    new |= {"dcgan": {"network", "critic_norm"}, "wgan": {"network"}, "wgan_gp": set()}[family]
    for words in ({}, {"image_size": 64}):
        whole = kind.of(words, family)
        stored = {name: value for name, value in plain(whole.model_dump()).items() if name not in new}
        assert kind.of(kind.stored(stored), family) == whole


@pytest.mark.parametrize(("extra", "classes", "head"), [(0, 0, "conv"), (2, 0, "pool"), (1, 5, "conv"), (0, 5, "pool")])
def test_slopes_by_hand_are_those_of_autograd_and_so_are_their_gradients(extra: int, classes: int, head: str) -> None:
    torch.manual_seed(0)
    critic = Critic(6, 3, 32, norm=False, classes=classes, extra=extra, head=head).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    labels = torch.arange(4) if classes else None
    found = {}
    for name, slopes in (
        ("by hand", critic.slopes(images, labels)),
        ("by autograd", slopes_by_autograd(critic.score, images, labels)),
    ):
        critic.zero_grad()
        (slopes.flatten(1).norm(dim=1) - 1).square().mean().backward()
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in critic.parameters()]
        found[name] = [slopes.detach(), *gradients]
    for one, other in zip(*found.values(), strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()
    assert all(one.abs().max() > 0 for one in found["by hand"])


def test_a_critic_with_norms_leaves_its_slopes_to_autograd() -> None:
    torch.manual_seed(0)
    critic, images = Critic(4, 1, 16, norm=True).double(), torch.randn(6, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(critic.slopes(images), slopes_by_autograd(critic.score, images))


def test_the_residual_networks_are_those_of_the_paper() -> None:
    networks = trainer_of("wgan_gp", data_of(size=32, channels=3), network="resnet", image_size=32, width=128,
                          latent_dim=128, batch_size=2, microbatch_size=1).networks  # fmt: skip
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks.values()]
    # Gulrajani et al. 2017, table 4, generator: a matrix 128 x 4 * 4 * 128, three blocks of two 3x3 convolutions
    block, point = 2 * (9 * 128 * 128 + 128), 128 * 128 + 128
    assert counts[0] == 128 * 2048 + 3 * (block + point + 4 * 128) + 2 * 128 + 9 * 128 * 3 + 3
    first = 9 * 3 * 128 + 128 + 9 * 128 * 128 + 128 + 3 * 128 + 128
    assert counts[1] == first + 3 * block + point + 128 + 1


# Critic steps


@pytest.mark.parametrize("family", ["wgan", "wgan_gp"])
def test_critic_steps_make_fakes_without_a_graph_and_generator_steps_learn_no_critic(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(family, data_of(), n_critic=2)
    graphs: list[bool] = []
    generator = trainer.networks["generator"]
    generator.register_forward_hook(lambda module, given, images: graphs.append(images.requires_grad))
    *critic, last = trainer.family.phases(1000)
    run_phase(trainer, critic[0])
    assert graphs == [False, False], "one of each micro-batch"
    before = {name: tensor.clone() for name, tensor in trainer.networks["critic"].state_dict().items()}
    run_phase(trainer, last)
    assert graphs[2:] == [True, True]
    assert not any(parameter.requires_grad for parameter in trainer.networks["critic"].parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.networks["critic"].state_dict().items())


def test_real_and_fake_go_together_where_no_norm_forbids_it() -> None:
    for norm, wanted in ((True, [4, 4]), (False, [8])):
        trainer = trainer_of("wgan", data_of(), n_critic=1, n_critic_warmup=0, critic_norm=norm)
        rows: list[int] = []
        trainer.networks["critic"].register_forward_pre_hook(
            lambda module, given, rows=rows: rows.append(len(given[0]))
        )
        run_phase(trainer, trainer.family.phases(1)[0])
        assert rows == wanted * 2


def test_weights_of_wgans_critic_are_clipped_after_each_of_its_steps() -> None:
    trainer = trainer_of("wgan", data_of(), clip=0.005, n_critic=2, n_critic_warmup=0, learning_rate=0.01)
    assert largest(trainer.networks["critic"]) > 0.5
    train_step(trainer)
    assert largest(trainer.networks["critic"]) <= 0.005
    trainer.look()
    assert trainer.metrics["distance"] == pytest.approx(-trainer.metrics["critic_loss"])


def test_weights_of_wgans_critic_can_be_clipped_before_each_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses see clipped weights, and the last step stays as it is."""
    words: dict[str, Any] = {"clip": 0.005, "n_critic": 2, "n_critic_warmup": 0, "learning_rate": 0.01}
    trainer = trainer_of("wgan", data_of(), clip_when="before", **words)
    critic, seen = trainer.networks["critic"], list[float]()
    critic.register_forward_pre_hook(lambda module, given: seen.append(largest(critic)))
    *steps, last = trainer.family.phases(1000)
    for phase in steps:
        run_phase(trainer, phase)
    assert len(seen) == 8  # two steps of two micro-batches, real and fake apart
    assert max(seen) <= 0.005
    assert largest(critic) > 0.005
    run_phase(trainer, last)
    assert seen[-1] > 0.005, "the generator learns from the critic as its last step left it"


@pytest.mark.parametrize(("sides", "wanted"), [("two", (0.25, 0.25)), ("one", (0.0, 0.25))])
def test_a_penalty_has_two_sides_or_one(sides: str, wanted: tuple[float, float]) -> None:
    """Of a critic whose gradient has a norm of 0.5 and 1.5 everywhere."""
    trainer = trainer_of("wgan_gp", data_of(), penalty_sides=sides, penalty=1.0)
    run_phase(trainer, trainer.family.phases(0)[0])
    microbatch = next(iter(trainer.microbatches.values()))

    for norm, penalty in zip((0.5, 1.5), wanted, strict=True):

        def critic(images: Tensor, labels: Any, mixed: Tensor, norm: float = norm) -> Any:
            return images.flatten(1)[:, 0] * 0, torch.full_like(mixed, norm / mixed[0].numel() ** 0.5)

        networks: Any = {"generator": trainer.networks["generator"], "critic": critic}
        assert trainer.family.criticise(networks, microbatch).value.item() == pytest.approx(penalty)  # type: ignore[attr-defined]


def test_the_rate_of_the_lesson_falls_to_a_tenth_for_the_second_half() -> None:
    words = {"learning_rate": "1e-4", "schedule": "step", "decay_at": "0.5", "decay_factor": "0.1", "steps": "100"}
    config = registry.config_class("wgan").of(words, "wgan")
    course = schedules.of(config, config.learning_rate)  # type: ignore[attr-defined]
    assert [course(step, ())["lr"] for step in (0, 49, 50, 99)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])


def largest(network: nn.Module) -> float:
    return max(float(parameter.detach().abs().max()) for parameter in network.parameters())


def test_wgan_warms_its_critic_up_as_its_authors_do() -> None:
    config = registry.config_class("wgan").of({"image_size": 64})
    draws = [config.batches_per_step(step) for step in range(1001)]
    assert draws[:26] == [100] * 25 + [5]
    assert [step for step, count in enumerate(draws) if count == 100 and step >= 25] == [500, 1000]
    off = registry.config_class("wgan").of({"image_size": 64, "n_critic_warmup": 0})
    assert {off.batches_per_step(step) for step in range(1001)} == {5}


# Classes


@pytest.mark.parametrize("family", ADVERSARIAL)
def test_a_conditional_grid_has_a_row_for_each_class(family: str) -> None:
    trainer = trainer_of(family, data_of(), conditional=True)
    assert trainer.sample_inputs["labels"].view(10, 8).tolist() == [[kind] * 8 for kind in range(10)]
    many = trainer_of(family, data_of(classes=20), conditional=True)
    assert many.sample_inputs["labels"].unique().tolist() == list(range(16)), "the first 16"
    plain = trainer_of(family, data_of())
    assert set(plain.sample_inputs) == {"latent"}


def test_a_class_is_asked_for_by_name_or_number_and_changes_the_picture(sentences: Sentences) -> None:
    trainer = trainer_of("dcgan", data_of(), conditional=True)
    asked = trainer.config.sample_settings.of({"count": 3, "class": "kind 7"})
    assert asked.class_ == "kind 7"

    def inputs(**words: Any) -> dict[str, Tensor]:
        asked = trainer.config.sample_settings.of({"count": 3, **words})
        return trainer.family.sample_inputs(asked, torch.Generator().manual_seed(0), trainer.data)

    by_name, by_number = inputs(**{"class": "kind 7"}), inputs(**{"class": "7"})
    assert by_name["labels"].tolist() == by_number["labels"].tolist() == [7, 7, 7]
    other = inputs(**{"class": "3"})
    assert torch.equal(by_name["latent"], other["latent"])
    images = [trainer.family.samples(trainer.networks, one) for one in (by_name, other)]
    assert not torch.equal(*images)
    for wrong in ("kind 70", "10", "-1", ""):
        with pytest.raises(TroupeError) as error:
            inputs(**{"class": wrong})
        assert [(one.code, one.about, one.value) for one in error.value.problems] == [("unknown-class", "class", wrong)]
        sentences(error.value.problems)


def test_no_class_can_be_asked_for_of_a_run_that_knows_none(sentences: Sentences) -> None:
    trainer = trainer_of("dcgan", data_of())
    asked = trainer.config.sample_settings.of({"class": "3"})
    with pytest.raises(TroupeError) as error:
        trainer.family.sample_inputs(asked, torch.Generator(), trainer.data)
    assert [(one.code, one.about, one.value) for one in error.value.problems] == [("unknown-class", "class", "3")]
    sentences(error.value.problems)


@pytest.mark.parametrize("family", ADVERSARIAL)
def test_classes_need_labels(family: str, sentences: Sentences) -> None:
    config = registry.config_class(family).of({"conditional": True})
    for classes in (0, 1):
        problems = config.validate_data(data_of(classes=classes).facts)
        assert [(one.code, one.about, one.value) for one in problems] == [("data-misfit", "conditional", True)]
        sentences(problems)
    _, problems = registry.config_class(family).from_words({"mismatched_negatives": "true"}, family)
    assert [(one.code, one.about) for one in problems] == [("settings-conflict", "mismatched_negatives")]
    sentences(problems)


@pytest.mark.parametrize("family", ADVERSARIAL)
def test_mismatched_images_are_real_ones_of_another_class(family: str) -> None:
    trainer = trainer_of(family, data_of(), conditional=True, mismatched_negatives=True)
    seen: list[Any] = []
    critic = trainer.networks["discriminator" if family == "dcgan" else "critic"]
    critic.register_forward_pre_hook(lambda module, given: seen.append(given))
    run_phase(trainer, trainer.family.phases(1000)[0])
    chunks = [part.chunk(3) for part in seen[0][:2]] if len(seen[0][0]) == 12 else list(zip(*seen[:3], strict=True))[:2]
    images, labels = chunks
    assert torch.equal(images[0], images[2])
    assert (labels[0] != labels[2]).all()
    assert torch.equal(labels[0], labels[1])


# Mistakes


def test_mistakes_are_told_in_a_line_each(sentences: Sentences) -> None:
    kind = registry.config_class("wgan_gp")
    for words, code, about in (
        ({"image_size": "48"}, "bad-value", "image_size"),
        ({"network": "resnet", "image_size": "64"}, "settings-conflict", "image_size"),
        ({"network": "resnet", "n_extra_layers": "1"}, "settings-conflict", "n_extra_layers"),
        ({"penalty": "-1"}, "bad-value", "penalty"),
        ({"penalty": "0", "penalty_sides": "one"}, "settings-conflict", "penalty_sides"),
        ({"network": "resnet", "head": "pool"}, "settings-conflict", "head"),
        ({"network": "mlp", "upsample": "bicubic"}, "settings-conflict", "upsample"),
        ({"network": "mlp", "head": "pool"}, "settings-conflict", "head"),
        ({"network": "mlp", "microbatch_size": "1"}, "settings-conflict", "microbatch_size"),
        ({"generator_norm": "false", "norm_after_activation": "true"}, "settings-conflict", "norm_after_activation"),
        ({"upsample": "linear"}, "bad-value", "upsample"),
        ({"penalty_sides": "both"}, "bad-value", "penalty_sides"),
    ):
        _, problems = kind.from_words(words, "wgan_gp")
        assert [(one.code, one.about) for one in problems] == [(code, about)]
        sentences(problems)
    _, problems = registry.config_class("wgan").from_words({"clip_when": "during"}, "wgan")
    assert [(one.code, one.about) for one in problems] == [("bad-value", "clip_when")]
    sentences(problems)
    problems = kind.of({"network": "resnet"}).validate_data(data_of(size=64).facts)
    assert [(one.code, one.about, one.value) for one in problems] == [("settings-conflict", "image_size", 64)]
    sentences(problems)


def test_a_critic_has_norms_where_the_settings_of_its_family_do_not_say() -> None:
    """As before `critic_norm`: settings of custom families may be without it."""
    data, config = data_of(), registry.config_class("wgan_gp").of({"image_size": 16, "width": 4}, "wgan_gp")
    assert not hasattr(config, "critic_norm")
    networks = Wasserstein(config, data.facts).networks()
    assert any(isinstance(module, nn.BatchNorm2d) for module in networks["critic"].modules())


def test_every_adversarial_family_is_short() -> None:
    root = Path(registry.__file__).parent
    for family in ADVERSARIAL:
        lines = itertools.chain(*(path.read_text().splitlines() for path in (root / family).glob("*.py")))
        assert sum(1 for _ in lines) <= 265  # wgan_gp has the paper's residual networks besides


def test_every_built_in_classifier_can_judge() -> None:
    kinds = {name: registry.config_class(name) for name in registry.families()}
    judges = {name for name, kind in kinds.items() if issubclass(kind, ClassificationConfig)}
    assert judges == {*classifiers.CONFIGS}
    assert all(classifiers.CONFIGS[name] is kinds[name] for name in judges)
    assert all(classifiers.classifier_class(name) is registry.family_class(name) for name in judges)
