"""Runs in a bucket: written on this machine's disk first and mirrored from there, fetched where the disk lacks them.

Every part of troupe works on folders. The runs of a bucket have one on each machine, in which `.bucket` holds the
bucket's address; `of` finds it. What both sides were when they were last the same stands in each run's `.mirror.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trainers.engine import checkpoint, durable
from trainers.engine.errors import SURROUNDINGS, WORDS, TroupeError
from trainers.engine.holding import DRIVER, is_held
from trainers.engine.paths import DATA_DIR, expanded

ADDRESS = re.compile(r"(s3|gs|gcs|abfs|abfss|hdfs)://[^/]")
MARK, STATE = ".bucket", ".mirror.json"
EVERY = 15.0  # seconds between looks at what has changed, besides at each checkpoint
LONGEST_WAIT = 60.0  # seconds between tries while a bucket fails
PATIENCE = 600.0  # seconds at the end of a run for a bucket that fails
BEFORE = "settings.json.before"  # of a run that goes on under changed settings; goes when they are proved
LAST = ("manifest.json", "result.json", "search.json")  # in their folders: what they tell of is there already


def is_address(text: str) -> bool:
    """Whether `--runs-dir` names a bucket, as in s3://BUCKET/PATH."""
    return ADDRESS.match(text) is not None


def folder_for(text: str) -> Path:
    """The folder of runs that `--runs-dir` names; for a bucket, its folder on this machine.

    Raises TroupeError (exit code 2) for an address of another kind, or with keys in it.
    """
    if not is_address(text):
        if "://" in text:
            raise TroupeError(f"--runs-dir {text}: a folder, or a bucket as in s3://BUCKET/PATH", WORDS)
        return Path(text)
    if "@" in text:
        raise TroupeError("--runs-dir: keys do not belong into an address, which is shown and kept; say them by "
                          "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", WORDS)  # fmt: skip
    text = text.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.partition("://")[2].partition("?")[0])[:60]
    folder = expanded(DATA_DIR) / "buckets" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    with checkpoint.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARK).exists():
            durable.write(folder / MARK, text + "\n")
    return folder


def address_of(runs: Path) -> str:
    """The address of the bucket whose runs lie in this folder; nothing where it is a folder as any other."""
    try:
        return (runs / MARK).read_text().strip()
    except OSError:
        return ""


def of(runs: Path) -> Bucket | None:
    """The bucket whose runs lie in this folder, or None."""
    address = address_of(runs)
    return Bucket(address, runs) if address else None


def bring(runs: Path, names: Sequence[str | None] | None = None, checkpoints: bool = False) -> None:
    """Bring what some runs or searches need (None: all there are) to this machine, where they lie in a bucket.

    Raises TroupeError (exit code 3) where it cannot be reached.
    """
    bucket = of(runs)
    if bucket is None or (names is not None and not any(names)):
        return
    there = bucket.names()
    for name in there if names is None else names:
        search, _, trial = (name or "").partition("/")
        if search and not is_held(runs / search, DRIVER) and not is_held(runs / search):  # else it is newest here
            bucket.fetch(runs / search, checkpoints and not trial)
            if trial:
                bucket.fetch(runs / search / "trials" / trial, checkpoints)


def shown(runs: Path) -> str:
    """What a person knows a folder of runs by."""
    return address_of(runs) or str(runs)


class Bucket:
    """A bucket, and the folder of its runs on this machine."""

    def __init__(self, address: str, folder: Path) -> None:
        from pyarrow import fs  # type: ignore[import-untyped]

        self.address, self.folder, self.fs = address, folder, fs
        with self.reached():
            self.files, self.root = fs.FileSystem.from_uri(address)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Inside, what a bucket refuses becomes one line (TroupeError, exit code 3)."""
        try:
            yield
        except (OSError, ValueError, ImportError) as error:
            raise TroupeError(f"{self.address}: {reason(error)}", SURROUNDINGS) from error

    def look(self) -> None:
        """Raises TroupeError (exit code 3) where nothing can be written there."""
        path = f"{self.root}/.troupe-{os.getpid()}-{time.time_ns()}"
        with self.reached():
            with self.files.open_output_stream(path) as stream:
                stream.write(b"troupe")
            self.files.delete_file(path)

    def names(self) -> list[str]:
        """The runs and searches there."""
        with self.reached():
            found = self.files.get_file_info(self.fs.FileSelector(self.root, allow_not_found=True))
            top = self.root.split("/")[0]
            if not found and top and self.files.get_file_info(top).type == self.fs.FileType.NotFound:
                raise OSError("NO_SUCH_BUCKET")
        return sorted(info.base_name for info in found if info.type == self.fs.FileType.Directory)

    def there(self, path: Path) -> dict[str, tuple[int, int]]:
        """The files of a run there, by their names in its folder: bytes, and when they were written, in nanoseconds."""
        root = f"{self.root}/{path.relative_to(self.folder).as_posix()}"
        with self.reached():
            found = self.files.get_file_info(self.fs.FileSelector(root, allow_not_found=True, recursive=True))
        return {info.path[len(root) + 1 :]: (info.size, info.mtime_ns or 0) for info in found if info.is_file}

    def fetch(self, path: Path, checkpoints: bool = False) -> None:
        """Bring the folder of a run, or of a search, up to date; of the checkpoints, if asked, the newest."""
        there, state = self.there(path), _State(path)
        if not there:
            return
        held = {name for name in there if "checkpoints/" in name}
        with checkpoint.writing(path):
            path.mkdir(parents=True, exist_ok=True)
            for name in sorted(there.keys() - held, key=_order):
                if state.wants(name, there[name]):
                    self._get(path, name)
                    state.same(name, there[name])
            for name in [name for name in state.known if name not in there and "checkpoints/" not in name]:
                if not state.changed(name):  # it was removed there
                    (path / name).unlink(missing_ok=True)
                    state.known.pop(name)
            if checkpoints:
                for folder in sorted({name.rpartition("checkpoints/")[0] + "checkpoints" for name in held}):
                    self._fetch_checkpoint(path, folder, there, state)
            state.sizes = {name: size for name, (size, _) in there.items()}
            state.write()

    def _fetch_checkpoint(self, path: Path, folder: str, there: Mapping[str, tuple[int, int]], state: _State) -> None:
        """The newest checkpoint that is whole, where it is newer than those on the disk."""
        whole = [name for name in there if name.startswith(f"{folder}/") and name.endswith("/manifest.json")]
        names = {name.split("/")[-2] for name in whole}
        mine = checkpoint.newest_whole(path / folder)
        for name in sorted(names, key=checkpoint.place_of, reverse=True):
            if mine is not None and checkpoint.place_of(name) <= checkpoint.place_of(mine.name):
                return
            making = path / folder / f".making_{name}"
            shutil.rmtree(making, ignore_errors=True)
            files = [file for file in there if file.startswith(f"{folder}/{name}/")]
            for file in files:
                self._get(path, file, making / file.rpartition("/")[2])
            if checkpoint.damage_of(making) is None:
                shutil.rmtree(path / folder / name, ignore_errors=True)
                os.rename(making, path / folder / name)
                durable.sync(path / folder)
                for file in files:
                    state.same(file, there[file])
                return
            shutil.rmtree(making, ignore_errors=True)

    def _get(self, path: Path, name: str, to: Path | None = None) -> None:
        to = to or path / name
        to.parent.mkdir(parents=True, exist_ok=True)
        root = f"{self.root}/{path.relative_to(self.folder).as_posix()}"
        with (
            self.reached(), durable.replacing(to) as making, open(making, "wb") as file,
            self.files.open_input_stream(f"{root}/{name}") as stream,
        ):  # fmt: skip
            shutil.copyfileobj(stream, file)

    def send(self, path: Path) -> None:
        """Write what has changed in the folder of a run, or of a search: a manifest after what it tells of.

        Of what lies there only checkpoints are removed: those that are no longer here, older than the newest here and
        not the best one.
        """
        state, root = _State(path), f"{self.root}/{path.relative_to(self.folder).as_posix()}"
        sent: set[str] = set()
        try:
            for name in sorted(filter(state.changed, _files(path)), key=_order):
                with contextlib.suppress(FileNotFoundError), open(path / name, "rb") as file:  # else it has just gone
                    facts = os.fstat(file.fileno())
                    with self.reached(), self.files.open_output_stream(f"{root}/{name}") as stream:
                        shutil.copyfileobj(file, stream)
                    state.known[name] = [facts.st_size, facts.st_mtime_ns]
                    sent.add(name)
            there = self.there(path) if sent else {}
            for name in sent & there.keys():
                state.known[name][2:] = there[name]
            for name in sorted(_outlived(path, there), key=_order, reverse=True):  # a manifest before what it tells of
                with self.reached(), contextlib.suppress(FileNotFoundError):
                    self.files.delete_file(f"{root}/{name}")
                there.pop(name)
                state.known.pop(name, None)
            if sent:
                state.sizes = {name: size for name, (size, _) in there.items()}
        finally:
            state.write()

    def send_file(self, path: Path, file: Path) -> None:
        """Write one file of a run that this machine has no other part of, such as a log; if it can be."""
        with contextlib.suppress(OSError, TroupeError), open(file, "rb") as source, self.reached():
            name = f"{self.root}/{path.relative_to(self.folder).as_posix()}/{file.relative_to(path).as_posix()}"
            with self.files.open_output_stream(name) as stream:
                shutil.copyfileobj(source, stream)

    def remove(self, path: Path) -> None:
        """Remove a run there."""
        with self.reached(), contextlib.suppress(FileNotFoundError):
            self.files.delete_dir(f"{self.root}/{path.relative_to(self.folder).as_posix()}")


class _State:
    """What the files of a run were, here and there, when both were last the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list[int]] = {}
        self.sizes: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads((path / STATE).read_text())
            self.known, self.sizes = dict(told["known"]), dict(told["sizes"])

    def write(self) -> None:
        with contextlib.suppress(OSError):
            durable.write(self.path / STATE, json.dumps({"known": self.known, "sizes": self.sizes}) + "\n")

    def changed(self, name: str) -> bool:
        """Whether a file here is another one than then."""
        try:
            facts = os.stat(self.path / name)
        except OSError:
            return False
        return self.known.get(name, [])[:2] != [facts.st_size, facts.st_mtime_ns]

    def wants(self, name: str, there: tuple[int, int]) -> bool:
        """Whether the file there should replace the one here: it is newer, and the one here holds nothing new."""
        known = self.known.get(name)
        if not (self.path / name).exists():
            return known is None or known[2:] != list(there)  # else it was removed here
        if known is None:  # never compared: what was written last counts
            facts = os.stat(self.path / name)
            return facts.st_size != there[0] and facts.st_mtime_ns < there[1]
        return known[2:] != list(there) and not self.changed(name)

    def same(self, name: str, there: tuple[int, int]) -> None:
        facts = os.stat(self.path / name)
        self.known[name] = [facts.st_size, facts.st_mtime_ns, *there]


class Mirror:
    """Sends what a run writes, in a thread of its own, for as long as it trains; nothing where it lies in no bucket."""

    def __init__(self, path: Path | None, say: Callable[[str], None], beat: Callable[[], None] = lambda: None) -> None:
        self.path, self.say, self.beat = path or Path(), say, beat
        self.bucket = of(path.parent) if path is not None else None
        self.told = ""  # what was last said to be wrong
        self.woken, self.ended, self.one = threading.Event(), threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._keep, daemon=True)
        if self.bucket is not None:
            self.thread.start()

    def wake(self) -> None:
        """There is something new that should not wait."""
        self.woken.set()

    def settle(self) -> None:
        """Return when all is sent. Raises TroupeError (exit code 3) where a bucket has failed for too long."""
        began, pause = time.monotonic(), 1.0
        while self.bucket is not None:
            self.beat()
            error = self._try()
            if error is None:
                return
            if time.monotonic() - began > PATIENCE:
                raise TroupeError(
                    f"{error}; all of the run lies in {self.path}, and --resume {self.path.name} sends it", SURROUNDINGS
                )
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    def end(self) -> None:
        self.ended.set()
        self.woken.set()
        if self.thread.is_alive():
            self.thread.join(timeout=30)

    def _keep(self) -> None:
        pause = EVERY
        while not self.ended.is_set():
            self.woken.wait(pause)
            self.woken.clear()
            if self.ended.is_set():
                return
            failed = self._try() is not None
            pause = min(2 * pause, LONGEST_WAIT) if failed else EVERY

    def _try(self) -> str | None:
        """Send once; what is wrong, said once."""
        assert self.bucket is not None
        with self.one:
            try:
                self.bucket.send(self.path)
            except TroupeError as error:
                if self.told != error.mistakes[0]:
                    self.told = error.mistakes[0]
                    self.say(f"{self.told}; all is kept on this machine's disk, and sent when it can be")
                return error.mistakes[0]
            if self.told:
                self.told = ""
                self.say(f"{self.bucket.address}: all is sent")
            return None


def bytes_elsewhere(path: Path) -> int:
    """Bytes of a run's files that lie in its bucket only."""
    sizes = _State(path).sizes
    return sum(count for name, count in sizes.items() if not os.path.exists(path / name))


def _files(path: Path) -> list[str]:
    """The files of a folder, by their names in it; none that begin with a dot, which are of this machine."""
    found = []
    for folder, inside, names in os.walk(path):
        inside[:] = [name for name in inside if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(folder, name), path) for name in names if not name.startswith(".")]
    return found


def _outlived(path: Path, there: Iterable[str]) -> list[str]:
    """Of the files of a run in its bucket those of checkpoints that are not here, older than the newest here, and not
    the best one; and settings of before that were proved."""
    newest: dict[str, tuple[tuple[int, int], str | None] | None] = {}
    gone = [name for name in there if name == BEFORE and not (path / name).exists()]
    for name in there:
        folder, found, rest = name.rpartition("checkpoints/")
        of, here = rest.split("/")[0], path / folder / "checkpoints"
        if not found or (here / of).exists():
            continue
        if folder not in newest:
            newest[folder] = None
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):  # one of an older troupe
                last = checkpoint.all_in(here)[-1]
                newest[folder] = checkpoint.place_of(last.name), checkpoint.manifest_of(last)["best"]
        known = newest[folder]
        if known is not None and checkpoint.place_of(of) < known[0] and of != known[1]:
            gone.append(name)
    return gone


def _order(name: str) -> tuple[bool, int, str]:
    """Sorts names so that what others depend on comes first."""
    folder, _, base = name.rpartition("/")
    return base in LAST, -folder.count("/"), name


SAID = {
    "NO_SUCH_BUCKET": "there is no such bucket",
    "NoSuchBucket": "there is no such bucket",
    "ACCESS_DENIED": "no permission",
    "AccessDenied": "no permission",
    "INVALID_ACCESS_KEY_ID": "the access key is not known there",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key does not fit the access key",
    "NETWORK_CONNECTION": "cannot be reached",
    "curlCode": "cannot be reached",
}


def reason(error: BaseException) -> str:
    """What a bucket refuses, in a few words."""
    text = " ".join(str(error).split())
    return next((said for mark, said in SAID.items() if mark in text), f"failed ({text[:200]})")
