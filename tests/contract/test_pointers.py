"""A pointer of git-lfs in place of a file is named as such, with the command that fetches the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentences import Sentences
from tiers import slow
from wrong import Wrong

from cluster import predict
from cluster.cli import main
from trainers.base.errors import CONFLICT, ENVIRONMENT, FAILED, USAGE
from trainers.storage import checkpoint

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
MODEL = ("model=mlp_bn", "image_size=8", "batch_size=16", "microbatch_size=8")
TRAIN = ("train", "classifier", *MODEL, "steps=1", "device=cpu", "--data-dir", "data")
PETS = (*TRAIN, "data=imagefolder:pets", "--name", "new")
GAN = ("train", "dcgan", "image_size=16", "width=4", "latent_dim=8", "batch_size=8", "microbatch_size=4", "steps=1")


PLACES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "an image to predict": ("x.png", ("predict", "run", "x.png"), FAILED),
    "weights of torch to begin with": ("w.pt", (*PETS, "--init-from", "w.pt"), CONFLICT),
    "weights to begin with": ("w.safetensors", (*PETS, "--init-from", "w.safetensors"), CONFLICT),
    "weights to evaluate": (
        "w.pth",
        ("evaluate", "classifier", *MODEL, "data=imagefolder:pets", "--data-dir", "data", "--weights", "w.pth"),
        CONFLICT,
    ),
    "weights of an export": ("out/weights.safetensors", ("predict", "out", "pets"), CONFLICT),
    "config of an export": ("out/config.json", ("predict", "out", "pets"), CONFLICT),
    "a checkpoint": (
        "runs/run/checkpoints/*/state.pt", ("train", "--resume", "run", "steps=2", "--allow-changes"),
        CONFLICT,
    ),
    "a judge": ("w.pt", (*GAN, "data=digits", "features=resnet20:w.pt"), CONFLICT),
    "a file of a data set": ("data/mnist/train-images-idx3-ubyte.gz", (*TRAIN, "data=mnist"), ENVIRONMENT),
}  # fmt: skip
FIRST = ("an image to predict", "weights of torch to begin with", "weights of an export")


@pytest.mark.parametrize("what", [*FIRST, *slow(*(what for what in PLACES if what not in FIRST))])
def test_a_pointer_is_named_where_a_file_is_expected(what: str, room: Path, wrong: Wrong, sentences: Sentences) -> None:
    place, words, code = PLACES[what]
    for path in sorted(room.glob(place)) or [room / place]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(POINTER)
    assert main.command([*words]) == code
    (problem,) = wrong.problems
    assert "git-lfs pointer" in problem.reason
    assert "git lfs pull" in problem.hint
    sentences([problem])


def test_a_manifest_beside_a_pointer_is_the_same_damage(room: Path) -> None:
    path = room / "runs/run/checkpoints/step_00000001"
    (path / "state.pt").write_text(POINTER)
    assert checkpoint.damage_of(path) == "state.pt is a git-lfs pointer"


def test_an_image_that_cannot_be_predicted_has_the_reason_of_one_that_cannot_be_learned(room: Path) -> None:
    for name, content in {"a.png": POINTER, "b.png": "", "c.png": "\0" * 9, "d.png": "<!DOCTYPE html>"}.items():
        (room / name).write_text(content)
    found = predict("run", *sorted(room.glob("?.png")))["unreadable"]
    assert [one["why"] for one in found] == ["git-lfs pointer", "empty file", "only zeros", "web page"]


def test_held_out_images_that_are_all_pointers_are_named(
    room: Path, wrong: Wrong, sentences: Sentences, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (room / "pets" / "test").rglob("*.png"):
        file.write_text(POINTER)
    assert main.command([*PETS]) == 0
    out = capsys.readouterr().out
    assert "none of the held-out images can be read (git-lfs pointer): nothing is evaluated" in out
    assert "lists them; fetch them with `git lfs pull`" in out
    assert main.command(["evaluate", "new"]) == USAGE
    assert "none of the held-out images can be read (git-lfs pointer)" in wrong.problems[0].reason
    sentences(wrong.problems)
    assert main.command([*GAN, "data=imagefolder:pets", "evaluate_every=1", "--data-dir", "data"]) == USAGE
    assert "git-lfs pointer" in wrong.problems[0].reason
