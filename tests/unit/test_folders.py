"""Folders mean what people mean: what systems leave is nothing, parts are parts, what may be either is asked for."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sentences import Sentences

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem
from trainers.data.image_folders.folder_names import SYSTEM_FOLDERS, of_system, part_kinds
from trainers.data.image_folders.layout import arranged, scan_folder
from trainers.data.images import ImageData
from trainers.data.sources import open_data
from trainers.families import registry


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (8, 8), np.uint8)).save(path)


def filled(folder: Path, *places: str, count: int = 4) -> Path:
    """So many different images in each of these folders."""
    for number, place in enumerate(places):
        for which in range(count):
            noise(folder / place / f"{which}.png", 100 * number + which)
    return folder


def opened(folder: Path, said: list[str] | None = None, **how: Any) -> ImageData:
    said = [] if said is None else said
    with tempfile.TemporaryDirectory() as room:
        data: ImageData = open_data(f"imagefolder:{folder}", data_dir=Path(room), image_size=8, warn=said.append, **how)
    return data


def refused(folder: Path, **how: Any) -> Problem:
    with pytest.raises(TroupeError) as caught:
        opened(folder, **how)
    assert caught.value.code == ENVIRONMENT
    (problem,) = caught.value.problems
    assert (problem.about, problem.value) == ("data", f"imagefolder:{folder}")
    return problem


def misfit(folder: Path) -> Problem:
    """What a classifier finds wrong with a folder."""
    data = opened(folder)
    config = registry.config_class("classifier").of({"data": f"imagefolder:{folder}", "model": "mlp"})
    (problem,) = config.data_problems(data.facts)
    return problem


# --- what systems leave ---


def test_what_systems_leave_is_no_class_no_image_and_no_mistake(tmp_path: Path) -> None:
    plain = opened(filled(tmp_path / "plain", "cat", "dog"))
    folder = filled(tmp_path / "pets", "cat", "dog")
    names = [*SYSTEM_FOLDERS, "RECYCLER", "FOUND.000", "@GMT-2024.01.01-00.00.00", "Network Recycle Bin 1", ".Trashes",
             ".AppleDouble", ".@__thumb", ".Trash-1000", "@EADIR", "$Recycle.Bin", "_NAS_Recycle_RAID", ":2eDS_Store",
             "@SynoFinder-log",
             "com.apple.TimeMachine.localsnapshots"]  # fmt: skip
    for number, name in enumerate(names):
        noise(folder / name / "cat" / "0.png", 1000 + number)
        noise(folder / "dog" / name / "0.png", 2000 + number)
    noise(folder / "dog" / "SYNOPHOTO_THUMB_M.jpg", 3000)
    for name in (
        "Thumbs.db",
        "desktop.ini",
        "Icon\r",
        "0.png:Zone.Identifier",
        "Thumbs.db:encryptable",
        "0.png@SynoEAStream",
        "._0.png",
    ):
        (folder / "cat" / name).write_bytes(b"")
        (folder / name).write_bytes(b"")
    said: list[str] = []
    data = opened(folder, said)
    assert data.facts["class_names"] == ("cat", "dog")
    assert said == []
    assert data.fingerprint == plain.fingerprint


def test_the_thumbnails_of_held_out_photographs_are_never_learned(tmp_path: Path) -> None:
    """A NAS has a small copy of each image beside it, under the image's own name."""
    folder = filled(tmp_path / "pets", "train/cat", "train/dog", "test/cat", "test/dog")
    for image in [*folder.rglob("*.png")]:
        noise(image.parent / "@eaDir" / image.name / "SYNOPHOTO_THUMB_XL.jpg", 7)
    data = opened(folder)
    assert (data.size, data.held_out, data.facts["class_names"]) == (8, 8, ("cat", "dog"))


def test_a_folder_with_nothing_but_what_systems_leave_says_so(tmp_path: Path, sentences: Sentences) -> None:
    noise(tmp_path / "pets" / "@eaDir" / "0.png" / "thumb.jpg", 1)
    (tmp_path / "pets" / ".photo.jpg.icloud").touch()
    problem = refused(tmp_path / "pets")
    assert problem.code == "no-images"
    assert "1 not downloaded from iCloud, the system folder @eaDir" in problem.reason


@pytest.mark.parametrize(
    "names",
    [("recycled", "recycler", "snapshot", "trash", "trash can", "recovery", "found", "temporary", "windows"),
     ("@esa", "@nasa"), ("#1", "#2", "#10"), ("$1", "$100")],
)  # fmt: skip
def test_names_that_people_give_to_classes_are_not_taken_from_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Marks before every name are those of the user."""
    assert opened(filled(tmp_path / "waste", *names)).facts["class_names"] == tuple(sorted(names))


MADE_BY_SYSTEMS = [
    "@appstore", "@docker", "@S2S", "@sharesync", "@iphoto", "@database", "#snapshots", "$AV_ASW", "$AV_AVG",
    "$WINDOWS.~Q", "$Windows.~LS", "$INPLACE.~TR", "Windows.old", "PerfLogs", "OneDriveTemp", "FileHistory",
    "found.1000", "msdownld.tmp", "Desktop Folder", "Cleanup At Startup", "__MACOSX 2", "__MACOSX copy",
    "System Volume Information (1)", "$RECYCLE.BIN - Copy",
]  # fmt: skip


def test_folders_that_systems_make_in_other_versions_and_their_copies_are_no_classes() -> None:
    assert [name for name in MADE_BY_SYSTEMS if not of_system(name, is_folder=True)] == []


@pytest.mark.parametrize(
    "name",
    ["Recycle Bin", "trashbox", "recycle bin", "RECYCLE BIN", "Trash", "Recycle", "Recycled", "Recycle Bin 2",
     "Recovery", "@home", "$100", "#new", "@unheard-of", "~backup"],
)  # fmt: skip
def test_what_a_system_may_have_left_or_a_class_is_asked_for(tmp_path: Path, name: str, sentences: Sentences) -> None:
    folder = filled(tmp_path / "pets", "cat", "dog", name)
    problem = refused(folder)
    assert (problem.code, "folders=classes" in problem.hint) == ("parts-or-classes", True)
    sentences([problem])
    assert name in opened(folder, folders="classes").facts["class_names"]


def test_what_a_system_may_have_left_beside_splits_or_in_them_is_asked_for(
    tmp_path: Path, sentences: Sentences
) -> None:
    places = ("train/cat", "train/dog", "test/cat", "test/dog")
    beside, within = filled(tmp_path / "beside", *places, "@home"), filled(tmp_path / "within", *places)
    filled(within, "train/@home", "test/@home")
    sentences([refused(beside), refused(within)])
    assert opened(beside, folders="parts").facts["class_names"] == ("cat", "dog")
    assert opened(within, folders="parts").facts["class_names"] == ("@home", "cat", "dog")


def test_what_a_system_may_have_left_without_images_is_no_class_and_no_mistake(tmp_path: Path) -> None:
    folder = filled(tmp_path / "pets", "cat", "dog")
    for name in ("@unheard-of", "$AV_X", "Trash"):
        (folder / name).mkdir()
    assert "lost_classes" not in opened(folder).facts or opened(folder).facts["lost_classes"] == {}


# --- the same pictures, however they came to the disk ---

FORMS: st.SearchStrategy[Literal["NFC", "NFD"]] = st.sampled_from(("NFC", "NFD"))
CLASSES = ("Ångström", "café", "naïve", "zoo")
FILES = ("été.png", "o\u0308.png", "plain.png")


def laid(root: Path, how: st.DataObject) -> None:
    """The same pictures in the same classes, as different ways to copy them leave them."""
    seeds = {
        (name, file): place for place, (name, file) in enumerate((name, file) for name in CLASSES for file in FILES)
    }
    folders: dict[str, Path] = {}
    for number, (name, file) in enumerate(how.draw(st.permutations(sorted(seeds)))):
        if name not in folders:
            folders[name] = root / "pets" / unicodedata.normalize(how.draw(FORMS), name)
            folders[name].parent.mkdir(exist_ok=True)
            if how.draw(st.booleans()):
                (root / f"elsewhere{number}").mkdir()
                folders[name].symlink_to(root / f"elsewhere{number}")
        path = folders[name] / unicodedata.normalize(how.draw(FORMS), file)
        linked = how.draw(st.booleans())
        noise(root / f"{number}.png" if linked else path, seeds[name, file])
        if linked:
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(root / f"{number}.png")
    for left in how.draw(
        st.sets(
            st.sampled_from(
                [
                    "@eaDir/0.png/t.jpg",
                    "__MACOSX/café/._a.png",
                    "café/Thumbs.db.png",
                    "lost+found/a.png",
                    ".Trashes/b.png",
                    "#recycle/zoo/c.png",
                ]
            )
        )
    ):
        if not left.startswith("café"):
            noise(root / "pets" / left, 77)
    if how.draw(st.booleans()):
        (root / "pets" / "again").symlink_to(root / "pets")


@settings(max_examples=15)
@given(st.data())
def test_the_same_pictures_are_the_same_data(how: st.DataObject) -> None:
    """In accents apart from their letters or not, in any order, through links, beside what systems leave."""
    with tempfile.TemporaryDirectory() as room:
        laid(Path(room), how)
        data = opened(Path(room, "pets"))
    learned = data.batch(range(data.size))
    assert data.facts["class_names"] == CLASSES[1:] + CLASSES[:1] == ("café", "naïve", "zoo", "Ångström")
    found = (data.fingerprint, learned["labels"].tolist(), learned["images"].numpy().tobytes())
    assert SEEN.setdefault("pets", found) == found


SEEN: dict[str, Any] = {}


def test_one_class_written_in_two_ways_is_one_and_so_is_that_of_two_parts(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "café")
    folder = filled(tmp_path / "pets", f"train/{apart}", "train/dog", "test/café", "test/dog")
    assert opened(folder).facts["class_names"] == ("café", "dog")
    both = filled(tmp_path / "both", apart, "café", "dog")
    assert opened(both).facts["class_names"] == ("café", "dog")


def test_a_folder_that_a_link_leads_to_as_well_keeps_its_own_path(tmp_path: Path) -> None:
    """Whichever of them a disk names first."""
    folder = filled(tmp_path / "pets", "cat", "dog")
    (folder / "cat" / "a").symlink_to(folder / "dog")
    said: list[str] = []
    data = opened(folder, said)
    assert data.facts["class_names"] == ("cat", "dog")
    assert [line.partition(": ")[2] for line in said] == [
        "skipped links to folders that are already in it: cat/a -> dog"
    ]
    assert [image.path for image in scan_folder(folder).images if image.path.startswith("dog/")]


# --- parts ---

SPELLINGS = [
    ("train", "test"), ("training_set", "test_set"), ("Training-Set", "TEST"), ("trainset", "devset"),
    ("train", "dev"), ("train", "eval"), ("train", "holdout"), ("train", "hold-out"), ("TrainImages", "TestImages"),
    ("train_data", "validation_data"), ("train2017", "val2017"), ("seg_train", "seg_test"), ("Training", "PrivateTest"),
    ("training", "evaluation"), ("dataset_train", "dataset_valid"), ("TRAIN SET", "held out"),
    ("trainval", "test"), ("train_val", "test"), ("train_aug", "val"), ("train_mini", "val"), ("train_cleaned", "test"),
    ("train-augmented", "val"), ("train-jpg", "test-tif"), ("treino", "teste"), ("Trainingsdaten", "Testdaten"),
    ("entrenamiento", "validación"), ("Entrainement", "Validation"), ("Обучающая выборка", "Тестовая выборка"),
    ("训练集", "测试集"), ("学習データ", "テストデータ"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "other"), SPELLINGS)
def test_parts_are_known_in_their_usual_spellings(tmp_path: Path, train: str, other: str) -> None:
    folder = filled(tmp_path / "pets", f"{train}/cat", f"{train}/dog", f"{other}/cat", f"{other}/dog")
    data = opened(folder)
    assert (data.size, data.held_out, data.facts["class_names"]) == (8, 8, ("cat", "dog"))


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled", "un-labeled", "no_labels", "train_unlabeled"])
def test_images_without_labels_are_left_out_and_that_is_told(tmp_path: Path, name: str) -> None:
    folder = filled(tmp_path / "stl10", "train/cat", "train/dog", "test/cat", "test/dog", name)
    said: list[str] = []
    data = opened(folder, said)
    assert (data.size, data.held_out, data.facts["class_names"]) == (8, 8, ("cat", "dog"))
    assert [f"the 4 images of its folder {name} are left out" in line for line in said] == [True]


@pytest.mark.parametrize(
    ("others", "kinds"),
    [(("eval",), ("test",)), (("eval", "test"), ("validation", "test")), (("eval", "val"), ("test", "validation")),
     (("dev", "test"), ("validation", "test")), (("holdout", "eval"), ("test", "validation"))],
)  # fmt: skip
def test_what_is_for_evaluations_takes_the_place_that_is_free(
    tmp_path: Path, others: tuple[str, ...], kinds: tuple[str, ...]
) -> None:
    filled(tmp_path, *(f"{part}/{name}" for part in ("train", *others) for name in ("cat", "dog")))
    parts = arranged(scan_folder(tmp_path), "").parts
    assert parts == {"train": "train", **dict(zip(others, kinds, strict=True))}


def test_words_that_only_hold_the_name_of_a_part_are_none() -> None:
    for names in (("trainer", "tester"), ("test-tube", "train_station"), ("latest", "oldest"), ("valid", "invalid")):
        kinds = part_kinds(names)
        assert [kinds[name] for name in names if name != "valid"] == [""] * (2 - ("valid" in names)), names


@pytest.mark.parametrize(
    "names",
    [("train", "truck"), ("train", "truck", "bus"), ("trains", "cars"), ("valid", "invalid"), ("de", "te", "tr"),
     ("dog", "test_tube", "train_station"), ("cat/2023", "cat/2024", "dog/2023", "dog/2024"),
     ("cat/front", "cat/back", "dog/front", "dog/side"), tuple(f"{name}/{view}" for name in "abcd" for view in "xy")],
)  # fmt: skip
def test_names_that_cannot_be_those_of_splits_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    """A train beside trucks is a vehicle."""
    classes = {name.partition("/")[0] for name in names}
    assert opened(filled(tmp_path / "things", *names)).facts["class_names"] == tuple(sorted(classes))


EITHER = {
    "a third": ("train", "test", "truck"),
    "deeper": ("train/cat", "train/dog", "backup"),
    "without labels": ("cat", "dog", "unlabeled"),
    "twice": ("train/cat", "train/dog", "val/cat", "val/dog", "valid/cat", "valid/dog"),
    "folds": ("train_1/cat", "train_2/cat", "test_1/cat", "test_2/cat"),
    "none to learn from": ("test/cat", "test/dog", "val/cat", "val/dog"),
    "none to test": ("train/cat", "train/dog", "unlabeled"),
    "within classes": ("cat/train", "cat/test", "dog/train", "dog/test"),
    "a test beside classes": ("cat", "dog", "test"),
    "a val beside classes": ("cat", "dog", "val"),
    "the same classes in it": ("cat", "dog", "validation/cat", "validation/dog"),
    "Omniglot": tuple(f"images_{part}/{name}" for part in ("background", "evaluation") for name in "ab"),
    "no known training": ("full/cat", "full/dog", "test/cat", "test/dog"),
    "no known training, flat": ("main", "holdout"),
    "fit": ("fit/cat", "fit/dog", "eval/cat", "eval/dog"),
    "training beside trucks": ("training", "truck"),
    "CycleGAN": ("trainA", "trainB", "testA", "testB"),
    "Market-1501": ("bounding_box_train", "bounding_box_test", "query"),
    "stations": ("test_tube", "train_station"),
    "two letters": ("tr/cat", "tr/dog", "te/cat", "te/dog"),
    "the same folders in each": ("learn/cat", "learn/dog", "check/cat", "check/dog"),
    "masks": ("images", "masks"),
    "Pascal VOC": ("JPEGImages", "SegmentationClass", "SegmentationObject"),
    "labels of some": ("train_labeled/cat", "train_labeled/dog", "train_unlabeled"),
}


@pytest.mark.parametrize("places", EITHER.values(), ids=EITHER)
def test_what_may_be_a_part_or_a_class_is_refused_with_the_setting_that_decides(
    tmp_path: Path, places: tuple[str, ...], sentences: Sentences
) -> None:
    folder = filled(tmp_path / "things", *places)
    problem = refused(folder)
    assert problem.code == "parts-or-classes"
    assert "folders=classes" in problem.hint
    sentences([problem])
    first = tuple(sorted({place.partition("/")[0] for place in places}))
    data = opened(folder, folders="classes")
    assert data.facts["class_names"] == first
    config = registry.config_class("classifier").of(
        {"data": f"imagefolder:{folder}", "folders": "classes", "model": "mlp"}
    )
    assert config.data_problems(data.facts) == []


def test_folders_that_are_parts_by_word_leave_the_others_out(tmp_path: Path, sentences: Sentences) -> None:
    folder = filled(tmp_path / "pets", "train/cat", "train/dog", "test/cat", "test/dog", "extra/cat")
    assert "folders=parts" in refused(folder).hint
    said: list[str] = []
    data = opened(folder, said, folders="parts")
    assert (data.size, data.held_out, data.facts["class_names"]) == (8, 8, ("cat", "dog"))
    assert len(said) == 1
    noise(folder / "me.png", 77)
    opened(folder, said, folders="parts")
    assert "the 1 images beside its folders are left out" in said[-1]
    problem = refused(filled(tmp_path / "others", "cat", "dog"), folders="parts")
    sentences([problem])


def test_two_letters_are_splits_by_word(tmp_path: Path) -> None:
    folder = filled(tmp_path / "pets", "tr/cat", "tr/dog", "te/cat", "te/dog")
    data = opened(folder, folders="parts")
    assert (data.size, data.held_out, data.facts["class_names"]) == (8, 8, ("cat", "dog"))


@pytest.mark.parametrize("part", ["test", "val", "unlabeled"])
def test_a_split_beside_images_without_folders_is_asked_for(tmp_path: Path, part: str, sentences: Sentences) -> None:
    """Else a GAN would learn from what it is judged by."""
    sentences([refused(filled(tmp_path / "pictures", ".", part))])


def test_a_split_among_the_classes_of_splits_is_asked_for(tmp_path: Path, sentences: Sentences) -> None:
    places = [f"{part}/{name}" for part in ("train", "test") for name in ("cat", "dog", "val")]
    folder = filled(tmp_path / "pets", *places)
    sentences([refused(folder)])
    assert opened(folder, folders="parts").facts["class_names"] == ("cat", "dog", "val")
    masks = filled(tmp_path / "cells", *(f"{part}/{name}" for part in ("train", "test") for name in ("images", "gt")))
    sentences([refused(masks)])
    assert opened(masks, folders="parts").facts["class_names"] == ("gt", "images")


def test_a_mark_before_the_only_folder_beside_images_is_asked_for(tmp_path: Path) -> None:
    assert "@thumbs may be" in refused(filled(tmp_path / "pictures", ".", "@thumbs")).reason


# --- a level too high or too low, and links ---


@pytest.mark.parametrize(
    ("places", "given", "say"),
    [
        (("archive/archive/train/cat", "archive/archive/train/dog", "archive/archive/test/cat",
          "archive/archive/test/dog"), "archive", "archive/archive"),
        (("archive/cat", "archive/dog", "archive/__MACOSX/cat"), ".", "archive"),
        (("pets/cat", "pets/dog"), "pets/cat", "pets"),
        (("pets/train/cat", "pets/train/dog", "pets/test/cat", "pets/test/dog"), "pets/train/cat", "pets"),
        (("pets/train/cat", "pets/train/dog"), "pets", "pets/train"),
        (("images/train/cat", "images/val/cat", "labels"), ".", "images"),
    ],
    ids=["twice", "beside system folders", "a class", "a class of a part", "one part", "beside labels"],
)  # fmt: skip
def test_a_level_too_high_or_too_low_is_told_with_the_path_to_say(
    tmp_path: Path, places: tuple[str, ...], given: str, say: str, sentences: Sentences
) -> None:
    root = filled(tmp_path / "home", *places)
    for file in root.glob("labels/*"):
        file.rename(file.with_suffix(".txt"))
    problem = misfit((root / given).resolve())
    assert problem.code == "no-labels"
    assert problem.hint.endswith(f"use data=imagefolder:{root / say}")
    sentences([problem])
    assert (root / "labels").exists() or opened(root / say).facts["classes"] == 2


def test_parts_that_hold_their_classes_a_level_deeper_are_told(tmp_path: Path, sentences: Sentences) -> None:
    places = [f"seg_{part}/seg_{part}/{name}" for part in ("train", "test") for name in ("cat", "dog")]
    problem = misfit(filled(tmp_path / "intel", *places))
    assert "seg_train/seg_train" in problem.hint
    sentences([problem])


def test_of_parts_below_another_folder_any_family_is_told(tmp_path: Path) -> None:
    """Else a GAN would learn from what it is judged by."""
    said: list[str] = []
    opened(filled(tmp_path, "archive/train", "archive/test"), said)
    assert [f"use data=imagefolder:{tmp_path}/archive" in line for line in said] == [True]


@pytest.mark.parametrize(
    ("places", "link", "leads_to"),
    [(("train/cat", "train/dog"), "val", "train"), (("cat", "dog"), "ox", "dog"),
     (("train/cat", "train/dog", "test/cat", "test/dog"), "train/ox", "train/dog")],
    ids=["part", "class", "class of a part"],
)  # fmt: skip
def test_a_link_to_another_part_or_class_is_told_for_what_it_is(
    tmp_path: Path, places: tuple[str, ...], link: str, leads_to: str, sentences: Sentences
) -> None:
    folder = filled(tmp_path / "pets", *places)
    os.symlink(folder / leads_to, folder / link)
    problem = misfit(folder)
    assert problem.code == "linked-folders"
    assert f"{link} -> {leads_to}" in problem.reason
    sentences([problem])


def test_a_test_part_without_labels_is_answered_with_the_part_that_has_some(tmp_path: Path) -> None:
    """As competitions give them."""
    problem = refused(filled(tmp_path / "cats", "train/cat", "train/dog", "test"))
    assert problem.code == "parts-differ"
    assert f"use data=imagefolder:{tmp_path / 'cats'}/train" in problem.hint


def test_another_name_of_the_same_part_does_no_harm(tmp_path: Path) -> None:
    folder = filled(tmp_path / "pets", "train/cat", "train/dog", "val/cat", "val/dog")
    (folder / "validation").symlink_to("val")
    data = opened(folder)
    assert (data.size, data.held_out, "links" in data.facts) == (8, 8, False)


# --- why images were left out ---


def test_every_reason_why_images_were_left_out_is_in_the_message(tmp_path: Path, sentences: Sentences) -> None:
    folder = filled(tmp_path / "pets", "cat", "dog")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    odd = {"lfs1": pointer, "lfs2": pointer, "annex": "/annex/objects/SHA256E-s1--2.png\n", "empty": "",
           "zeros": "\0" * 9, "page": "<!DOCTYPE html><html>", "text": "no image"}  # fmt: skip
    for name, content in odd.items():
        (folder / "cat" / f"{name}.png").write_text(content)
    noise(folder / "cat" / "cut.png", 9)
    (folder / "cat" / "cut.png").write_bytes((folder / "cat" / "cut.png").read_bytes()[:-30])
    said: list[str] = []
    opened(folder, said)
    (line,) = said
    sentences([line.partition("; ")[0]])
    for kept in (folder / "cat").glob("[0-9].png"):
        kept.unlink()
    assert "git-lfs pointer: 2" in misfit(folder).reason


def test_every_reason_why_files_were_skipped_is_in_the_message(tmp_path: Path, sentences: Sentences) -> None:
    """However many other files there are."""
    folder = filled(tmp_path / "pets", "cat", "dog")
    for kind, count in {
        "txt": 9,
        "json": 8,
        "xml": 7,
        "csv": 6,
        "md": 5,
        "log": 4,
        "py": 2,
        "psd": 1,
        "heics": 1,
    }.items():
        for number in range(count):
            (folder / "cat" / f"{number}.{kind}").touch()
    (folder / "cat" / "gone.png").symlink_to("nowhere")
    (folder / "cat" / ".photo.jpg.icloud").touch()
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "ox").mkdir()
    (folder / "ox" / "gone.png").symlink_to("nowhere")
    said: list[str] = []
    data = opened(folder, said)
    (line,) = said
    for kind in ("2 broken links", "1 not downloaded from iCloud", "1 special files", "1 .psd", "7 others"):
        assert kind in line
    sentences([line])
    assert data.facts["lost_classes"] == {"ox": "it holds 1 broken links"}


def test_images_that_are_all_pointers_are_named_as_such(tmp_path: Path, sentences: Sentences) -> None:
    for number in range(16):
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    problem = refused(tmp_path / "pets")
    assert "git-lfs pointer: 16" in problem.reason
    assert "git lfs pull" in problem.hint
    sentences([problem])
