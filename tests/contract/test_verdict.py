"""A verdict on what a GAN learned: the same everywhere, kept with the run, and not to be fooled."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sentences import Sentences
from torch import Tensor

from cluster import train
from cluster.cli import main
from tests.jobs import OWN_FAMILIES, last_state
from trainers.base.errors import TroupeError
from trainers.data.images import ImageData, Part, signed
from trainers.data.sources import open_data
from trainers.families.adversarial.judges import Inception, Pixels, SmallClassifier, judge_from_weights, train_judge
from trainers.families.adversarial.networks import Generator
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import cache
from trainers.storage.tensors import read_weights
from trainers.verdict.verdict import Reference

TINY: dict[str, Any] = {"image_size": 16, "width": 4, "latent_dim": 8, "batch_size": 8, "microbatch_size": 2,
                        "steps": 8, "device": "cpu", "evaluate_every": 4, "features": "pixels",
                        "num_eval_samples": 300}  # fmt: skip


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@functools.cache
def digits() -> ImageData:
    data: ImageData = open_data("digits", data_dir=Path("nowhere"))
    data.cache = None
    return data


@functools.cache
def judge() -> SmallClassifier:
    found = SmallClassifier(1, 32, 10)
    found.load_state_dict(train_judge(found, digits()))
    return found.eval()


def seen(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features and classes of images."""
    with torch.no_grad():
        features, logits = judge()(signed(batch["images"], torch.float32))
    return features, logits.argmax(1)


def verdict_of(made: dict[str, Tensor]) -> dict[str, float]:
    """Of these images beside every second training image."""
    train, held_out = (seen(batch(range(0, size, 2))) for batch, size in (
        (digits().batch, 9000), (digits().held_out_batch, 1000)))  # fmt: skip
    features, classes = seen(made)
    reference = Reference(len(features), train[0], held_out[0], train[1], held_out[1], 10)
    told = reference.verdict(features, classes)["numbers"]
    return {name: sides["generated"] for name, sides in told.items()}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generated_by(room: Path, data: str, steps: int) -> dict[str, Tensor]:
    """500 samples of a small DCGAN that has learned from this data for a few seconds."""
    words = {"image_size": 32, "width": 16, "latent_dim": 32, "batch_size": 32, "learning_rate": 0.005, "steps": steps,
             "evaluate_every": 0, "device": "cpu"}  # fmt: skip
    result = train("dcgan", data=data, name=data, families=(OWN_FAMILIES,), **words)
    generator = Generator(32, 16, 1, 32).eval()
    generator.load_state_dict(read_weights(Path(result["checkpoint"]), ema=True)["generator"])
    with torch.no_grad():
        images = generator(torch.randn(500, 32, 1, 1, generator=torch.Generator().manual_seed(0)))
    return {"images": images.add(1).mul(127.5).round().to(torch.uint8)}


@pytest.mark.slow
def test_a_good_generator_a_collapsed_one_and_a_copy_machine_are_told_apart(room: Path) -> None:
    others = digits().batch(range(1, 9000, 2))  # images as real as can be, that are not compared with
    ideal = verdict_of({"images": others["images"][::9]})
    good = verdict_of(generated_by(room, "digits", 400))
    collapsed = verdict_of(generated_by(room, "threes", 200))
    copied = verdict_of({"images": digits().batch(range(0, 9000, 18))["images"]})
    assert (ideal["classes_covered"], ideal["class_kl"] < 0.02) == (10, True)
    assert ideal["recall"] > 0.65
    assert ideal["memorization_rate"] < 0.05
    assert abs(ideal["copy_test"]) < 3
    assert (good["classes_covered"], good["class_kl"] < 0.3) == (10, True)
    assert good["recall"] > 0.5
    assert good["memorization_rate"] < 0.05
    assert good["copy_test"] > -3
    assert collapsed["classes_covered"] <= 6, "but for what the classifier gets wrong"
    assert collapsed["class_kl"] > 1.5
    assert collapsed["recall"] < good["recall"] / 2
    assert collapsed["coverage"] < good["coverage"] / 2
    assert collapsed["precision"] > good["precision"], "each picture by itself is better"
    assert collapsed["frechet_distance"] > 5 * good["frechet_distance"]
    assert collapsed["memorization_rate"] < 0.05
    assert copied["memorization_rate"] > 0.95
    assert copied["copy_test"] < -10
    assert copied["precision"] > 0.75
    assert copied["classes_covered"] == 10


@pytest.mark.slow
def test_the_judge_knows_digits_and_is_the_same_each_time() -> None:
    assert float(judge().accuracy) > 0.95
    again = train_judge(SmallClassifier(1, 32, 10), digits())
    assert all(torch.equal(tensor, again[name]) for name, tensor in judge().state_dict().items())


def test_pixels_see_the_same_in_any_size() -> None:
    images = torch.rand(2, 3, 16, 16)
    large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.allclose(Pixels()(images).features, Pixels()(large).features)


@pytest.mark.slow
def test_a_run_keeps_its_final_and_its_best_verdict_and_evaluate_repeats_it(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("dcgan", name="run", data_dir=room / "data", **TINY)
    told = json.loads((room / "runs/run/verdict.json").read_text())
    assert told["final"]["step"] == 8
    assert told["best"]["step"] == result["best"]["step"]
    assert told["best"]["numbers"]["frechet_distance"]["generated"] == result["best"]["value"]
    assert result["verdict"]["numbers"] == told["final"]["numbers"]
    assert (told["final"]["features"], told["final"]["samples"], told["final"]["dimensions"]) == ("pixels", 300, 256)
    for name in ("verdict", "copies"):
        with Image.open(room / f"runs/run/{name}.png") as picture:
            assert min(picture.size) > 100
    capsys.readouterr()
    assert main.command(["evaluate", "run", "--json", "--data-dir", "data"]) == 0
    again = json.loads(capsys.readouterr().out)["result"]
    assert again["verdict"]["numbers"] == told["final"]["numbers"]
    assert main.command(["evaluate", "run", "--data-dir", "data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  verdict by pixels: 300 samples and as many held-out ones"
    assert lines[2].split() == ["generated", "real"]
    assert lines[3].split()[0] == "frechet_distance"


@pytest.mark.slow
def test_real_images_are_looked_at_once_and_damage_is_told(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = {**TINY, "steps": 4}
    first = train("dcgan", name="first", data_dir=room / "data", **tiny)
    kept = sorted((room / "data/computed").glob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in kept]
    second = train("dcgan", name="second", data_dir=room / "data", **tiny)
    assert [path.stat().st_mtime_ns for path in kept] == times
    damaged = bytearray(kept[0].read_bytes())
    damaged[-10] ^= 1
    kept[0].write_bytes(damaged)
    capsys.readouterr()
    words = [f"{name}={value}" for name, value in tiny.items()]
    assert main.command(["train", "dcgan", "--name", "third", "--json", "--data-dir", "data", *words]) == 0
    shown = capsys.readouterr()
    third = json.loads(shown.out)["result"]
    assert f"{kept[0].name}: damaged; its contents are computed again" in shown.err
    assert kept[0].stat().st_mtime_ns != times[0]
    assert first["metrics"]["eval_frechet_distance"] == second["metrics"]["eval_frechet_distance"]
    assert first["metrics"]["eval_frechet_distance"] == third["metrics"]["eval_frechet_distance"]


def test_a_cached_file_is_whole_or_not_there(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "folder/x.safetensors"
    assert cache.read_cached(path, said.append) is None
    cache.write_cached(path, {"a": torch.arange(3)})
    found = cache.read_cached(path, said.append)
    assert found is not None
    assert found["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-3])
    assert cache.read_cached(path, said.append) is None
    assert len(said) == 1


@pytest.mark.slow
def test_too_few_samples_for_a_frechet_distance_are_told(room: Path) -> None:
    result = train("dcgan", name="run", data_dir=room / "data", **{**TINY, "num_eval_samples": 100})
    assert "eval_frechet_distance" not in result["metrics"]
    assert result["best"]["metric"] == "eval_kernel_distance"
    (note,) = result["verdict"]["notes"]
    assert note.startswith("100 samples have no Frechet distance in 256 numbers, which needs more samples than numbers")


@pytest.mark.slow
def test_a_run_that_began_without_evaluations_gets_its_judge_with_the_first(room: Path) -> None:
    words = {**TINY, "features": "auto", "evaluate_every": 0, "steps": 2}
    train("dcgan", name="run", data_dir=room / "data", **words)
    assert not (room / "data/computed").exists(), "nothing is computed for what nobody asks for"
    result = train(resume="run", data_dir=room / "data", evaluate_every=2, steps=4, allow_changes=True)
    assert result["verdict"]["judge_accuracy"] > 0.9
    assert {"judge.accuracy", "judge.head.weight"} <= set(last_state(room / "runs/run")["kept"])


def test_little_data_is_not_evaluated() -> None:
    from trainers.families import registry

    few = Part(digits().batch(range(20))["images"].permute(0, 2, 3, 1).contiguous().numpy())
    data = ImageData(few, Part(few.images[:4]), fingerprint="few")
    config = registry.config_class("dcgan").of({}).finalize(data.facts)
    assert config.num_held_out(data.facts) == 0
    assert config.evaluate_every == 0


# Other judges


@pytest.mark.slow
def test_the_run_of_a_classifier_judges(room: Path) -> None:
    train("classifier", model="lenet", steps=60, name="judge", data_dir=room / "data", device="cpu")
    result = train("dcgan", name="run", data_dir=room / "data", **{**TINY, "features": "judge", "steps": 4})
    told = result["verdict"]
    assert (told["features"], told["distance"], told["dimensions"]) == ("judge", "fd_judge", 84)
    assert told["classes"] == 10
    assert sum(told["histogram"]["real"]) == 300
    stored = json.loads((room / "runs/run/settings.json").read_text())["settings"]
    assert stored["features"] == str(room / "runs/judge")


SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "file", "numbers"),
    [
        ("resnet56", "resnet_cifar10/resnet56-4bfd9763.th", 64),
        ("squeezenet", "squeezenet/squeezenet1_1-caffe.pth", 512),
    ],
)
def test_published_weights_judge(room: Path, model: str, file: str, numbers: int) -> None:
    if not (SHARED / file).exists():
        pytest.skip(f"{SHARED / file} is not there")
    facts = {"channels": 1, "classes": 10, "class_names": tuple("0123456789")}
    judge = judge_from_weights(model, SHARED / file, facts).eval()
    with torch.no_grad():
        seen = judge(signed(digits().batch(range(4))["images"], torch.float32))
    assert seen.features.shape == (4, numbers)
    assert (seen.logits is not None) == (model == "resnet56"), "ten classes, as the data has"


def test_a_judge_that_cannot_see_the_data_is_told_before_the_training(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*given: object) -> None:
        raise ValueError("cannot see it")

    monkeypatch.setattr(Pixels, "forward", blind)
    with pytest.raises(TroupeError) as caught:
        train("dcgan", name="run", data_dir=room / "data", **TINY)
    (problem,) = caught.value.problems
    assert (problem.code, problem.about) == ("worker-error", "worker 0")
    assert "cannot see it" in problem.reason
    assert not (room / "runs/run/metrics.jsonl").exists()
    assert not list((room / "runs/run/grids").glob("*.png"))


@pytest.mark.slow
def test_inception_judges_as_torch_fidelity_has_it(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Theirs

    torch.manual_seed(0)
    with monkeypatch.context() as patched:  # the published weights are not at hand: others of their format
        patched.setattr(torch.nn.Module, "load_state_dict", lambda *given: None)
        patched.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
        theirs = Theirs("theirs", ["2048"])
    torch.save(theirs.state_dict(), room / "weights.pth")
    ours = Inception(room / "weights.pth").eval()
    images = digits().batch(range(3))["images"]
    with torch.no_grad():
        expected = theirs(images.expand(-1, 3, -1, -1))[0]
        seen = ours(signed(images, torch.float32))
    assert torch.equal(seen.features, expected)
    assert seen.logits is None
    assert ours.distance == "fd_inception"
    digest = hashlib.sha256((room / "weights.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(Inception, "PUBLISHED", digest[:8])
    words = {**TINY, "features": f"inception:{room / 'weights.pth'}", "num_eval_samples": 16, "steps": 1,
             "evaluate_every": 1, "evaluate_on": "test"}  # fmt: skip
    result = train("dcgan", name="run", data_dir=room / "data", data=few_digits(room), **words)
    assert (result["verdict"]["features"], result["verdict"]["distance"]) == ("inception", "fid")
    assert result["verdict"]["notes"], "16 samples say nothing in 2048 numbers"


def few_digits(room: Path) -> str:
    """A folder of 20 digits, with 16 others to test on: as few as a verdict takes, for a large network to see."""
    for part in ("train", "test"):
        (room / "few" / part / "all").mkdir(parents=True)
    for number, image in enumerate(digits().batch(range(36))["images"][:, 0].numpy()):
        Image.fromarray(image).save(room / "few" / ("train" if number < 20 else "test") / f"all/{number}.png")
    return f"imagefolder:{room / 'few'}"


@pytest.mark.slow
def test_without_a_network_inception_is_told_in_a_line(
    room: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    def nowhere(*given: object, **named: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", nowhere)
    with pytest.raises(TroupeError) as caught:
        train("dcgan", name="run", data_dir=room / "data", **{**TINY, "features": "inception"})
    (problem,) = caught.value.problems
    assert (problem.code, problem.about, problem.value) == ("no-weights", "features", "inception")
    assert "no route to host" in problem.reason
    sentences([problem])


def test_wrong_judges_are_told_in_a_line(room: Path, sentences: Sentences) -> None:
    (room / "file.pt").write_bytes(b"no weights")
    torch.save({"fc.weight": torch.zeros(10, 3)}, room / "other.pt")
    (room / "folder").mkdir()
    for family in ("dcgan", "classifier"):
        (room / "runs" / family).mkdir(parents=True)
        told = {"versions": {}, "data": "", "settings": {"steps": 0}, "facts": {}, "from": None}
        RunFolder(room / "runs" / family).write_settings({"family": family, **told})
    here = "features"
    for features, code, about, value in (
        ("nowhere", "no-judge", here, "nowhere"),
        ("resnet56:nowhere", "no-judge", here, "resnet56:nowhere"),
        ("folder", "no-judge", here, "folder"),
        ("resnet56:file.pt", "no-weights", str(room / "file.pt"), None),
        ("resnet56:other.pt", "weights-misfit", here, f"resnet56:{room / 'other.pt'}"),
        ("resnet57:other.pt", "unknown-model", here, "resnet57:other.pt"),
        ("resnet56:folder", "no-judge", here, "resnet56:folder"),
        ("dcgan", "no-judge", here, "dcgan"),
        ("classifier", "no-judge", here, "classifier"),
    ):
        with pytest.raises(TroupeError) as caught:
            train("dcgan", name="run", data_dir=room / "data", **{**TINY, "features": features})
        (problem,) = caught.value.problems
        assert (problem.code, problem.about, problem.value) == (code, about, value)
        assert "\n" not in str(caught.value)
        sentences([problem])
