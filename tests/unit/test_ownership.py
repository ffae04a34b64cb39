"""Nothing is removed and nobody killed but what troupe has made, by a proof that stands in docs/removal.md."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentences import Sentences

from cluster import export, report, sample, train
from cluster.backend import local_ray
from cluster.inspection.manage_runs import remove_packed
from tests.folder_buckets import machine
from trainers.base.errors import CONFLICT, TroupeError
from trainers.data.imagefolder import cached, open_folder
from trainers.data.images import Part, Request
from trainers.data.packed import pack
from trainers.run_folders import contents, removal, run_folder
from trainers.storage import atomic_files, ownership

ROOT = Path(__file__).parents[2]
REMOVES = {"rmtree", "unlink", "rmdir", "removedirs", "rename", "renames", "truncate", "ftruncate", "delete_file",
           "delete_dir", "delete_dir_contents", "remove_placement_group", "TemporaryDirectory"}  # fmt: skip
ASKED = ("stop_job", "delete_job")  # of a cluster's dashboard
KILLS = {"kill", "killpg", "terminate", "send_signal", "pidfd_send_signal", "prctl", "PyThreadState_SetAsyncExc"}
OF_MODULES = {"os.remove", "os.replace", "shutil.move"}  # others have methods of these names
OF_THEM = {name.rpartition(".")[2] for name in OF_MODULES}


def places(file: Path) -> Iterator[str]:
    """Where a file of the product removes or kills something."""

    def look(node: ast.AST, within: tuple[str, ...]) -> Iterator[str]:
        for inner in ast.iter_child_nodes(node):
            is_named = isinstance(inner, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
            deeper = (*within, inner.name) if is_named else within  # type: ignore[attr-defined]
            named = inner.attr if isinstance(inner, ast.Attribute) else inner.id if isinstance(inner, ast.Name) else ""
            asked = inner.value if isinstance(inner, ast.Constant) else ""
            if named in REMOVES | KILLS or asked in ASKED or (named in OF_THEM and ast.unparse(inner) in OF_MODULES):
                yield f"{file.relative_to(ROOT)}: {'.'.join(within[:2])}"
            yield from look(inner, deeper)

    yield from look(ast.parse(file.read_text()), ())


def test_every_removal_and_every_kill_is_listed_with_its_proof() -> None:
    files = [file for part in ("cluster", "trainers", "searchspaces") for file in (ROOT / part).rglob("*.py")]
    there = {place for file in files for place in places(file)}
    text = (ROOT / "docs" / "removal.md").read_text()
    rows = [row.split("|")[1:4] for row in text.splitlines() if row.startswith("| `")]
    listed = {place for where, _, _ in rows for place in re.findall(r"`([^`]+)`", where)}
    assert there - listed == set(), "say in docs/removal.md what proves that it is troupe's"
    assert listed - there == set(), "these remove nothing any more"
    assert all(len(proof.strip()) > 5 for _, _, proof in rows)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = ownership.make(tmp_path / "made", "a test")
    (folder / "file").write_text("content")
    return folder


def damaged(folder: Path) -> None:
    told = json.loads((folder / ownership.MARK).read_text())
    (folder / ownership.MARK).write_text(json.dumps({**told, "process": 1}))


def emptied(folder: Path) -> None:
    (folder / ownership.MARK).write_text("")


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("kept"))


def copied(folder: Path) -> None:
    folder.rename(folder.with_name("kept"))
    shutil.copytree(folder.with_name("kept"), folder)


def of_another_kind(folder: Path) -> None:
    told = json.loads((folder / ownership.MARK).read_text())
    (folder / ownership.MARK).write_text(atomic_files.sealed({**told, "what": "another"}))


def linked(folder: Path) -> None:
    folder.rename(folder.with_name("kept"))
    folder.symlink_to(folder.with_name("kept"))


@pytest.mark.parametrize("change", [damaged, emptied, renamed, copied, of_another_kind, linked])
def test_a_folder_that_does_not_agree_with_its_mark_stays(made: Path, change: Any) -> None:
    change(made)
    stays = next(path for path in (made, made.with_name("kept")) if path.exists())
    ownership.remove_marked(stays, "a test")
    assert (stays / "file").read_text() == "content"


def test_a_folder_of_another_user_stays(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: 12345)
        assert not ownership.remove_marked(made, "a test")
    assert (made / "file").read_text() == "content"
    assert ownership.remove_marked(made, "a test")
    assert not made.exists()


def test_what_is_left_behind_is_removed_and_what_looks_like_it_is_told(tmp_path: Path) -> None:
    ownership.make(tmp_path / "work-1", "a test")
    (tmp_path / "work-2").mkdir()
    told: list[str] = []
    ownership.remove_stale(tmp_path, "work-*", "a test", told.append)
    assert os.listdir(tmp_path) == ["work-2"]
    assert told == [f"{tmp_path / 'work-2'}: may not be troupe's and is kept; remove it by hand if it is not needed"]


WAITS = [
    sys.executable,
    "-c",
    "import sys, time; open(sys.argv[1], 'a').write('x'); f = open(sys.argv[1]); time.sleep(60)",
]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of temporary files, in which alone a Ray of our own may lie."""
    monkeypatch.setattr(local_ray, "_bases", lambda: [str(tmp_path)])
    return tmp_path


def started(file: Path, environment: dict[str, str], title: str) -> subprocess.Popen[bytes]:
    """A process that has a file open, with a variable more in its environment and a command line of its own."""
    process = subprocess.Popen([title, *WAITS[1:], str(file)], executable=WAITS[0], env={**os.environ, **environment})
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    return process


def test_a_sweep_takes_neither_environments_nor_runs_nor_those_who_use_them(temporary: Path) -> None:
    theirs = [temporary / "troupe-env", temporary / "troupe-try"]  # as uv makes one, and a run of this name
    train("dcgan", name="troupe-try", runs_dir=temporary, dry_run=True)
    processes = []
    for folder in theirs:
        folder.mkdir()
        (folder / ".lock").write_text("")
        os.utime(folder / ".lock", (0, 0))
        processes.append(started(folder / "open", {}, "python"))
    local_ray.cleanup_stale()
    assert [process.poll() for process in processes] == [None, None]
    assert all((folder / "open").read_text() for folder in theirs)
    for process in processes:
        process.kill()
        process.wait()


def test_a_sweep_takes_what_a_killed_owner_left_and_only_its_processes(temporary: Path) -> None:
    folder = temporary / "troupe-12345678"
    folder.mkdir()
    ownership.mark(folder, local_ray.WHAT, {"secret": "s" * 64})
    told = json.loads((folder / ownership.MARK).read_text())
    secret = {local_ray.SECRET: "s" * 64}
    ours = [started(folder / "log", secret, "python"), started(temporary / "a", secret, "ray::IDLE")]
    theirs = [started(folder / "log", {}, "tail"), started(temporary / "b", secret, "python"),
              started(temporary / "c", {local_ray.SECRET: "t" * 64}, "ray::IDLE")]  # fmt: skip
    local_ray.cleanup_stale()
    assert [process.poll() for process in (*ours, *theirs)] == [None] * 5, "its owner, this process, is alive"
    (folder / ownership.MARK).write_text(atomic_files.sealed({**told, "started": "of a process that has ended"}))
    local_ray.cleanup_stale()
    assert [process.wait(10) for process in ours] == [-9, -9]
    assert not folder.exists()
    assert [process.poll() for process in theirs] == [None] * 3
    for process in theirs:
        process.kill()
        process.wait()


@pytest.mark.parametrize("theirs", ["", "notes", "session_2026_1/notes"])
def test_what_ray_makes_again_in_the_place_of_its_folder_is_removed_and_what_else_is_there_stays(
    temporary: Path, theirs: str
) -> None:
    own = local_ray.LocalRay(1)
    own.folder, own.inode, own.sessions = temporary / "troupe-12345678", -1, [f"session_2026_{os.getpid()}"]
    (own.folder / own.sessions[0] / "sockets").mkdir(parents=True)
    if theirs:
        (own.folder / theirs).parent.mkdir(exist_ok=True)
        (own.folder / theirs).write_text("important")
    own._clear()
    stays = [str(path.relative_to(own.folder)) for path in own.folder.rglob("*") if path.is_file()]
    assert stays == ([theirs] if theirs else [])
    assert own.folder.exists() == bool(theirs)


def test_an_export_replaces_an_export_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    monkeypatch.chdir(tmp_path)
    train("dcgan", name="mine", data="digits", image_size=16, width=4, latent_dim=8, batch_size=4, microbatch_size=4,
          steps=1, device="cpu", evaluate_every=0)  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"architectures": ["Theirs"]}')
    with pytest.raises(TroupeError) as refused:
        export("mine", out="model")
    assert refused.value.code == CONFLICT
    assert [(one.code, one.about, one.value) for one in refused.value.problems] == [("not-ours", "--out", "model")]
    sentences(refused.value.problems)
    assert json.loads((tmp_path / "model/config.json").read_text()) == {"architectures": ["Theirs"]}
    for _ in range(2):
        export("mine", out="ours")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<title>of mine</title>")
    with pytest.raises(TroupeError) as refused:
        report("mine", out="site")
    assert [(one.code, one.about) for one in refused.value.problems] == [("not-ours", "site")]
    sentences(refused.value.problems)
    assert (tmp_path / "site/index.html").read_text() == "<title>of mine</title>"
    for _ in range(2):
        report("mine", out="page")
        report("mine")
    (tmp_path / "mine-samples.png").write_text("important")
    assert [sample("mine")["file"] for _ in range(2)] == ["mine-samples-2.png", "mine-samples-3.png"]
    assert (tmp_path / "mine-samples.png").read_text() == "important"
    assert contents.foreign(contents.names_in(tmp_path / "runs/mine")) == [], "a run writes what contents.py knows"
    assert removal.remove_run(run_folder.find_own(tmp_path / "runs", "mine")) > 0


def test_a_packed_data_set_replaces_a_packed_one_and_nothing_else(tmp_path: Path, sentences: Sentences) -> None:
    part = Part(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train_images.npy").write_text("important")
    with pytest.raises(TroupeError) as refused:
        pack(tmp_path / "set", "set", part, part, ("one",))
    assert refused.value.code == CONFLICT
    assert [(one.code, one.about) for one in refused.value.problems] == [("not-ours", str(tmp_path / "set"))]
    sentences(refused.value.problems)
    assert (tmp_path / "set/train_images.npy").read_text() == "important"
    (tmp_path / "set/train_images.npy").rename(tmp_path / "set/notes")
    pack(tmp_path / "set", "set", part, part, ("one",))
    (tmp_path / "set/packed.json").unlink()  # a packing that was killed, say
    pack(tmp_path / "set", "set", part, part, ("one",))
    assert (tmp_path / "set/notes").read_text() == "important"


def test_a_packed_folder_is_removed_and_one_that_only_lies_there_is_not(tmp_path: Path, sentences: Sentences) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (number * 20, 0, 0)).save(photos / f"{number}.png")
    words: dict[str, Any] = {"image_size": 16, "runs_dir": tmp_path / "runs", "data_dir": tmp_path / "data"}
    train("dcgan", data=f"imagefolder:{photos}", dry_run=True, **words)

    def opened() -> None:
        open_folder(Request(str(photos), tmp_path / "data", 16, "test", lambda line: None, lambda done, total: None))

    opened()
    ((_, _, packed),) = cached(tmp_path / "data")
    (packed / "packed.json").write_text("{")  # damaged: its mark says whose it is
    opened()
    copy, theirs = packed.with_name("copy"), packed.with_name("mine")
    shutil.copytree(packed, copy)
    theirs.mkdir()
    (theirs / "packed.json").write_text('{"source": "mine"}')
    for source, stays in ((str(photos), copy), ("mine", theirs)):
        with pytest.raises(TroupeError) as refused:
            remove_packed(tmp_path / "data", source)
        assert refused.value.code == CONFLICT
        assert [(one.code, one.about) for one in refused.value.problems] == [("not-ours", str(stays))]
        sentences(refused.value.problems)
        assert (stays / "packed.json").exists()
    assert not packed.exists()
    (packed.with_name(packed.name) / "notes").mkdir(parents=True)  # in the place of the packed one
    with pytest.raises(TroupeError) as refused:
        opened()
    assert [(one.code, one.about) for one in refused.value.problems] == [("not-ours", str(packed))]
    assert (packed / "notes").is_dir()


def test_a_run_in_a_bucket_is_removed_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    there = machine(tmp_path, "runs")
    run = there.folder / "mine"
    (run / "checkpoints/step_00000001").mkdir(parents=True)
    for name in ("settings.json", "checkpoints/step_00000001/state.pt", "checkpoints/step_00000001/manifest.json"):
        (run / name).write_text("{}")
    there.send(run)
    with there.files.open_output_stream(f"{there.root}/mine/checkpoints/notes.txt") as stream:
        stream.write(b"important")
    there.remove_checkpoints(run)
    assert sorted(there.list_files(run)) == ["checkpoints/notes.txt", "settings.json"]
    there.remove(run)
    assert sorted(there.list_files(run)) == ["checkpoints/notes.txt"]
    there.files.delete_file(f"{there.root}/mine/checkpoints/notes.txt")
    there.remove(run)
    assert there.names() == []
