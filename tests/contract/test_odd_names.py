"""Names of files that are not UTF-8, as old archives leave them, from training to what is drawn and told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wrong import Wrong

from cluster.cli import main
from trainers.base.errors import FAILED

CLASSES = {b"caf\xe9": r"caf\xe9", b"dog": "dog", "狗".encode(): "狗"}  # as they are, and as they are told
WORDS = ("model=mlp_relu", "image_size=8", "batch_size=16", "microbatch_size=8", "steps=3", "schedule=constant")


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty images of noise, and a file that is none, in each of three classes."""
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    for name in CLASSES:
        folder = os.fsencode(tmp_path / "pets") + b"/" + name
        os.makedirs(folder)
        for number in range(30):
            image = Image.fromarray(random.randint(0, 256, (8, 8), np.uint8))
            with open(folder + b"/\xfe%d.png" % number, "wb") as file:
                image.save(file, "png")
        for odd in (b"br\xe9ken.png", b"notes.\xe9"):
            with open(folder + b"/" + odd, "wb") as file:
                file.write(b"no image")
    return tmp_path / "pets"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout and the lines on stderr; all of it must be text that can be encoded."""
    capsys.readouterr()
    code = main.command(list(words))
    out, err = capsys.readouterr()
    assert (out + err).encode()
    return code, out, err.splitlines()


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    _, out, _ = said(capsys, *words, "--json")
    found = json.loads(out)
    assert json.dumps(found, ensure_ascii=False).encode()
    return found["result"]


def test_a_class_and_images_in_other_bytes_are_learned_drawn_told_and_predicted(
    pets: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong
) -> None:
    where = ("--data-dir", "data")
    code, out, _ = said(capsys, "train", "classifier", f"data=imagefolder:{pets}", *WORDS, "--name", "run", *where)
    assert code == 0, out
    assert r"3 classes (caf\xe9, dog, 狗)" in out
    assert r"not images: 3 .\xe9" in out
    assert "3 unreadable images were skipped" in out
    (report,) = Path("data").glob("packed/*/unreadable.txt")
    assert [line.split("\t")[0] for line in report.read_text().splitlines()] == [
        rf"{name}/br\xe9ken.png" for name in CLASSES.values()
    ]
    assert Path("runs/run/confusion.png").exists()
    assert said(capsys, "train", "--resume", "run", "steps=4", *where)[0] == 0
    assert answer(capsys, "evaluate", "run", *where)["samples"] == 9
    found = answer(capsys, "predict", "run", str(pets))
    assert found["classes"] == list(CLASSES.values())
    assert [one["file"] for one in found["predictions"]][:2] == [
        rf"{pets}/caf\xe9/\xfe0.png", rf"{pets}/caf\xe9/\xfe1.png",
    ]  # fmt: skip
    code, out, err = said(capsys, "predict", "run", str(pets))
    assert code == FAILED
    assert ("not-read", rf"{pets}/caf\xe9/br\xe9ken.png") in wrong.kinds
    assert [line for line in wrong.lines if line not in err] == []
    assert r"files that are not images: 3 .\xe9" in out
    for words in (("export", "run"), ("report", "run"), ("runs",)):
        assert said(capsys, *words)[0] == 0
    config = json.loads(Path("run-export/config.json").read_text())
    assert config["input"]["classes"] == list(CLASSES.values())


def test_the_samples_of_a_folder_are_the_same_in_every_locale(pets: Path) -> None:
    code = ("from pathlib import Path; import sys; from trainers.data.sources import open_data\n"
            "data = open_data(sys.argv[1], data_dir=Path('data'), image_size=16, evaluate_on='test')\n"
            "print(sys.getfilesystemencoding(), data.fingerprint)")  # fmt: skip
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    told = [
        subprocess.run([sys.executable, "-c", code, f"imagefolder:{pets}"], capture_output=True, text=True, check=True,
                       env={**os.environ, **words}).stdout.split()
        for words in (plain, {"PYTHONUTF8": "1"})
    ]  # fmt: skip
    assert [encoding for encoding, _ in told] == ["ascii", "utf-8"]
    assert told[0][1] == told[1][1]
    assert len(list(Path("data/packed").glob("*.lock"))) == 1, "packed once"


def test_a_folder_in_other_bytes_can_be_learned_from(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = os.fsdecode(os.fsencode(pets) + b"\xff")
    pets.rename(odd)
    for stream in (sys.stdout, sys.stderr):  # as `cli.main` does
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    words = ("train", "classifier", f"data=imagefolder:{odd}", *WORDS, "--name", "run", "--data-dir", "data")
    assert main.command(words) == 0
    assert rf"data=imagefolder:{pets}\xff: skipped files that are not images" in capsys.readouterr().out
    for words in (("evaluate", "run", "--data-dir", "data"), ("report", "run"), ("export", "run")):
        assert main.command(words) == 0, words
    assert answer(capsys, "datasets", "--data-dir", "data")["packed"][0]["source"] == rf"{pets}\xff"
    assert main.command(("datasets", "--data-dir", "data", "--remove", rf"{pets}\xff")) == 0
