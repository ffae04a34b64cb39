"""Any folder of images: what is decoded, what is labelled, what is skipped, and when it is packed anew."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentences import Sentences

from trainers.base.errors import CONFLICT, ENVIRONMENT, TroupeError
from trainers.data.image_folders.decoding import decode, extensions
from trainers.data.image_folders.layout import arranged, scan_folder
from trainers.data.imagefolder import cached, remove_packed_folder
from trainers.data.images import ImageData, Part
from trainers.data.sources import open_data

WHITE, BLACK, RED, GREEN, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)


class Opened:
    """A folder opened, with what was said meanwhile."""

    def __init__(self, folder: Path, data_dir: Path, **how: Any) -> None:
        self.warnings: list[str] = []
        self.progress: list[tuple[int, int]] = []
        self.data: ImageData = open_data(
            f"imagefolder:{folder}",
            data_dir=data_dir,
            warn=self.warnings.append,
            progress=lambda done, total: self.progress.append((done, total)),
            **how,
        )


def save(path: Path, colour: Any = RED, mode: str = "RGB", side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), colour).save(path)


def filled(folder: Path, count: int = 30) -> Path:
    """A folder of `count` different images."""
    for number in range(count):
        save(folder / f"{number:03}.png", (number, 0, 0))
    return folder


def decoded(image: Image.Image, form: str = "png", size: int = 16, channels: int = 3, **how: Any) -> Any:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return decode(buffer.getvalue(), size, channels)


def halves(left: Any, right: Any, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (32, 32), left)
    image.paste(right, (16, 0, 32, 32))
    return image


def assert_halves(pixels: Any, left: Any, right: Any, tolerance: int = 0) -> None:
    """The middle of each half, away from the edge between them."""
    assert abs(pixels[4:-4, 1:4].astype(int) - np.array(left)).max() <= tolerance
    assert abs(pixels[4:-4, -4:-1].astype(int) - np.array(right)).max() <= tolerance


# --- single images ---


def test_colour_grey_and_one_bit_images_keep_their_values() -> None:
    assert_halves(decoded(halves(RED, BLUE)), RED, BLUE)
    assert_halves(decoded(halves(40, 200, "L")), (40,) * 3, (200,) * 3)
    assert_halves(decoded(halves(40, 200, "L"), channels=1), (40,), (200,))
    assert_halves(decoded(halves(0, 1, "1"), channels=1), (0,), (255,))


def test_palette_images_show_the_colours_of_their_palette() -> None:
    palette = halves(GREEN, BLUE).convert("P", palette=Image.Palette.ADAPTIVE)
    assert_halves(decoded(palette), GREEN, BLUE, tolerance=4)
    assert_halves(decoded(palette, "gif"), GREEN, BLUE, tolerance=4)


def test_cmyk_images_come_out_in_their_own_colours() -> None:
    image = halves((0, 255, 255, 0), (0, 0, 0, 255), "CMYK")  # red, and black by ink alone
    assert_halves(decoded(image, "tiff"), RED, BLACK)
    assert_halves(decoded(image, "jpeg", quality=95), RED, BLACK, tolerance=6)


@pytest.mark.parametrize("form", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_scaled_and_not_clipped(form: str) -> None:
    values = np.full((32, 32), 257 * 40, np.uint16)
    values[:, 16:] = 257 * 200
    assert_halves(decoded(Image.fromarray(values), form, channels=1), (40,), (200,))


def test_transparency_is_laid_over_white() -> None:
    assert_halves(decoded(halves((255, 0, 0, 0), (0, 0, 255, 255), "RGBA")), WHITE, BLUE)
    assert_halves(decoded(halves((0, 0), (60, 255), "LA"), channels=1), (255,), (60,))
    assert_halves(decoded(halves((0, 0, 0, 128), (0, 0, 0, 255), "RGBA")), (127,) * 3, BLACK)
    assert_halves(decoded(halves(RED, BLUE), transparency=RED), WHITE, BLUE)
    palette = halves(0, 1, "P")
    palette.putpalette([*RED, *BLUE])
    assert_halves(decoded(palette, transparency=0), WHITE, BLUE)


def test_images_are_turned_as_their_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    pixels = decoded(halves(RED, BLUE), "jpeg", exif=exif, quality=95)
    assert_halves(pixels.transpose(1, 0, 2), RED, BLUE, tolerance=6)  # left became top


def test_of_an_animation_the_first_picture_is_taken() -> None:
    first, second = Image.new("RGB", (8, 8), GREEN), Image.new("RGB", (8, 8), BLUE)
    assert (decoded(first, "gif", save_all=True, append_images=[second]) == GREEN).all()


@pytest.mark.parametrize("size", [(64, 32), (32, 64)])
def test_the_centre_is_cut_out_and_the_shorter_side_kept_whole(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, BLACK)
    image.paste(RED, ((size[0] - 32) // 2, (size[1] - 32) // 2, (size[0] + 32) // 2, (size[1] + 32) // 2))
    pixels = decoded(image)
    assert pixels.shape == (16, 16, 3)
    assert (pixels[4:-4, 4:-4] == RED).all()
    assert (pixels[..., 0] > 200).all()  # near the cut, the filter sees a little of what is beyond


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_shrinking_averages(form: str) -> None:
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 200
    pixels = decoded(Image.fromarray(stripes), form, channels=1)
    assert abs(pixels[2:-2, 2:-2].astype(int) - 100).max() < 12


# --- folders ---


def test_grey_folders_have_one_channel_and_one_image_in_colour_makes_three(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    save(folder / "a.png", 7, "L")
    save(folder / "b.png", 257 * 9, "I;16")
    grey = Opened(folder, tmp_path).data
    assert grey.facts["channels"] == 1
    assert grey.facts["image_size"] == 64
    save(folder / "c.png", RED)
    colour = Opened(folder, tmp_path).data
    assert colour.facts["channels"] == 3
    everything = [batch for part in (colour.batch(range(colour.size)), colour.held_out_batch(range(colour.held_out)))
                  for batch in part["images"][:, :, 0, 0].tolist()]  # fmt: skip
    assert sorted(everything) == [[7, 7, 7], [9, 9, 9], list(RED)]


def test_first_level_folders_are_labels_and_stay_with_their_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for number in range(30):
        save(folder / "red" / f"{number}.png", (100 + number, 0, 0))
        save(folder / "blue" / "deeper" / f"{number}.JPG", (0, 0, 200), side=9 + number)
    data = Opened(folder, tmp_path, image_size=8).data
    assert data.facts["class_names"] == ("blue", "red")
    assert data.facts["classes"] == 2
    assert data.size + data.held_out == 60
    for batch in (data.batch(range(data.size)), data.held_out_batch(range(data.held_out))):
        is_red = batch["images"][:, 0, 0, 0] > batch["images"][:, 2, 0, 0]
        assert is_red.long().tolist() == batch["labels"].tolist()


@pytest.mark.parametrize("paths", [["a/1.png", "a/2.png"], ["a/1.png", "b/2.png", "3.png"]])
def test_other_folders_have_no_labels(tmp_path: Path, paths: list[str]) -> None:
    for number, path in enumerate(paths):
        save(tmp_path / "images" / path, (number, 0, 0))
    data = Opened(tmp_path / "images", tmp_path).data
    assert data.facts["classes"] == 0
    assert set(data.batch([0])) == {"images"}


def test_about_a_tenth_is_the_test_part_and_equal_files_are_never_in_both(tmp_path: Path) -> None:
    folder = filled(tmp_path / "images", 250)
    filled(folder / "again", 250)
    data = Opened(folder, tmp_path, image_size=8).data
    learned = set(data.batch(range(data.size))["images"][:, 0, 0, 0].tolist())
    tested = set(data.held_out_batch(range(data.held_out))["images"][:, 0, 0, 0].tolist())
    assert data.size + data.held_out == 500
    assert 20 < data.held_out < 90
    assert learned | tested == set(range(250))
    assert not learned & tested


def test_a_folder_of_one_image_can_be_learned_from(tmp_path: Path) -> None:
    for number in range(12):  # some of these would be for testing, by their content
        save(tmp_path / str(number) / "one.png", (number, 0, 0))
        data = Opened(tmp_path / str(number), tmp_path).data
        assert (data.size, data.held_out) == (1, 0)


def test_unreadable_images_are_skipped_counted_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    folder = filled(tmp_path / "images", 10)
    content = io.BytesIO()
    Image.effect_noise((60, 60), 50).save(content, "png")
    (folder / "cut.png").write_bytes(content.getvalue()[:-800])
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.gif").touch()
    save(folder / "bomb.png", side=200)
    (folder / "notes.txt").write_text("not meant to be an image")
    opened = Opened(folder, tmp_path)
    assert opened.data.size + opened.data.held_out == 10
    passed, line, *_ = opened.warnings
    assert passed == f"data=imagefolder:{folder}: skipped files that are not images: 1 .txt"
    assert "4 unreadable images" in line
    assert "\n" not in line
    report = Path(line.partition("skipped; ")[2].removesuffix(" lists them"))
    assert sorted(entry.split("\t")[0] for entry in report.read_text().splitlines()) == [
        "bomb.png", "cut.png", "empty.gif", "text.jpg",
    ]  # fmt: skip


def test_hidden_files_and_circles_of_links_are_left_out(tmp_path: Path) -> None:
    folder = filled(tmp_path / "images", 3)
    save(folder / "._000.png")
    save(folder / ".thumbnails" / "000.png")
    save(tmp_path / "elsewhere" / "linked.png")
    (folder / "circle").symlink_to(folder)
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    assert [image.path for image in scan_folder(folder).images] == ["000.png", "001.png", "002.png", "more/linked.png"]


@pytest.mark.parametrize("content", [[], ["notes.txt"], ["broken.png"]], ids=["nothing", "text", "broken"])
def test_a_folder_without_images_is_one_line_and_leaves_nothing(
    tmp_path: Path, content: list[str], sentences: Sentences
) -> None:
    (tmp_path / "images").mkdir()
    for name in content:
        (tmp_path / "images" / name).write_text("no image")
    with pytest.raises(TroupeError) as caught:
        Opened(tmp_path / "images", tmp_path)
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about, one.value) for one in caught.value.problems] == [
        ("no-images", "data", f"imagefolder:{tmp_path / 'images'}")
    ]
    if content == ["broken.png"]:  # else the kinds of images that Pillow knows here are told
        sentences(caught.value.problems)
    assert cached(tmp_path) == []


# --- packing ---


def test_a_folder_is_packed_once_mapped_and_packed_again_when_it_changes(tmp_path: Path) -> None:
    folder = filled(tmp_path / "images")
    first = Opened(folder, tmp_path)
    assert first.progress == [(done, 30) for done in range(1, 31)]
    assert isinstance(first.data._parts[0].images, np.memmap)
    again = Opened(folder, tmp_path)
    assert again.progress == []
    assert again.data.fingerprint == first.data.fingerprint
    save(folder / "new.png", BLUE)
    changed = Opened(folder, tmp_path)
    assert len(changed.progress) == 31
    assert changed.data.size + changed.data.held_out == 31
    assert changed.data.fingerprint != first.data.fingerprint
    (folder / "new.png").unlink()
    assert Opened(folder, tmp_path).data.fingerprint == first.data.fingerprint
    assert len(cached(tmp_path)) == 1


def test_a_worker_that_knows_the_fingerprint_does_not_look_through_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = filled(tmp_path / "images")
    first = Opened(folder, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            "trainers.data.imagefolder.scan_folder", lambda root: pytest.fail("the folder was looked through")
        )
        worker = Opened(folder, tmp_path, fingerprint=first.data.fingerprint)
    assert worker.data.fingerprint == first.data.fingerprint
    save(folder / "new.png", BLUE)
    other = Opened(folder, tmp_path, fingerprint="of other samples")
    assert other.data.size + other.data.held_out == 31


def test_the_fingerprint_is_of_the_content_and_not_of_times_or_places(tmp_path: Path) -> None:
    folder = filled(tmp_path / "images", 5)
    fingerprint = Opened(folder, tmp_path).data.fingerprint
    os.utime(folder / "001.png", (1, 1))
    touched = Opened(folder, tmp_path)
    assert touched.progress
    assert touched.data.fingerprint == fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert Opened(tmp_path / "copy", tmp_path).data.fingerprint == fingerprint
    assert Opened(folder, tmp_path, image_size=32).data.fingerprint != fingerprint
    assert Opened(folder, tmp_path, evaluate_on="validation").data.fingerprint == fingerprint
    state = (folder / "002.png").stat()
    save(folder / "002.png", (77, 0, 0))
    os.utime(folder / "002.png", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert Opened(folder, tmp_path).data.fingerprint != fingerprint


def test_a_cut_packed_file_is_packed_again(tmp_path: Path) -> None:
    folder = filled(tmp_path / "images", 5)
    Opened(folder, tmp_path)
    (file,) = (tmp_path / "packed").glob("*/images.bin")
    os.truncate(file, 100)
    assert len(Opened(folder, tmp_path).progress) == 5


def open_together(folder: Path, data_dir: Path, barrier: Any, results: Any) -> None:
    barrier.wait(60)
    opened = Opened(folder, data_dir)
    results.put((len(opened.progress), opened.data.fingerprint))


def test_two_processes_that_want_the_same_folder_pack_it_once(tmp_path: Path) -> None:
    folder = filled(tmp_path / "images", 40)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=open_together, args=(folder, tmp_path, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    found = [results.get(timeout=60) for _ in processes]
    assert sorted(packed for packed, _ in found) == [0, 40]
    assert found[0][1] == found[1][1]


def killed_while_packing(folder: Path, data_dir: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    open_data(f"imagefolder:{folder}", data_dir=data_dir, progress=kill)


def test_a_killed_packing_is_begun_anew_and_can_be_removed(tmp_path: Path) -> None:
    folder = filled(tmp_path / "images", 10)
    process = multiprocessing.get_context("spawn").Process(target=killed_while_packing, args=(folder, tmp_path))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    ((source, _, left),) = cached(tmp_path)
    assert source == "(unfinished)"
    assert len(Opened(folder, tmp_path).progress) == 10
    assert not left.exists()
    assert [source for source, *_ in cached(tmp_path)] == [str(folder)]


def test_a_stopped_packing_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_data(f"imagefolder:{filled(tmp_path / 'images', 3)}", data_dir=tmp_path, progress=stop)
    assert cached(tmp_path) == []


def assert_no_room(folder: Path, data_dir: Path, sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as caught:
        Opened(folder, data_dir)
    (problem,) = caught.value.problems
    assert caught.value.code == ENVIRONMENT
    assert (problem.code, problem.about, problem.value) == ("not-written", "data", f"imagefolder:{folder}")
    assert str(data_dir / "packed") in problem.reason
    assert "--data-dir" in problem.hint
    sentences([problem])
    assert cached(data_dir) == []


def test_too_little_space_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert_no_room(filled(tmp_path / "images", 3), tmp_path, sentences)


def test_space_that_runs_out_while_packing_leaves_nothing(tmp_path: Path, sentences: Sentences) -> None:
    folder = filled(tmp_path / "images", 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # of one file, here 10 x 64 x 64 x 3 bytes
    try:
        assert_no_room(folder, tmp_path, sentences)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_packed_folders_are_listed_with_their_size_and_removed(tmp_path: Path) -> None:
    assert cached(tmp_path) == []
    folder = filled(tmp_path / "images", 3)
    for size in (16, 32):
        Opened(folder, tmp_path, image_size=size)
    found = cached(tmp_path)
    assert [source for source, *_ in found] == [str(folder)] * 2
    for _, size, place in found:
        side = json.loads((place / "packed.json").read_text())["image_size"]
        assert side**2 * 9 < size < side**2 * 9 + 3000
        remove_packed_folder(place)
    assert cached(tmp_path) == []


@pytest.mark.parametrize("content", ["[]", "7", "{", "{}", '{"image_size": "big"}', '{"source": 1}'])
def test_a_damaged_packed_folder_is_listed_and_packed_anew(tmp_path: Path, content: str) -> None:
    folder = filled(tmp_path / "images", 3)
    digest = Opened(folder, tmp_path / "data").data.fingerprint
    ((source, _, packed),) = cached(tmp_path / "data")
    (packed / "packed.json").write_text(content)
    assert [known for known, _, _ in cached(tmp_path / "data")] == ["1" if "source" in content else "(damaged)"]
    assert Opened(folder, tmp_path / "data", fingerprint=digest).data.fingerprint == digest
    assert [known for known, _, _ in cached(tmp_path / "data")] == [source]


def test_a_folder_that_is_being_packed_is_not_removed(tmp_path: Path) -> None:
    def meanwhile(done: int, total: int) -> None:
        ((_, _, place),) = cached(tmp_path)
        with pytest.raises(TroupeError) as caught:
            remove_packed_folder(place)
        assert caught.value.code == CONFLICT
        assert [(one.code, one.about) for one in caught.value.problems] == [("held", str(place))]
        assert place.exists()

    data = open_data(f"imagefolder:{filled(tmp_path / 'images', 1)}", data_dir=tmp_path, progress=meanwhile)
    assert data.size == 1


def test_floats_between_0_and_1_are_no_longer_black() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for brightest, expected in ((1.0, 255), (0.5, 128), (200.0, 200), (1000.0, 255)):
        pixels = decoded(Image.fromarray(ramp * brightest), "tiff", 8, 1)[:, :, 0]
        assert pixels[0, 0] == 0
        assert abs(int(pixels[7, 7]) - expected) <= 1, brightest
    assert decoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "tiff", 8, 1).max() == 0


def test_a_folder_that_cannot_be_read_is_told_and_not_left_out(tmp_path: Path, sentences: Sentences) -> None:
    folder = filled(tmp_path / "images" / "cat", 3).parent
    filled(folder / "dog", 3)
    (folder / "dog").chmod(0)
    tmp_path.chmod(0o755)
    before = os.geteuid()
    if before == 0:
        for above in tmp_path.parents:
            if above.name.startswith(("pytest-", "popen-")):  # of these tests, and of nobody else
                above.chmod(0o755)
        os.seteuid(65534)  # nobody: root may read everything
    try:
        with pytest.raises(TroupeError) as told:
            scan_folder(folder)
    finally:
        os.seteuid(before)
        (folder / "dog").chmod(0o755)
    assert told.value.code == ENVIRONMENT
    assert [(one.code, one.about) for one in told.value.problems] == [("not-read", str(folder / "dog"))]
    sentences(told.value.problems)


def test_what_was_passed_over_is_counted_by_kind(tmp_path: Path) -> None:
    folder = filled(tmp_path / "images" / "cat", 2).parent
    (folder / "dog").mkdir()
    for name in ("a.xcf", "b.XCF", "c.raw", "README", ".hidden"):
        (folder / "dog" / name).touch()
    (folder / "cat" / "gone.png").symlink_to("nowhere")
    (folder / "bird").mkdir()
    found = scan_folder(folder)
    assert found.passed == {".xcf": 2, ".raw": 1, "README": 1, "broken links": 1}
    assert arranged(found, "").bare == {"bird": "it is empty", "dog": "it holds 2 .xcf, 1 .raw, 1 README"}
    save(folder / "beside.png")
    assert arranged(scan_folder(folder), "").bare == {}, "with an image beside them folders are no classes"


def test_a_class_all_of_whose_images_are_held_out_is_told(tmp_path: Path) -> None:
    train, test = (Part(np.zeros((len(labels), 8, 8, 1), np.uint8), np.array(labels)) for labels in ([0, 0, 2, 2], [1]))
    data = ImageData(train, test, fingerprint="x", class_names=("a", "b", "c"), lost_classes={"d": "it is empty"})
    assert data.facts["lost_classes"] == {"d": "it is empty", "b": "all of its images are held out"}


@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow reads no AVIF")
def test_avif_is_read_where_pillow_can(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(3):
            save(tmp_path / "images" / name / f"{number}.avif", (40 * number, 0, 0))
    data = Opened(tmp_path / "images", tmp_path).data
    assert data.facts["class_names"] == ("cat", "dog")
    assert data.size + data.held_out == 6


def test_heic_is_read_where_its_plugin_is_there_and_counted_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "images", 2)
    (tmp_path / "images" / "000.png").rename(tmp_path / "images" / "photo.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    monkeypatch.setattr(Image, "EXTENSION", {end: form for end, form in Image.registered_extensions().items()
                                             if end != ".heic"})  # fmt: skip
    extensions.cache_clear()
    assert scan_folder(tmp_path / "images").passed == {".heic": 1}
    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: Image.register_extension("HEIF", ".heic")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    extensions.cache_clear()
    try:
        assert [image.path for image in scan_folder(tmp_path / "images").images] == ["001.png", "photo.heic"]
    finally:
        extensions.cache_clear()
