"""MNIST, Fashion-MNIST and CIFAR-10: the packed form, the original files, and what is said where there are neither."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sentences import Sentences

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem
from trainers.data.images import ImageData, Part
from trainers.data.packed import pack
from trainers.data.sources import open_data
from trainers.data.torchvision_sets import IDX_FILES, KNOWN

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def photographs(count: int, seed: int) -> Part:
    random = np.random.RandomState(seed)
    return Part(random.randint(0, 256, (count, 32, 32, 3), np.uint8), random.randint(0, 10, count).astype(np.int64))


def figures(count: int, seed: int) -> Part:
    images, labels = photographs(count, seed)
    return Part(images[:, 2:30, 2:30, :1], labels)


def pixels(data: ImageData) -> NDArray[np.uint8]:
    result: NDArray[np.uint8] = data.batch(range(data.size))["images"].permute(0, 2, 3, 1).numpy()
    return result


def write_idx(folder: Path, train: Part, test: Part, zipped: bool = True) -> None:
    folder.mkdir(parents=True)
    arrays = [train.images[..., 0], train.labels, test.images[..., 0], test.labels]
    for stem, array in zip(IDX_FILES, arrays, strict=True):
        assert array is not None
        content = (
            bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()
        )
        (folder / (f"{stem}.gz" if zipped else stem)).write_bytes(gzip.compress(content) if zipped else content)


def fails(data: str, data_dir: Path) -> Problem:
    with pytest.raises(TroupeError) as caught:
        open_data(data, data_dir=data_dir)
    assert caught.value.code == ENVIRONMENT
    (problem,) = caught.value.problems
    assert "\n" not in str(caught.value)
    return problem


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **how: Any) -> None:
        raise OSError("no route\nto host")

    fake = SimpleNamespace(datasets=SimpleNamespace(MNIST=fail, FashionMNIST=fail, CIFAR10=fail))
    monkeypatch.setitem(sys.modules, "torchvision", fake)


def test_what_is_packed_is_read_again_mapped_and_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    train, test = photographs(30, 1), photographs(10, 2)
    pack(tmp_path / "cifar10", "cifar10", train, test, KNOWN["cifar10"].class_names)
    data = open_data("cifar10", data_dir=tmp_path)
    assert (data.size, data.held_out) == (30, 10)
    assert data.facts["class_names"][3] == "cat"
    assert data.facts["image_size"] == 32
    assert np.array_equal(pixels(data), train.images)
    assert test.labels is not None
    assert data.held_out_batch(range(10))["labels"].tolist() == test.labels.tolist()
    assert isinstance(data._parts[0].images, np.memmap)
    assert sorted(file.name for file in (tmp_path / "cifar10").iterdir() if file.name[0] != ".") == [
        "packed.json", "test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy",
    ]  # fmt: skip


def test_packing_anew_replaces_what_was_there(tmp_path: Path) -> None:
    for seed in (1, 2):
        pack(tmp_path / "cifar10", "cifar10", photographs(5, seed), photographs(5, 9), KNOWN["cifar10"].class_names)
    assert np.array_equal(pixels(open_data("cifar10", data_dir=tmp_path)), photographs(5, 2).images)


@pytest.mark.parametrize("file", ["train_images.npy", "test_labels.npy"])
@pytest.mark.parametrize("damage", ["one bit", "cut short", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str, damage: str, sentences: Sentences) -> None:
    pack(tmp_path / "cifar10", "cifar10", photographs(5, 1), photographs(5, 2), KNOWN["cifar10"].class_names)
    path = tmp_path / "cifar10" / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content if damage == "one bit" else content[:-3])
    if damage == "gone":
        path.unlink()
    problem = fails("cifar10", tmp_path)
    assert (problem.code, problem.about) == ("damaged", str(path))
    sentences([problem])


@pytest.mark.parametrize("content", ["{", "[]", '{"class_names": []}'], ids=["half", "list", "no-arrays"])
def test_a_damaged_list_of_the_files_is_named(tmp_path: Path, content: str, sentences: Sentences) -> None:
    pack(tmp_path / "cifar10", "cifar10", photographs(5, 1), photographs(5, 2), KNOWN["cifar10"].class_names)
    (tmp_path / "cifar10" / "packed.json").write_text(content)
    problem = fails("cifar10", tmp_path)
    assert (problem.code, problem.about) == ("damaged", str(tmp_path / "cifar10" / "packed.json"))
    sentences([problem])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "mnist"), ("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")]
)
def test_original_files_are_read_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str, zipped: bool
) -> None:
    no_network(monkeypatch)
    train, test = figures(20, 1), figures(6, 2)
    write_idx(tmp_path / folder, train, test, zipped)
    data = open_data(name, data_dir=tmp_path, image_size=28)
    assert np.array_equal(pixels(data), train.images)
    assert train.labels is not None
    assert data.batch(range(20))["labels"].tolist() == train.labels.tolist()
    assert open_data(name, data_dir=tmp_path).facts["image_size"] == 32


def test_the_fingerprint_is_the_same_packed_or_in_the_original_files(tmp_path: Path) -> None:
    train, test = figures(20, 1), figures(6, 2)
    write_idx(tmp_path / "original" / "mnist", train, test)
    pack(tmp_path / "packed" / "mnist", "mnist", train, test, KNOWN["mnist"].class_names)
    first, second = (open_data("mnist", data_dir=tmp_path / form) for form in ("original", "packed"))
    assert first.fingerprint == second.fingerprint


def test_a_damaged_original_file_is_named(tmp_path: Path, sentences: Sentences) -> None:
    write_idx(tmp_path / "mnist", figures(20, 1), figures(6, 2))
    path = tmp_path / "mnist" / f"{IDX_FILES[0]}.gz"
    path.write_bytes(path.read_bytes()[:-200])
    problem = fails("mnist", tmp_path)
    assert (problem.code, problem.about) == ("damaged", str(path))
    sentences([problem])


def test_a_download_is_packed_so_that_it_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {True: photographs(8, 1), False: photographs(4, 2)}

    def download(root: str, train: bool, download: bool) -> SimpleNamespace:
        assert root == str(tmp_path)
        assert download
        labels = parts[train].labels
        assert labels is not None
        return SimpleNamespace(data=parts[train].images, targets=labels.tolist())

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=SimpleNamespace(CIFAR10=download)))
    first = open_data("cifar10", data_dir=tmp_path)
    no_network(monkeypatch)
    second = open_data("cifar10", data_dir=tmp_path)
    assert np.array_equal(pixels(first), parts[True].images)
    assert np.array_equal(pixels(second), parts[True].images)
    assert first.fingerprint == second.fingerprint


def test_without_files_and_network_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    no_network(monkeypatch)
    for name, needed in (("cifar10", "cifar-10-batches-py"), ("mnist", "*-ubyte.gz")):
        problem = fails(name, tmp_path)
        assert (problem.code, problem.about, problem.value) == ("not-downloaded", "data", name)
        assert str(tmp_path) in problem.reason
        assert needed in problem.hint
        sentences([problem])


def test_sheets_of_cifar_are_packed_tile_by_tile(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("pack_cifar10", BENCHMARKS / "pack_cifar10.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    parts = {name: photographs(6, seed) for seed, name in enumerate([*script.BATCHES, "test_batch"])}
    for name, (images, labels) in parts.items():
        sheet = np.concatenate([np.concatenate(row, axis=1) for row in images.reshape(2, 3, 32, 32, 3)])
        Image.fromarray(sheet).save(tmp_path / f"{name}.webp", lossless=True)
        assert labels is not None
        (tmp_path / f"{name}.labels.txt").write_text("".join(map(str, labels)) + "\n")
    script.main(tmp_path, tmp_path / "target")
    data = open_data("cifar10", data_dir=tmp_path / "target")
    assert np.array_equal(pixels(data), np.concatenate([parts[name].images for name in script.BATCHES]))
    assert data.held_out_batch(range(6))["labels"].tolist() == np.asarray(parts["test_batch"].labels).tolist()
    assert json.loads((tmp_path / "target" / "cifar10" / "packed.json").read_text())["name"] == "cifar10"
