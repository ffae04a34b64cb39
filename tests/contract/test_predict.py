"""`troupe predict` takes files for what an evaluation takes them for, and what an export tells anybody to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from sentences import Sentences
from tiers import long, slow
from torch import Tensor, nn
from torch.nn.functional import pad
from wrong import Wrong

from cluster import predict, train
from cluster.cli import main
from cluster.inspection import export
from cluster.ranking.leaderboard import FINISHED, Search, TrialRecord
from trainers.base.errors import ENVIRONMENT, FAILED, USAGE, TroupeError
from trainers.data.digits import FILE
from trainers.families import registry
from trainers.families.classification.settings import ClassificationConfig

FAMILIES = [name for name in registry.families() if issubclass(registry.config_class(name), ClassificationConfig)]
SMALL = {"model": "mlp_relu", "batch_size": 16, "microbatch_size": 8, "steps": 3, "schedule": "constant",
         "evaluate_every": 0}  # fmt: skip


def noise(path: Path, seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB", **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(seed)
    pixels = random.randint(0, 256, (6, 8, 4 if mode == "RGBA" else 3), np.uint8)
    Image.fromarray(pixels).resize(size).convert(mode).save(path, **how)


def pets(folder: Path) -> Path:
    """`train` and `test`, of images that differ in size, format and colours."""
    for part, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(("cat", "dog", "ox")):
            for number in range(count):
                noise(folder / part / name / f"{number}.png", 1000 * label + 10 * number + len(part))
    for name in ("cat", "dog", "ox"):
        exif = Image.Exif()
        exif[0x0112] = 6
        noise(folder / "test" / name / "turned.jpg", 1, (400, 250), exif=exif)
        noise(folder / "test" / name / "clear.png", 2, mode="RGBA")
        noise(folder / "test" / name / "palette.gif", 3, mode="P")
        noise(folder / "test" / name / "grey.tiff", 4, mode="L")
    return folder


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def learned(room: Path, family: str = "classifier", **words: Any) -> None:
    said = {**SMALL, "data": f"imagefolder:{pets(room / 'pets')}", "image_size": 16, **words}
    train(family, name="run", data_dir=room / "data", **said)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout and the lines on stderr."""
    capsys.readouterr()
    code = main.command(list(words))
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def evaluated(room: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    code, out, err = said(capsys, "evaluate", "run", "--json", "--data-dir", str(room / "data"))
    assert code == 0, err
    result = json.loads(out)["result"]
    return {**result["metrics"], "samples": result["samples"]}


def assert_as_evaluated(found: dict[str, Any], metrics: dict[str, float]) -> None:
    """Accuracy and loss, from the probabilities of files that lie in the folder of their class."""
    truth = [Path(one["file"]).parent.name for one in found["predictions"]]
    assert len(truth) == metrics["samples"]
    sure = [one["probabilities"][name] for one, name in zip(found["predictions"], truth, strict=True)]
    right = [one["class"] == name for one, name in zip(found["predictions"], truth, strict=True)]
    assert np.mean(right) == pytest.approx(metrics["eval_accuracy"], abs=1e-9)
    assert -np.log(sure).mean() == pytest.approx(metrics["eval_loss"], rel=1e-3)


@pytest.mark.parametrize("family", [FAMILIES[0], *slow(*FAMILIES[1:])])
def test_files_are_taken_for_what_the_evaluation_took_them_for(
    family: str, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = next(iter(registry.config_class(family).tiny.values()))
    data = f"imagefolder:{pets(room / 'pets')}"
    train(family, name="run", data_dir=room / "data", **{**tiny, "data": data, "image_size": 32, "steps": 3})
    found = predict("run", room / "pets" / "test")
    assert found["classes"] == ["cat", "dog", "ox"]
    assert_as_evaluated(found, evaluated(room, capsys))
    for one in found["predictions"]:
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["probability"] == max(one["probabilities"].values()) == one["probabilities"][one["class"]]


@pytest.mark.parametrize("size", ["28", *slow("32", "24", "48")])
def test_files_of_a_set_that_is_padded_are_padded_as_it_is(
    room: Path, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    """MNIST's digits are 28 pixels wide, and have a border of zeros among 32."""
    train("classifier", name="run", **{**SMALL, "data": "digits", "image_size": size, "steps": 20})
    with np.load(FILE) as file:
        for number, (pixels, label) in enumerate(zip(file["test_images"], file["test_labels"], strict=True)):
            path = room / "digits" / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    assert_as_evaluated(predict("run", room / "digits"), evaluated(room, capsys))


def as_told(file: Path, told: dict[str, Any]) -> Tensor:
    """What `input` in the config of an export says of a file, with Pillow and torch: (1, channels, size, size)."""
    crop = told["crop_to"]
    with Image.open(file) as opened:
        opened.draft(None, (2 * crop, 2 * crop))
        image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert(told["mode"]), (crop, crop), Image.Resampling.LANCZOS)
    before = (told["pad_to"] - crop) // 2
    wide = Image.new(told["mode"], (told["pad_to"], told["pad_to"]))
    wide.paste(image, (before, before))
    if told["resize_to"] != told["pad_to"]:
        wide = wide.resize((told["resize_to"], told["resize_to"]), Image.Resampling.LANCZOS)
    pixels = torch.tensor(np.asarray(wide), dtype=torch.float32).view(*wide.size, -1).permute(2, 0, 1)
    mean, deviation = (torch.tensor(told[name]).view(-1, 1, 1) for name in ("mean", "deviation"))
    return ((pixels - 255 * mean) / (255 * deviation))[None]


def probabilities(network: nn.Module, image: Tensor, told: dict[str, Any]) -> list[float]:
    """By the views that it tells of."""
    total = torch.zeros(len(told["classes"]))
    side = told["image_size"]
    with torch.no_grad():
        for view in told["views"]:
            seen = image
            down, right = view["moved"]
            if down or right:
                seen = pad(seen, (1, 1, 1, 1), "reflect")[
                    :, :, 1 - down : 1 - down + side, 1 - right : 1 - right + side
                ]
            seen = seen.flip(3) if view["mirrored"] else seen
            total += view["weight"] * network(seen)[0]
    found: list[float] = total.softmax(0).tolist()
    return found


@pytest.mark.parametrize(
    ("family", "data"),
    [(FAMILIES[0], "pets"), *slow((FAMILIES[0], "digits"), *((family, "pets") for family in FAMILIES[1:])),
     *long(*((family, "digits") for family in FAMILIES[1:]))],
)  # fmt: skip
def test_an_export_tells_how_a_file_becomes_what_its_network_wants(family: str, data: str, room: Path) -> None:
    """Pillow, torch and config.json give the same probabilities."""
    folder = pets(room / "pets")
    tiny = next(iter(registry.config_class(family).tiny.values()))
    words = {**tiny, "data": data if data == "digits" else f"imagefolder:{folder}", "image_size": 32, "steps": 3}
    train(family, name="run", data_dir=room / "data", **words)
    assert main.command(["export", "run"]) == 0
    told = json.loads((room / "run-export" / "config.json").read_text())["input"]
    network = export.load_exported("run-export")["network"]
    found = predict("run-export", folder / "test")["predictions"]
    assert len(found) == 27
    for one in found:
        own = probabilities(network, as_told(Path(one["file"]), told), told)
        assert own == pytest.approx([one["probabilities"][name] for name in told["classes"]], abs=2e-5), one["file"]


def test_a_net_of_matrices_can_be_rebuilt_without_troupe_altogether(room: Path) -> None:
    learned(room)
    main.command(["export", "run"])
    told = json.loads((room / "run-export" / "config.json").read_text())["input"]
    tensors = load_file("run-export/weights.safetensors")
    weights = [name for name in sorted(tensors) if name.endswith(".weight")]
    (one, *_) = predict("run", room / "pets" / "test" / "cat")["predictions"]
    seen = as_told(Path(one["file"]), told).flatten()
    for place, name in enumerate(weights):
        seen = tensors[name] @ seen + tensors[name.replace(".weight", ".bias")]
        seen = seen.relu() if place + 1 < len(weights) else seen
    assert seen.softmax(0).tolist() == pytest.approx(list(one["probabilities"].values()), abs=1e-5)


def test_a_table_names_class_probability_and_next_best_in_natural_order(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned(room)
    for number in (10, 9, 1):
        noise(room / "new" / f"{number}.png", number)
        noise(room / "new" / f"deep {number}" / "one.JPG", number)
    (room / "new" / "notes.txt").write_text("no image")
    (room / "new" / ".hidden.png").write_bytes(b"")
    code, out, err = said(capsys, "predict", "run", "new", "pets/test/ox/0.png")
    assert (code, err) == (0, [])
    head, *rows, passed = out.splitlines()
    assert head.split() == ["file", "class", "probability", "next", "best"]
    assert [row.split("  ")[0] for row in rows] == [
        "new/1.png", "new/9.png", "new/10.png", "new/deep 1/one.JPG", "new/deep 9/one.JPG", "new/deep 10/one.JPG",
        "pets/test/ox/0.png",
    ]  # fmt: skip
    assert passed == "skipped files that are not images: 1 .txt"
    found = predict("run", "new/1.png")["predictions"][0]
    ranked = sorted(found["probabilities"].items(), key=lambda item: -item[1])
    for count in (1, 3):
        *_, row = said(capsys, "predict", "run", "new/1.png", "--top", str(count))[1].splitlines()
        cells = [f"{ranked[0][1]:.1%}", *(f"{name} {share:.1%}" for name, share in ranked[1:count])]
        assert row.split() == ["new/1.png", ranked[0][0], *", ".join(cells).replace("%,", "%", 1).split()]


def test_json_has_every_probability_as_a_number_or_so_many_as_were_asked_for(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned(room)
    code, out, _ = said(capsys, "predict", "run", "pets/test/cat/0.png", "--json")
    (one,) = json.loads(out)["result"]["predictions"]
    assert code == 0
    assert list(one["probabilities"]) == ["cat", "dog", "ox"]
    assert all(isinstance(share, float) for share in one["probabilities"].values())
    out = said(capsys, "predict", "run", "pets/test/cat/0.png", "--json", "--top", "2")[1]
    (two,) = json.loads(out)["result"]["predictions"]
    assert list(two["probabilities"].values()) == sorted(one["probabilities"].values(), reverse=True)[:2]


def test_broken_images_are_told_the_others_predicted_and_the_exit_code_says_so(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    learned(room)
    for number in range(70):  # more than are seen at once
        noise(room / "new" / f"{number}.png", number)
    (room / "new" / "3.png").write_bytes((room / "new" / "3.png").read_bytes()[:60])
    (room / "new" / "69.png").write_text("text")
    code, out, err = said(capsys, "predict", "run", "new")
    assert code == FAILED
    assert len(out.splitlines()) == 1 + 68
    assert wrong.kinds == [("not-read", "new/3.png"), ("not-read", "new/69.png")]
    assert err == wrong.lines
    sentences(wrong.problems)
    found = json.loads(said(capsys, "predict", "run", "new", "--json")[1])["result"]
    assert [one["file"] for one in found["unreadable"]] == ["new/3.png", "new/69.png"]
    alone = {one["file"]: one["probabilities"] for one in predict("run", *sorted((room / "new").glob("[5-6]?.png"))[:5])
             ["predictions"]}  # fmt: skip
    for one in found["predictions"]:
        if (near := alone.get(str(room / one["file"]))) is not None:
            assert one["probabilities"] == pytest.approx(near, abs=1e-6)


def test_runs_trials_the_best_of_a_search_and_exports_are_known_by_their_names(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    learned(room)
    search = Search(room / "runs" / "s", {"family": "classifier", "metric": "eval_accuracy", "mode": "max", "seed": 0})
    for number, value in ((1, 0.2), (7, 0.9)):
        record = TrialRecord(number, {}, FINISHED, 3, 3, value, value, 3, 1.0)
        search.trials.append(record)
        folder = search.folder(record).path
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(room / "runs" / "run", folder)
    search.write()
    main.command(["export", "run", "--out", "out"])
    expected = predict("run", "pets/test/cat")["predictions"]
    for words in (("s/0007",), ("s", "--best"), ("out",), ("runs/run",)):
        code, out, err = said(capsys, "predict", *words, "pets/test/cat", "--json")
        assert code == 0, err
        assert json.loads(out)["result"]["predictions"] == expected
    out = said(capsys, "predict", "s", "--best", "pets/test/cat", "--json")[1]
    assert json.loads(out)["result"]["name"] == "s/0007"
    code, _, err = said(capsys, "predict", "s", "pets/test/cat")
    assert (code, wrong.kinds) == (USAGE, [("not-a-run", "s")])
    assert err == wrong.lines
    sentences(wrong.problems)


def test_what_cannot_be_is_told_all_at_once(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    code, _, err = said(capsys, "predict", "nothing", "gone.png", "a=b.png")
    assert (code, wrong.kinds) == (
        USAGE, [("unknown-run", "nothing"), ("missing-file", "gone.png"), ("missing-file", "a=b.png")],
    )  # fmt: skip
    assert err == wrong.lines
    sentences(wrong.problems)
    assert said(capsys, "predict", "nothing")[2] == wrong.lines
    assert wrong.kinds == [("missing", "predict")]
    sentences(wrong.problems)
    learned(room)
    (room / "empty").mkdir()
    with pytest.raises(TroupeError) as told:
        predict("run", "empty")
    assert told.value.code == ENVIRONMENT
    assert [(one.code, one.about) for one in told.value.problems] == [("no-images", "empty")]
    assert "png, jpg" in told.value.problems[0].hint  # and what else Pillow knows here
    (room / "out").mkdir()
    (room / "out" / "weights.safetensors").touch()
    code, _, err = said(capsys, "predict", "out", "pets")
    assert (code, wrong.kinds) == (USAGE, [("missing-file", "out")])
    assert err == wrong.lines
    sentences(wrong.problems)


def test_what_is_no_file_and_a_word_that_is_empty_are_refused(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    os.mkfifo(room / "pipe.png")
    code, _, err = said(capsys, "predict", "nothing", "pipe.png", "/dev/zero")
    assert (code, wrong.kinds) == (
        USAGE, [("unknown-run", "nothing"), ("missing-file", "pipe.png"), ("missing-file", "/dev/zero")],
    )  # fmt: skip
    assert err == wrong.lines
    sentences(wrong.problems)
    code, _, err = said(capsys, "predict", "nothing", "")
    assert (code, wrong.kinds[0]) == (USAGE, ("missing", "predict"))
    assert err == wrong.lines
    sentences(wrong.problems)


def test_names_that_a_terminal_would_obey_are_shown_as_they_are_written(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("\x1b[31mred", "new\nline")):
        for place in range(12):
            noise(room / "odd" / name / f"{place}.png", 100 * number + place)
    small = [f"{key}={value}" for key, value in SMALL.items()]
    code, out, _ = said(capsys, "train", "classifier", "data=imagefolder:odd", *small, "image_size=16", "--name", "run",
                        "--data-dir", "data")  # fmt: skip
    assert code == 0
    assert r"2 classes (\x1b[31mred, new\nline)" in out
    code, out, _ = said(capsys, "predict", "run", "odd")
    assert code == 0
    assert "\x1b" not in out
    assert len(out.splitlines()) == 1 + 24


def test_a_gan_is_told_in_a_line(
    room: Path, capsys: pytest.CaptureFixture[str], wrong: Wrong, sentences: Sentences
) -> None:
    small = {"image_size": 16, "width": 4, "latent_dim": 4, "batch_size": 8, "microbatch_size": 4}
    train("dcgan", name="gan", data="digits", steps=1, evaluate_every=0, **small)
    noise(room / "one.png", 1)
    for name in ("gan", "gan-export"):
        main.command(["export", "gan"])
        assert said(capsys, "predict", name, "one.png") == (USAGE, "", wrong.lines)
        assert wrong.kinds == [("predicts-nothing", name)]
        sentences(wrong.problems)
    assert "input" not in json.loads((room / "gan-export" / "config.json").read_text())
