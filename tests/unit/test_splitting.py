"""What of a folder is learned from and what is held out: a share of each class, or folders that are parts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentences import Sentences

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.data.images import ImageData
from trainers.data.sources import open_data


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (8, 8), np.uint8)).save(path)


def filled(folder: Path, counts: dict[str, int], first: int = 0) -> Path:
    """So many different images of noise in each of these folders."""
    for name, count in counts.items():
        for number in range(count):
            first += 1
            noise(folder / name / f"{number:03}.png", first)
    return folder


def opened(folder: Path, **how: Any) -> ImageData:
    data: ImageData = open_data(f"imagefolder:{folder}", data_dir=folder.parent / "data", image_size=8, **how)
    return data


def labels(data: ImageData, held_out: bool = False) -> list[int]:
    """How many of each class."""
    batch = data.held_out_batch(range(data.held_out)) if held_out else data.batch(range(data.size))
    found: list[int] = batch["labels"].bincount(minlength=data.facts["classes"]).tolist()
    return found


def images(data: ImageData, held_out: bool = False) -> set[bytes]:
    batch = data.held_out_batch(range(data.held_out)) if held_out else data.batch(range(data.size))
    return {image.numpy().tobytes() for image in batch["images"]}


def test_each_class_gives_a_tenth_and_one_image_at_least(tmp_path: Path) -> None:
    data = opened(filled(tmp_path / "pets", {"cat": 100, "cow": 34, "dog": 2, "ox": 1, "pig": 5}))
    assert labels(data, held_out=True) == [10, 3, 1, 0, 1]
    assert labels(data) == [90, 31, 1, 1, 4]
    assert images(data).isdisjoint(images(data, held_out=True))


def test_for_validation_each_class_gives_a_tenth_of_what_is_left(tmp_path: Path) -> None:
    folder = filled(tmp_path / "pets", {"cat": 100, "cow": 3, "dog": 2})
    test, validation = opened(folder), opened(folder, evaluate_on="validation")
    assert labels(validation, held_out=True) == [9, 1, 0]
    assert labels(validation) == [81, 1, 1]
    held_out = images(validation, held_out=True)
    assert held_out <= images(test), "what is held out for the test is in neither"
    assert images(validation) | held_out == images(test)


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_equal_files_are_never_learned_and_held_out(tmp_path: Path, evaluate_on: str) -> None:
    folder = filled(tmp_path / "pets", {"cat": 30, "dog": 30})
    filled(folder, {"cat/again": 30, "dog/again": 30})
    filled(folder, {"ox": 20})  # those of cat, under another name
    data = opened(folder, evaluate_on=evaluate_on)
    assert data.held_out
    assert images(data).isdisjoint(images(data, held_out=True))


def test_which_are_held_out_follows_from_the_content_and_not_from_names(tmp_path: Path) -> None:
    folder = filled(tmp_path / "pets", {"cat": 40, "dog": 40})
    before = images(opened(folder), held_out=True)
    for number, file in enumerate(sorted((folder / "cat").iterdir(), reverse=True)):
        file.rename(folder / "cat" / f"z{number}.png")
    assert images(opened(folder), held_out=True) == before


def test_a_run_of_before_has_another_fingerprint_and_its_packed_copy_is_not_taken(tmp_path: Path) -> None:
    """In 0.1.0 the hold-out was another one: images that such a run learned from are held out now."""
    folder = filled(tmp_path / "pets", {"cat": 20, "dog": 20})
    data = opened(folder)
    content = [(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
               for path in sorted(folder.rglob("*.png"))]  # fmt: skip

    def of_before(*names: str) -> str:
        return hashlib.sha256(json.dumps((content, names, 1, 8)).encode()).hexdigest()

    assert data.fingerprint != of_before("cat", "dog")
    (packed,) = (tmp_path / "data" / "packed").glob("*/packed.json")
    now = json.loads(packed.read_text())
    packed.write_text(json.dumps({
        **{key: now[key] for key in ("source", "image_size", "channels", "class_names", "unreadable", "listing")},
        "train": 36, "test": 4, "fingerprint": of_before("cat", "dog"),
    }))  # fmt: skip
    (packed.parent / "images.bin").unlink()
    for part, count in (("train", 36), ("test", 4)):
        (packed.parent / f"{part}_images.bin").write_bytes(bytes(64 * count))
        np.save(packed.parent / f"{part}_labels.npy", np.zeros(count, np.int64))
    again = opened(folder, fingerprint=of_before("cat", "dog"))  # as a worker asks that knows it
    assert again.fingerprint == data.fingerprint
    assert images(again, held_out=True) == images(data, held_out=True) != {bytes(64)}


def test_images_without_classes_keep_their_hold_out_and_their_fingerprint(tmp_path: Path) -> None:
    folder = filled(tmp_path / "pictures", {".": 60})
    data = opened(folder)
    content = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
    assert data.fingerprint == hashlib.sha256(json.dumps((content, (), 1, 8)).encode()).hexdigest()
    assert data.held_out == sum(int(digest[:8], 16) % 10 == 0 for _, digest in content[1:])


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val"), ("Training", "valid"), ("train", "validation")])
def test_a_test_folder_is_held_out_whole_and_nothing_else(tmp_path: Path, names: tuple[str, str]) -> None:
    train, test = names
    folder = filled(tmp_path / "pets", {f"{train}/cat": 30, f"{train}/dog": 20, f"{test}/cat": 3, f"{test}/dog": 4})
    data = opened(folder)
    assert data.facts["class_names"] == ("cat", "dog")
    assert (labels(data), labels(data, held_out=True)) == ([30, 20], [3, 4])
    validation = opened(folder, evaluate_on="validation")
    assert (labels(validation), labels(validation, held_out=True)) == ([27, 18], [3, 2])
    assert images(validation) | images(validation, held_out=True) == images(data)


def test_of_three_parts_each_is_used_for_what_its_name_says(tmp_path: Path) -> None:
    counts = {"train": 20, "val": 3, "test": 5}
    folder = tmp_path / "pets"
    for first, name in enumerate(("cat", "dog")):
        filled(folder, {f"{part}/{name}": count for part, count in counts.items()}, first * 100)
    test, validation = opened(folder), opened(folder, evaluate_on="validation")
    assert labels(test) == labels(validation) == [20, 20]
    assert (labels(test, held_out=True), labels(validation, held_out=True)) == ([5, 5], [3, 3])
    assert test.whole().held_out == 56


def test_parts_without_classes_are_parts_too(tmp_path: Path) -> None:
    data = opened(filled(tmp_path / "pictures", {"train": 20, "test": 5}))
    assert (data.size, data.held_out, data.facts["classes"]) == (20, 5, 0)


@pytest.mark.parametrize(("others", "folders"), [(("truck",), "auto"), (("truck", "test"), "classes")])
def test_a_class_that_is_named_as_a_part_is_a_class(tmp_path: Path, others: tuple[str, ...], folders: str) -> None:
    """A train is a thing, too; where there is a test besides, somebody must say so."""
    data = opened(filled(tmp_path / "things", {"train": 5, **dict.fromkeys(others, 5)}), folders=folders)
    assert data.facts["class_names"] == tuple(sorted(("train", *others)))


@pytest.mark.parametrize(
    ("test", "differ"),
    [
        ({"cat": 2}, ["cow, dog"]),
        ({"cat": 2, "cow": 1, "dog": 1, "zebra": 1}, ["zebra"]),
        ({"cat": 2, "cow": 2, "ox": 2}, ["ox", "dog"]),
        ({".": 3}, ["cat, cow, dog"]),
    ],
    ids=["fewer", "more", "others", "none"],
)
def test_parts_with_other_classes_are_told_with_what_differs(
    tmp_path: Path, test: dict[str, int], differ: list[str], sentences: Sentences
) -> None:
    folder = filled(tmp_path / "pets" / "train", {"cat": 3, "cow": 3, "dog": 3}).parent
    filled(folder / "test", test, first=100)
    with pytest.raises(TroupeError) as caught:
        opened(folder)
    assert caught.value.code == ENVIRONMENT
    (problem,) = caught.value.problems
    assert (problem.code, problem.about, problem.value) == ("parts-differ", "data", f"imagefolder:{folder}")
    assert all(names in problem.reason for names in differ)
    sentences([problem])


def test_a_class_without_an_image_in_both_parts_is_told_as_one_without_parts(tmp_path: Path) -> None:
    folder = filled(tmp_path / "pets", {"train/cat": 3, "train/dog": 3, "test/cat": 3, "test/dog": 3})
    for part in ("train", "test"):
        (folder / part / "ox").mkdir()
    assert opened(folder).facts["lost_classes"] == {"ox": "it is empty"}
    for file in (folder / "train" / "dog").iterdir():
        file.write_bytes(b"no image")
    assert opened(folder).facts["lost_classes"] == {
        "ox": "it is empty", "dog": "none of its images can be read; unknown image format: 3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("strays", "named"),
    [(["me.png"], ["me.png"]), ([f"{number}.png" for number in range(5)], ["0.png", "1.png", "2.png", "..."])],
)
def test_images_beside_class_folders_are_named(tmp_path: Path, strays: list[str], named: list[str]) -> None:
    folder = filled(tmp_path / "pets", {"cat": 3, "dog": 3})
    for number, name in enumerate(strays):
        noise(folder / name, 1000 + number)
    data = opened(folder)
    assert (data.facts["classes"], data.facts["strays"]) == (0, named)
    assert opened(folder, fingerprint=data.fingerprint).facts["strays"] == named


def test_an_image_beside_the_classes_of_a_part_is_named(tmp_path: Path) -> None:
    folder = filled(tmp_path / "pets", {"train/cat": 3, "train/dog": 3, "test/cat": 3, "test/dog": 3})
    noise(folder / "train" / "me.png", 1000)
    assert opened(folder).facts["strays"] == ["train/me.png"]


def test_digits_have_all_of_themselves_too() -> None:
    data = open_data("digits", data_dir=Path("unused"), image_size=28).whole()
    assert (data.size, data.held_out, data.facts["held_out"]) == (9000, 10_000, 10_000)
    last = data.held_out_batch([9999])
    test = open_data("digits", data_dir=Path("unused"), image_size=28).held_out_batch([999])
    assert all((last[name] == test[name]).all() for name in ("images", "labels"))


@pytest.mark.parametrize("parts", [(), ("train", "val")], ids=["classes", "parts"])
def test_the_fingerprint_of_a_folder_stays_what_it_was(tmp_path: Path, parts: tuple[str, ...]) -> None:
    """Else runs that were begun with an older troupe would not go on."""
    counts = {f"{part}/{name}": 3 for part in parts or (".",) for name in ("café", "dog")}
    data = opened(filled(tmp_path / "pets", counts))
    content = [(path.relative_to(tmp_path / "pets").as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
               for path in (tmp_path / "pets").rglob("*.png")]  # fmt: skip
    how = {"train": "train", "val": "validation"} if parts else "a tenth of each class"
    told = json.dumps((sorted(content), ("café", "dog"), 1, 8, how))
    assert data.fingerprint == hashlib.sha256(told.encode()).hexdigest()
