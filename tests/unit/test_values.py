"""Images whose values fill little of their range, or leave it: what is told, and how the range is said."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentences import Sentences

from trainers.data.image_folders.decoding import preprocessed, preprocessing
from trainers.data.images import ImageData
from trainers.data.sources import open_data
from trainers.families import registry

PIXELS = np.arange(256).reshape(16, 16)  # from black to white


def saved(folder: Path, most: float, kind: Any, least: float = 0, count: int = 3, end: str = "tif") -> Path:
    """Images of one ramp each, with values of this kind from `least` to `most`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        numbers = np.roll(least + PIXELS / 255 * (most - least), number, 0).astype(kind)
        Image.fromarray(numbers).save(folder / f"{number}.{end}")
    return folder


def opened(folder: Path, said: list[str] | None = None, **how: Any) -> ImageData:
    said = [] if said is None else said
    with tempfile.TemporaryDirectory() as room:
        data: ImageData = open_data(
            f"imagefolder:{folder}", data_dir=Path(room), image_size=16, warn=said.append, **how
        )
    return data


def pixels(data: ImageData) -> Any:
    return data.batch(range(data.size))["images"].numpy()


def kept(range_of_values: str) -> Any:
    """As a command line says it."""
    return registry.config_class("dcgan").of({"value_range": range_of_values}).model_dump()["value_range"]


ODD: dict[str, tuple[float, float, Any, str]] = {
    "12 bits in 16": (0, 4095, np.uint16, "0:4095"),
    "8 bits in 16": (0, 255, np.uint16, "0:255"),
    "floats of 12 bits": (0, 4095, np.float32, "0:4095"),
    "dark floats": (0, 0.05, np.float32, "0:0.05"),
    "floats of both signs": (-1, 1, np.float32, "-1:1"),
    "Hounsfield": (-1024, 3071, np.int32, "-1024:3071"),
    "masks": (0, 1, np.uint8, "0:1"),
    "few numbers far up": (30000, 30100, np.uint16, "30000:30100"),
}


@pytest.mark.parametrize(("least", "most", "kind", "say"), ODD.values(), ids=ODD)
def test_values_that_fill_little_or_leave_their_range_are_told_with_how_to_say_it(
    tmp_path: Path, sentences: Sentences, least: float, most: float, kind: Any, say: str
) -> None:
    folder, said = saved(tmp_path / "scans", most, kind, least), list[str]()
    before = opened(folder, said)
    (line,) = said
    assert f"have values from {least:g} to {most:g}" in line
    assert f"value_range={say}," in line
    sentences(said)
    after = opened(folder, said, value_range=kept(say))
    assert len(said) == 1, "nothing more is told"
    assert pixels(after).min() == 0
    assert pixels(after).max() == 255
    assert len(np.unique(pixels(after))) > len(np.unique(pixels(before))) * (1.9 if kind != np.uint8 else 0.9)
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("most", "kind"), [(65535, np.uint16), (9000, np.uint16), (1, np.float32), (200, np.float32), (255, np.uint8)]
)
def test_values_that_fill_their_range_are_not_spoken_of(tmp_path: Path, most: float, kind: Any) -> None:
    said: list[str] = []
    opened(saved(tmp_path / "scans", most, kind), said)
    assert said == []


def test_a_dead_pixel_and_one_image_of_many_hide_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(20):
        numbers = np.tile(PIXELS * 16, (4, 4)).astype(np.uint16)
        numbers[0, 0] = 65535
        Image.fromarray(numbers if number else numbers * 16).save(folder / f"{number}.png")
    said: list[str] = []
    opened(folder, said)
    assert [line.count("use value_range=0:4095") for line in said] == [1]


@pytest.mark.parametrize(
    ("small", "large", "kind", "most", "white", "say"),
    [(18, 2, np.uint16, 4095, 65535, "0:4095"), (10, 10, np.uint16, 4095, 65535, "0:4095"),
     (2, 18, np.uint16, 255, 65535, "0:255"), (10, 10, np.float32, 0.05, 1, "0:0.05"),
     (10, 10, np.uint8, 1, 255, "0:1")],
)  # fmt: skip
def test_images_that_fill_little_of_the_range_of_others_are_told(
    tmp_path: Path, sentences: Sentences, small: int, large: int, kind: Any, most: float, white: float, say: str
) -> None:
    saved(tmp_path / "scans" / "few", most, kind, count=small)
    saved(tmp_path / "scans" / "full", white, kind, count=large)
    said: list[str] = []
    opened(tmp_path / "scans", said)
    (line,) = [one for one in said if "all of its images" not in one]
    assert f"{small} of its {small + large} " in line
    assert f"values from 0 to {most:g}, under a tenth of the 0 to {white:g}" in line
    assert f"value_range={say}," in line
    sentences([line])
    for value_range in (kept(say), "full"):
        opened(tmp_path / "scans", said := [], value_range=value_range)
        assert said == []


def test_a_few_dark_images_and_blank_ones_are_not_spoken_of(tmp_path: Path) -> None:
    saved(tmp_path / "scans", 255, np.uint8, count=20)
    for number in range(5):
        Image.fromarray(np.full((16, 16), 255 * (number % 2), np.uint8)).save(tmp_path / "scans" / f"blank{number}.tif")
    saved(tmp_path / "scans" / "dark", 9, np.uint8, count=1)
    said: list[str] = []
    opened(tmp_path / "scans", said)
    assert [line for line in said if "values" in line] == []


def test_full_is_the_same_pixels_and_nothing_is_told(tmp_path: Path) -> None:
    folder, said = saved(tmp_path / "scans", 4095, np.uint16), list[str]()
    full = opened(folder, said, value_range="full")
    assert said == []
    assert (pixels(full) == pixels(opened(folder))).all()
    assert full.fingerprint != opened(folder).fingerprint


def test_a_range_cuts_what_lies_beyond_it_in_grey_and_in_colour(tmp_path: Path) -> None:
    folder = saved(tmp_path / "scans", 4095, np.uint16)
    window = pixels(opened(folder, value_range=(1000.0, 2000.0)))
    share = ((window > 0) & (window < 255)).mean()
    assert 0.2 < share < 0.28
    Image.fromarray(np.stack([PIXELS] * 3, 2).astype(np.uint8)).save(tmp_path / "scans" / "9.png")
    colour = opened(folder, value_range=(0.0, 100.0))
    assert colour.facts["channels"] == 3
    assert (pixels(colour) == 255).mean() > 0.5


def test_each_range_has_a_packed_copy_of_its_own(tmp_path: Path) -> None:
    folder = saved(tmp_path / "scans", 4095, np.uint16)
    found = {
        value_range: open_data(f"imagefolder:{folder}", data_dir=tmp_path, image_size=16, value_range=value_range)
        for value_range in ("auto", (0.0, 4095.0), "auto")
    }
    assert len(list((tmp_path / "packed").glob("*/packed.json"))) == 2
    assert pixels(found["auto"]).max() == 16
    assert pixels(found[0.0, 4095.0]).max() == 255


def test_a_file_is_seen_as_it_was_learned(tmp_path: Path) -> None:
    folder = saved(tmp_path / "scans", 4095, np.uint16)
    data = opened(folder, value_range=(0.0, 4095.0))
    facts = json.loads(json.dumps(dict(data.facts)))  # as a run keeps them
    learned = {image.tobytes() for image in pixels(data)}
    seen = {preprocessed(path.read_bytes(), facts)[..., 0].tobytes() for path in folder.iterdir()}
    assert learned <= seen
    assert any("values from 0 to 4095" in step for step in preprocessing(facts)["steps"])


@pytest.mark.parametrize("word", ["4095:0", "5:5", "0:1:2", "7", "wide", "nan:1", "0:1e30"])
def test_what_is_no_range_is_told(word: str, sentences: Sentences) -> None:
    config, problems = registry.config_class("classifier").from_words({"value_range": word})
    assert config is None
    assert [(one.code, one.about) for one in problems] == [("bad-value", "value_range")]
    sentences(problems)


def test_colours_of_sixteen_bits_that_hold_twelve_are_told(tmp_path: Path) -> None:
    """Pillow reads such files as 8 bits."""
    (tmp_path / "scans").mkdir()
    for number in range(3):
        row = b"".join(struct.pack(">3H", *[number + 16 * column] * 3) for column in range(256))
        head = b"IHDR" + struct.pack(">IIBBBBB", 256, 1, 16, 2, 0, 0, 0)
        chunks = (head, b"IDAT" + zlib.compress(b"\0" + row), b"IEND")
        parts = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks]
        (tmp_path / "scans" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    said: list[str] = []
    opened(tmp_path / "scans", said)
    assert ["use value_range=0:15," in line for line in said] == [True]


def test_a_setting_of_folders_that_changes_nothing_is_told() -> None:
    config = registry.config_class("classifier").of({"value_range": "0:4095", "folders": "classes", "data": "digits"})
    assert [line.partition(":")[0] for line in config.warnings()] == ["folders=classes", "value_range=0"]
    folder = config.model_copy(update={"data": "imagefolder:/pictures"})
    assert folder.warnings() == []


def test_grey_and_float_images_in_one_folder_are_each_told(tmp_path: Path) -> None:
    saved(tmp_path / "scans", 1, np.uint8, end="png")
    saved(tmp_path / "scans", 4095, np.float32)
    said: list[str] = []
    opened(tmp_path / "scans", said)
    assert sorted(line.partition("its ")[2].partition(" images")[0] for line in said) == ["8-bit", "float"]


def test_empty_and_blank_images_end_nothing(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "scans" / "0.tif")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "scans" / "1.tif")
    said: list[str] = []
    assert opened(tmp_path / "scans", said).size >= 1
    assert ["from 0 to 0" in line for line in said] == [True]
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "png")
    assert preprocessed(buffer.getvalue(), {"image_size": 8, "channels": 1}).max() == 0
