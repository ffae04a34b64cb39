"""Runs in a bucket: written on this machine's disk first and sent from there, fetched where the disk lacks them.

Every part of troupe works on folders. The runs of a bucket have one on each machine, in which `.bucket` holds the
bucket's address; `of` and `of_run` find it. A run, a search and each of its trials are sent by who carries them out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trainers.base.errors import SURROUNDINGS, WORDS, Passing, TroupeError
from trainers.base.paths import DATA_DIR, TRIALS, expanded
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.run_folders import contents
from trainers.run_folders.run_locks import DRIVER, hold, is_held
from trainers.run_folders.sync_state import Synced
from trainers.storage import atomic_files, checkpoint

ADDRESS = re.compile(r"(s3|gs|gcs|abfs|abfss|hdfs)://[^/]")
MARK, FETCHING = ".bucket", ".fetching"  # what a folder of runs is of; held while something is fetched into one
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
            reason = "must be a folder, or a bucket as in s3://BUCKET/PATH"
            raise TroupeError(Problem("bad-value", "--runs-dir", reason, value=text), WORDS)
        return Path(text)
    if "@" in text:
        reason = "an address must not contain keys: it is shown and stored"
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        raise TroupeError(Problem("bad-value", "--runs-dir", reason, hint), WORDS)
    text = text.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.partition("://")[2].partition("?")[0])[:60]
    folder = expanded(DATA_DIR) / "buckets" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    with checkpoint.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARK).exists():
            with hold(folder, str(folder), "folder", patience=10):  # workers of a node come at the same moment
                atomic_files.write(folder / MARK, text + "\n")
    return folder


def address_of(runs: Path) -> str:
    """The address of the bucket whose runs lie in this folder; nothing where it is a folder as any other."""
    try:
        return (runs / MARK).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def of(runs: Path) -> Bucket | None:
    """The bucket whose runs lie in this folder, or None."""
    address = address_of(runs)
    return Bucket(address, runs) if address else None


def of_run(path: Path) -> Bucket | None:
    """The bucket that the run, the search or the trial of this folder lies in, or None."""
    return of(runs_of(path))


def runs_of(path: Path) -> Path:
    """The folder of runs in which a run, a search or a trial lies."""
    return path.parents[2] if path.parent.name == TRIALS and len(path.parents) > 2 else path.parent


def here(path: Path, address: str) -> Path:
    """The folder on this machine of a run or a trial whose folder on another one is `path`."""
    return folder_for(address).joinpath(*path.parts[-3 if path.parent.name == TRIALS else -1 :])


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
        if search:
            bucket.fetch_unheld(runs / search, checkpoints and not trial)
            if trial:
                bucket.fetch_unheld(runs / search / TRIALS / trial, checkpoints)


def shown(runs: Path) -> str:
    """What a person knows a folder of runs by."""
    return address_of(runs) or str(runs)


class Unreachable(Passing):
    """A bucket fails, or refuses."""


class _Damaged(Exception):
    """A checkpoint in a bucket is not whole."""


class Bucket:
    """A bucket, and the folder of its runs on this machine."""

    def __init__(self, address: str, folder: Path) -> None:
        from pyarrow import fs  # type: ignore[import-untyped]

        self.address, self.folder, self.fs = address, folder, fs
        with self.reached():
            self.files, self.root = fs.FileSystem.from_uri(address)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Inside, what a bucket refuses becomes one line (Unreachable, exit code 3)."""
        try:
            yield
        except (OSError, ValueError, ImportError) as error:
            raise Unreachable(Problem("bucket-failed", self.address, reason(error)), SURROUNDINGS) from error

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
        """The files of a run or a search there, by their names in its folder: bytes, and when they were written, in
        nanoseconds."""
        root = self.key(path)
        with self.reached():
            found = self.files.get_file_info(self.fs.FileSelector(root, allow_not_found=True, recursive=True))
        names = {info.path[len(root) + 1 :]: (info.size, info.mtime_ns or 0) for info in found if info.is_file}
        return {name: facts for name, facts in names.items() if not name.startswith(".")}

    def fetch_unheld(self, path: Path, checkpoints: bool = False) -> None:
        """Bring a run, or a search with its trials, up to date: all that nobody works on here, whose newest is here."""

        def fetch() -> None:
            parts: dict[Path, dict[str, tuple[int, int]]] = {}
            for name, facts in self.there(path).items():
                trial = name.split("/")[1] if name.startswith(f"{TRIALS}/") else ""
                inside = path / TRIALS / trial if trial else path
                parts.setdefault(inside, {})[name.removeprefix(f"{TRIALS}/{trial}/")] = facts
            for inside in sorted(parts, reverse=True):  # the search itself last, which tells of its trials
                if not is_held(inside, DRIVER) and not is_held(inside):
                    self._fetch(inside, parts[inside], checkpoints)

        _as_it_is(fetch)

    def fetch(self, path: Path, checkpoints: bool = False) -> None:
        """Bring the folder of a run or of a trial up to date; of the checkpoints, if asked, the newest."""
        _as_it_is(lambda: self._fetch(path, self.there(path), checkpoints))

    def _fetch(self, path: Path, there: Mapping[str, tuple[int, int]], checkpoints: bool) -> None:
        """Where the checkpoints there are newer than those here, what was written here since is outdated."""
        if not there:
            return
        names = [name for name in there if not name.startswith("checkpoints/")]
        with contextlib.ExitStack() as held:
            held.enter_context(checkpoint.writing(path))
            path.mkdir(parents=True, exist_ok=True)
            # two would mix their files
            held.enter_context(hold(path, path.name, "run", WAITS.fetch_of_others, FETCHING))
            state = Synced(path)
            if checkpoints:
                self._forget_outdated(path, there, state)
            behind = _newest(_saved(there)) > _newest([mine.name for mine in checkpoint.all_in(path / "checkpoints")])
            for name in sorted(names, key=_order):
                if state.wants(name, there[name], behind):
                    self._get(path, name)
                    state.same(name, there[name])
            for name in [name for name in state.known if name not in there and not name.startswith("checkpoints/")]:
                if not state.changed(name):  # it was removed there
                    (path / name).unlink(missing_ok=True)
                    state.known.pop(name)
            if checkpoints:
                self._fetch_checkpoint(path, there, state)
            state.sizes = {name: size for name, (size, _) in there.items()}
            state.write()

    def _forget_outdated(self, path: Path, there: Mapping[str, tuple[int, int]], state: Synced) -> None:
        """Remove checkpoints that were sent, and are others there now, or gone: the run went on elsewhere without.

        None where there are none at all there: they were removed by somebody who tidies up, and these may be the last.
        """
        if not _saved(there):
            return
        for mine in checkpoint.all_in(path / "checkpoints"):
            manifest = f"checkpoints/{mine.name}/manifest.json"
            sent = tuple(state.known.get(manifest, ())[2:])
            if sent and there.get(manifest) != sent and not state.changed(manifest) and checkpoint.remove(mine):
                state.forget(f"checkpoints/{mine.name}/")

    def _fetch_checkpoint(self, path: Path, there: Mapping[str, tuple[int, int]], state: Synced) -> None:
        """The newest checkpoint that is whole, where it is newer than those on the disk."""
        folder = path / "checkpoints"
        mine = checkpoint.newest_whole(folder)
        for name in reversed(_saved(there)):
            if mine is not None and checkpoint.place_of(name) <= checkpoint.place_of(mine.name):
                return
            files = [file for file in there if file.startswith(f"checkpoints/{name}/")]
            with contextlib.suppress(_Damaged):
                with checkpoint.made(folder, name) as making:
                    for file in files:
                        self._get(path, file, making / file.rpartition("/")[2])
                    if checkpoint.damage_of(making) is not None:
                        raise _Damaged
                for file in files:
                    state.same(file, there[file])
                return

    def saved(self, path: Path) -> list[str]:
        """The checkpoints of a run that are there as a whole, oldest first."""
        return _saved(self.there(path))

    def _get(self, path: Path, name: str, to: Path | None = None) -> None:
        to = to or path / name
        to.parent.mkdir(parents=True, exist_ok=True)
        root = self.key(path)
        with (
            self.reached(),
            atomic_files.replacing(to) as making,
            open(making, "wb") as file,
            self.files.open_input_stream(f"{root}/{name}") as stream,
        ):
            shutil.copyfileobj(stream, file)

    def send(self, path: Path) -> None:
        """Write what has changed in the folder of a run, a search or a trial: a manifest after what it tells of.

        Of what lies there only checkpoints are removed: those that are no longer here, older than the newest here and
        not the best one.
        """
        state, root = Synced(path), self.key(path)
        sent: set[str] = set()
        try:
            for name in sorted(filter(state.changed, _files(path)), key=_order):
                with contextlib.suppress(FileNotFoundError), open(path / name, "rb") as file:  # else it has just gone
                    facts = os.fstat(file.fileno())
                    with self.reached(), self.files.open_output_stream(f"{root}/{name}") as stream:
                        shutil.copyfileobj(file, stream)
                    state.known[name] = [facts.st_size, facts.st_mtime_ns]
                    sent.add(name)
            there = {} if not sent else self.there(path)
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

    def send_file(self, file: Path) -> None:
        """Write one file of a run, of which this machine need have no other part, such as a log; if it can be."""
        with contextlib.suppress(OSError, TroupeError), open(file, "rb") as source, self.reached():
            name = self.key(file)
            with self.files.open_output_stream(name) as stream:
                shutil.copyfileobj(source, stream)

    def remove_file(self, file: Path) -> None:
        """Remove one file of a run there, if it can be."""
        with contextlib.suppress(FileNotFoundError, TroupeError), self.reached():
            self.files.delete_file(self.key(file))

    def remove(self, path: Path) -> None:
        """Remove a run or a search there; what these do not write stays."""
        root = self.key(path)
        with self.reached(), contextlib.suppress(FileNotFoundError):
            found = self.files.get_file_info(self.fs.FileSelector(root, allow_not_found=True, recursive=True))
            names = {info.path[len(root) + 1 :] for info in found if info.is_file}
            others = contents.foreign(names)
            if not others:
                self.files.delete_dir(root)
            for name in sorted(names - {*others}, key=_order, reverse=True) if others else ():
                self.files.delete_file(f"{root}/{name}")

    def remove_checkpoints(self, path: Path, keep: str = "") -> None:
        """Remove all checkpoints of a run there but one."""
        for name in filter(contents.is_of_checkpoint, self.there(path)):
            if name.split("/")[1] != keep:
                with self.reached(), contextlib.suppress(FileNotFoundError):
                    self.files.delete_file(self.key(path / name))

    def key(self, path: Path) -> str:
        """Where a file or folder of a run lies there."""
        return f"{self.root}/{path.relative_to(self.folder).as_posix()}"

    def has(self, file: Path) -> bool:
        """Whether a file of a run is there; not, where that cannot be seen."""
        with contextlib.suppress(TroupeError), self.reached():
            return bool(self.files.get_file_info(self.key(file)).type != self.fs.FileType.NotFound)
        return False


def _as_it_is(fetch: Callable[[], None]) -> None:
    """Fetch, and once more where something of what was there is gone: whoever works on it has pruned it."""
    try:
        fetch()
    except Unreachable as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        fetch()


def _files(path: Path) -> list[str]:
    """The files of a folder, by their names in it; none that begin with a dot, which are of this machine, and none of
    a search's trials."""
    found = []
    for folder, inside, names in os.walk(path):
        top = folder == str(path)
        inside[:] = [name for name in inside if not name.startswith(".") and not (top and name == TRIALS)]
        found += [os.path.relpath(os.path.join(folder, name), path) for name in names if not name.startswith(".")]
    return found


def _saved(there: Iterable[str]) -> list[str]:
    """The checkpoints whose manifest, which is written last, is there: oldest first."""
    parts = [name.split("/") for name in there if name.startswith("checkpoints/") and name.endswith("/manifest.json")]
    return sorted((of for _, of, _ in parts), key=checkpoint.place_of)


def _newest(names: Sequence[str]) -> tuple[int, int]:
    return checkpoint.place_of(names[-1] if names else "")


def _outlived(path: Path, there: Iterable[str]) -> list[str]:
    """Of the files of a run in its bucket those of checkpoints that are not here, older than the newest here, and not
    the best one; and settings of before that were proved."""
    gone = [name for name in there if name == BEFORE and not (path / name).exists()]
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):  # none here, or of an older troupe
        last = checkpoint.all_in(path / "checkpoints")[-1]
        best = checkpoint.manifest_of(last)["best"]
        for name in there:
            of = name.split("/")[1] if contents.is_of_checkpoint(name) else best
            if of != best and not (path / "checkpoints" / of).exists():
                gone += [name] if checkpoint.place_of(of) < checkpoint.place_of(last.name) else []
    return gone


def _order(name: str) -> tuple[bool, int, str]:
    """Sorts names so that what others depend on comes first."""
    folder, _, base = name.rpartition("/")
    return base in LAST, -folder.count("/"), name


SAID = {
    "NO_SUCH_BUCKET": "no such bucket",
    "NoSuchBucket": "no such bucket",
    "ACCESS_DENIED": "no permission",
    "AccessDenied": "no permission",
    "INVALID_ACCESS_KEY_ID": "unknown access key",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key does not match the access key",
    "NETWORK_CONNECTION": "cannot be reached",
    "curlCode": "cannot be reached",
}


def reason(error: BaseException) -> str:
    """What a bucket refuses, in a few words."""
    text = " ".join(str(error).split())
    return next((said for mark, said in SAID.items() if mark in text), f"failed ({text[:200]})")
