"""What is given to troupe, and what lies in its folders, is read and never executed: a pickle that would run a command
is refused in a line, wherever it lies and whatever it looks like."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sentences import Sentences
from tiers import slow
from wrong import Wrong

from cluster.cli import main
from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError
from trainers.base.problems import sentence
from trainers.data.images import Part
from trainers.data.packed import pack
from trainers.data.torchvision_sets import KNOWN
from trainers.families.adversarial.judges import Inception
from trainers.storage import atomic_files, cache, checkpoint

MODEL = ("classifier", "model=mlp_bn", "image_size=8", "batch_size=16", "microbatch_size=8")
TRAIN = ("train", *MODEL, "steps=1", "device=cpu", "--data-dir", "data")
GAN = ("train", "dcgan", "image_size=16", "width=4", "latent_dim=8", "batch_size=8", "microbatch_size=4", "steps=1")
CHECKPOINT = Path("runs/run/checkpoints/step_00000001")


class Bomb:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


Place = Callable[[Bomb], None]


def at(path: str, how: Callable[[Any, Path], None]) -> Place:
    return lambda bomb: how(bomb, Path(path))


def pickled(bomb: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(bomb))


def as_torch_saves(bomb: Any, path: Path) -> None:
    torch.save({"network.1.weight": torch.zeros(2), "more": bomb}, path)


def as_torch_saved(bomb: Any, path: Path) -> None:
    torch.save({"more": bomb}, path, _use_new_zipfile_serialization=False)


def as_checkpoint(bomb: Any, path: Path) -> None:
    """With a manifest that proves it."""
    state = torch.load(path / "state.pt", weights_only=True)
    torch.save({**state, "more": bomb}, path / "state.pt")
    facts = checkpoint.manifest_of(path)
    digest, size = checkpoint.digest_of_file(path / "state.pt"), (path / "state.pt").stat().st_size
    facts["files"]["state.pt"] = {"bytes": size, "sha256": digest}
    (path / "manifest.json").write_text(atomic_files.sealed(facts))
    assert checkpoint.damage_of(path) is None


def as_array(bomb: Any, path: Path) -> None:
    np.save(path, np.array([bomb], object), allow_pickle=True)


def in_packed(bomb: Any, path: Path) -> None:
    as_array(bomb, of_packed(path.name))


def in_packed_zipped(bomb: Any, path: Path) -> None:
    with zipfile.ZipFile(of_packed(path.name), "w") as file:
        file.writestr("x.npy", pickle.dumps(bomb))


def of_packed(name: str) -> Path:
    """A file of the folder's packed form."""
    assert main.command([*TRAIN, "data=imagefolder:pets", "--name", "first"]) == 0
    (found,) = Path("data/packed").glob(f"*/{name}")
    return found


def as_packed(bomb: Any, path: Path) -> None:
    pack(path, path.name, *(Part(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int64)) for _ in range(2)),
         KNOWN[path.name].class_names)  # fmt: skip
    as_array(bomb, path / "train_labels.npy")


def as_downloaded(bomb: Any, path: Path) -> None:
    path.mkdir(parents=True)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        pickled(bomb, path / name)


def as_settings(bomb: Any, path: Path) -> None:
    path.write_text(f"family: classifier\nsteps: !!python/object/apply:os.mkdir ['{bomb.folder}']\n")


EVALUATE = ("evaluate", *MODEL, "data=imagefolder:pets", "--data-dir", "data", "--weights")
DATA = (*TRAIN, "data=imagefolder:pets", "--name", "new")
PLACES: dict[str, tuple[Place, tuple[str, ...], int]] = {
    "a pickle, to begin with": (at("w.pt", pickled), (*DATA, "--init-from", "w.pt"), CONFLICT),
    "weights, to begin with": (at("w.pth", as_torch_saves), (*DATA, "--init-from", "w.pth"), CONFLICT),
    "weights of an older torch": (at("w.th", as_torch_saved), (*DATA, "--init-from", "w.th"), CONFLICT),
    "weights that look safe": (at("w.safetensors", pickled), (*DATA, "--init-from", "w.safetensors"), CONFLICT),
    "weights to evaluate": (at("w.pt", as_torch_saves), (*EVALUATE, "w.pt"), CONFLICT),
    "an export to evaluate": (at("out/weights.safetensors", as_torch_saves), (*EVALUATE, "out"), CONFLICT),
    "an export to predict with": (at("out/weights.safetensors", pickled), ("predict", "out", "pets"), CONFLICT),
    "a checkpoint to go on from": (
        at(str(CHECKPOINT), as_checkpoint), ("train", "--resume", "run", "steps=2", "--allow-changes"), CONFLICT,
    ),
    "a checkpoint to begin with": (at(str(CHECKPOINT), as_checkpoint), (*DATA, "--init-from", "run"), CONFLICT),
    "a checkpoint to evaluate": (at(str(CHECKPOINT), as_checkpoint), ("evaluate", "run"), CONFLICT),
    "a checkpoint to predict with": (at(str(CHECKPOINT), as_checkpoint), ("predict", "run", "pets"), CONFLICT),
    "a checkpoint to export": (at(str(CHECKPOINT), as_checkpoint), ("export", "run", "--out", "other"), CONFLICT),
    "a judge": (at("w.pt", as_torch_saves), (*GAN, "data=digits", "features=resnet20:w.pt"), CONFLICT),
    "a run as a judge": (at(str(CHECKPOINT), as_checkpoint), (*GAN, "data=digits", "features=runs/run"), CONFLICT),
    "labels of a packed folder": (at("labels.npy", in_packed), DATA, ENVIRONMENT),
    "parts of a packed folder": (at("parts.npy", in_packed_zipped), DATA, ENVIRONMENT),
    "a packed data set": (at("data/cifar10", as_packed), (*TRAIN, "data=cifar10"), ENVIRONMENT),
    "a downloaded data set": (at("data/cifar-10-batches-py", as_downloaded), (*TRAIN, "data=cifar10"), ENVIRONMENT),
    "settings": (at("c.yaml", as_settings), ("train", "--config", "c.yaml", "data=digits"), USAGE),
}  # fmt: skip
FIRST = ("weights, to begin with", "weights that look safe", "a checkpoint to go on from", "labels of a packed folder")


@pytest.mark.parametrize("what", [*FIRST, *slow(*(what for what in PLACES if what not in FIRST))])
def test_a_pickle_is_refused_in_a_line_and_nothing_of_it_is_executed(
    what: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong, sentences: Sentences,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def nowhere(*_: Any, **__: Any) -> None:
        raise URLError("no network here")

    put, words, code = PLACES[what]
    put(Bomb(tmp_path / "exploded"))
    monkeypatch.setattr("urllib.request.urlopen", nowhere)
    capsys.readouterr()
    assert main.command([*words]) == code
    err = capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()
    assert len(wrong.problems) == 1, err
    (problem,) = wrong.problems
    assert problem.code in ("no-weights", "damaged", "not-downloaded", "bad-value"), problem
    assert (err.count("troupe: "), "Traceback" in err) == (1, False)
    sentences([re.sub("/packed/[0-9a-f]{16}", "/packed/KEY", sentence(problem))])


def test_what_was_computed_is_computed_anew_where_a_pickle_lies_in_its_place(tmp_path: Path) -> None:
    said: list[str] = []
    for place in (pickled, as_torch_saves):
        place(Bomb(tmp_path / "exploded"), tmp_path / "kept.safetensors")
        assert cache.read_cached(tmp_path / "kept.safetensors", said.append) is None
    assert len(said) == 2
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
def test_what_was_fetched_of_inception_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity would."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    as_torch_saves(Bomb(tmp_path / "exploded"), file)
    with pytest.raises(TroupeError) as caught:
        Inception(None)
    (problem,) = caught.value.problems
    assert (problem.code, problem.about, problem.value) == ("no-weights", "features", "inception")
    assert not (tmp_path / "exploded").exists()
