"""Runs in a bucket: written to the local disk first and uploaded from there, downloaded if missing locally.

All of troupe works on folders. The runs of a bucket have a local folder on each machine, in which `.bucket` holds the
address of the bucket; `of` and `of_run` find it. A run, a search and each trial are uploaded by the owner process.
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

from trainers.base.errors import ENVIRONMENT, USAGE, Transient, TroupeError
from trainers.base.paths import DATA_DIR, TRIALS, expanded
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.run_folders import contents
from trainers.run_folders.run_locks import DRIVER, hold, is_held
from trainers.run_folders.sync_state import SyncState
from trainers.storage import atomic_files, checkpoint

ADDRESS = re.compile(r"(s3|gs|gcs|abfs|abfss|hdfs)://[^/]")
MARK, FETCHING = ".bucket", ".fetching"  # the address of a folder of runs; the lock held while fetching
LAST = ("manifest.json", "result.json", "search.json")  # sent last in their folders, after the files that they describe


def is_address(text: str) -> bool:
    """Whether `--runs-dir` names a bucket, as in s3://BUCKET/PATH."""
    return ADDRESS.match(text) is not None


def folder_for(text: str) -> Path:
    """The folder of runs that `--runs-dir` names; for a bucket, its local folder.

    Raises TroupeError (exit code 2) for an address of another kind, or with keys in it.
    """
    if not is_address(text):
        if "://" in text:
            reason = "must be a folder, or a bucket as in s3://BUCKET/PATH"
            raise TroupeError(Problem("bad-value", "--runs-dir", reason, value=text), USAGE)
        return Path(text)
    if "@" in text:
        reason = "an address must not contain keys: it is shown and stored"
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        raise TroupeError(Problem("bad-value", "--runs-dir", reason, hint), USAGE)
    text = text.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.partition("://")[2].partition("?")[0])[:60]
    folder = expanded(DATA_DIR) / "buckets" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    with checkpoint.writing_checkpoint(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARK).exists():
            with hold(folder, str(folder), "folder", patience=10):  # workers of a node start at the same time
                atomic_files.write(folder / MARK, text + "\n")
    return folder


def bucket_address(runs: Path) -> str:
    """The address of the bucket whose runs are in this folder; empty for an ordinary folder."""
    try:
        return (runs / MARK).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def bucket_for(runs: Path) -> Bucket | None:
    """The bucket whose runs are in this folder, or None."""
    address = bucket_address(runs)
    return Bucket(address, runs) if address else None


def bucket_of_run(path: Path) -> Bucket | None:
    """The bucket of the run, search or trial in this folder, or None."""
    return bucket_for(runs_of(path))


def runs_of(path: Path) -> Path:
    """The folder of runs that contains a run, a search or a trial."""
    return path.parents[2] if path.parent.name == TRIALS and len(path.parents) > 2 else path.parent


def local_folder(path: Path, address: str) -> Path:
    """The local folder of a run or trial whose folder on another machine is `path`."""
    return folder_for(address).joinpath(*path.parts[-3 if path.parent.name == TRIALS else -1 :])


def fetch_runs(runs: Path, names: Sequence[str | None] | None = None, checkpoints: bool = False) -> None:
    """Fetch what some runs or searches (None: all) need to this machine, if they are in a bucket.

    Raises TroupeError (exit code 3) if it cannot be reached.
    """
    bucket = bucket_for(runs)
    if bucket is None or (names is not None and not any(names)):
        return
    in_bucket = bucket.names()
    for name in in_bucket if names is None else names:
        search, _, trial = (name or "").partition("/")
        if search:
            bucket.fetch_idle(runs / search, checkpoints and not trial)
            if trial:
                bucket.fetch_idle(runs / search / TRIALS / trial, checkpoints)


def display_name(runs: Path) -> str:
    """A folder of runs for display: the address of its bucket, or its path."""
    return bucket_address(runs) or str(runs)


class Unreachable(Transient):
    """A bucket fails, or rejects a request."""


class _Damaged(Exception):
    """A checkpoint in a bucket is damaged."""


class Bucket:
    """A bucket, and the local folder of its runs."""

    def __init__(self, address: str, folder: Path) -> None:
        from pyarrow import fs  # type: ignore[import-untyped]

        self.address, self.folder, self.fs = address, folder, fs
        with self.reporting_errors():
            self.files, self.root = fs.FileSystem.from_uri(address)

    @contextlib.contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """Inside, an error of the bucket becomes one line (Unreachable, exit code 3)."""
        try:
            yield
        except (OSError, ValueError, ImportError) as error:
            raise Unreachable(Problem("bucket-failed", self.address, reason(error)), ENVIRONMENT) from error

    def check_writable(self) -> None:
        """Check write access. Raises TroupeError (exit code 3) if nothing can be written."""
        path = f"{self.root}/.troupe-{os.getpid()}-{time.time_ns()}"
        with self.reporting_errors():
            with self.files.open_output_stream(path) as stream:
                stream.write(b"troupe")
            self.files.delete_file(path)

    def names(self) -> list[str]:
        """The runs and searches in the bucket."""
        with self.reporting_errors():
            listed = self.files.get_file_info(self.fs.FileSelector(self.root, allow_not_found=True))
            top = self.root.split("/")[0]
            if not listed and top and self.files.get_file_info(top).type == self.fs.FileType.NotFound:
                raise OSError("NO_SUCH_BUCKET")
        return sorted(info.base_name for info in listed if info.type == self.fs.FileType.Directory)

    def list_files(self, path: Path) -> dict[str, tuple[int, int]]:
        """The files of a run or search in the bucket, by name within its folder: bytes, and modification time in
        nanoseconds."""
        root = self.key(path)
        with self.reporting_errors():
            listed = self.files.get_file_info(self.fs.FileSelector(root, allow_not_found=True, recursive=True))
        names = {info.path[len(root) + 1 :]: (info.size, info.mtime_ns or 0) for info in listed if info.is_file}
        return {name: facts for name, facts in names.items() if not name.startswith(".")}

    def fetch_idle(self, path: Path, checkpoints: bool = False) -> None:
        """Update a run, or a search with its trials, from the bucket, except those with a local owner, which are newest
        here."""

        def fetch() -> None:
            parts: dict[Path, dict[str, tuple[int, int]]] = {}
            for name, facts in self.list_files(path).items():
                trial = name.split("/")[1] if name.startswith(f"{TRIALS}/") else ""
                inside = path / TRIALS / trial if trial else path
                parts.setdefault(inside, {})[name.removeprefix(f"{TRIALS}/{trial}/")] = facts
            for inside in sorted(parts, reverse=True):  # the search itself last, since it refers to its trials
                if not is_held(inside, DRIVER) and not is_held(inside):
                    self._fetch(inside, parts[inside], checkpoints)

        _as_it_is(fetch)

    def fetch(self, path: Path, checkpoints: bool = False) -> None:
        """Update the folder of a run or trial from the bucket; with `checkpoints`, including the newest one."""
        _as_it_is(lambda: self._fetch(path, self.list_files(path), checkpoints))

    def _fetch(self, path: Path, remote: Mapping[str, tuple[int, int]], checkpoints: bool) -> None:
        """If the checkpoints in the bucket are newer than the local ones, later local files are outdated."""
        if not remote:
            return
        names = [name for name in remote if not name.startswith("checkpoints/")]
        with contextlib.ExitStack() as stack:
            stack.enter_context(checkpoint.writing_checkpoint(path))
            path.mkdir(parents=True, exist_ok=True)
            # two processes would mix their files
            stack.enter_context(hold(path, path.name, "run", WAITS.fetch_of_others, FETCHING))
            state = SyncState(path)
            if checkpoints:
                self._forget_outdated(path, remote, state)
            behind = _newest(_saved(remote)) > _newest(
                [local.name for local in checkpoint.all_in(path / "checkpoints")]
            )
            for name in sorted(names, key=_order):
                if state.should_fetch(name, remote[name], behind):
                    self._get(path, name)
                    state.same(name, remote[name])
            for name in [name for name in state.known if name not in remote and not name.startswith("checkpoints/")]:
                if not state.changed(name):  # removed in the bucket
                    (path / name).unlink(missing_ok=True)
                    state.known.pop(name)
            if checkpoints:
                self._fetch_checkpoint(path, remote, state)
            state.sizes = {name: size for name, (size, _) in remote.items()}
            state.write()

    def _forget_outdated(self, path: Path, remote: Mapping[str, tuple[int, int]], state: SyncState) -> None:
        """Remove local checkpoints that were sent and have since changed or gone in the bucket: the run continued
        elsewhere without them.

        None are removed if the bucket has no checkpoints: a user deleted them, and the local ones can be the last.
        """
        if not _saved(remote):
            return
        for local in checkpoint.all_in(path / "checkpoints"):
            manifest = f"checkpoints/{local.name}/manifest.json"
            sent = tuple(state.known.get(manifest, ())[2:])
            if (
                sent
                and remote.get(manifest) != sent
                and not state.changed(manifest)
                and checkpoint.remove_checkpoint(local)
            ):
                state.forget(f"checkpoints/{local.name}/")

    def _fetch_checkpoint(self, path: Path, remote: Mapping[str, tuple[int, int]], state: SyncState) -> None:
        """Fetch the newest intact checkpoint, if it is newer than the local ones."""
        folder = path / "checkpoints"
        local = checkpoint.newest_intact(folder)
        for name in reversed(_saved(remote)):
            if local is not None and checkpoint.position_of(name) <= checkpoint.position_of(local.name):
                return
            files = [file for file in remote if file.startswith(f"checkpoints/{name}/")]
            with contextlib.suppress(_Damaged):
                with checkpoint.new_checkpoint(folder, name) as temporary:
                    for file in files:
                        self._get(path, file, temporary / file.rpartition("/")[2])
                    if checkpoint.damage_of(temporary) is not None:
                        raise _Damaged
                for file in files:
                    state.same(file, remote[file])
                return

    def saved(self, path: Path) -> list[str]:
        """The complete checkpoints of a run in the bucket, oldest first."""
        return _saved(self.list_files(path))

    def _get(self, path: Path, name: str, to: Path | None = None) -> None:
        to = to or path / name
        to.parent.mkdir(parents=True, exist_ok=True)
        root = self.key(path)
        with (
            self.reporting_errors(),
            atomic_files.replacing(to) as temporary,
            open(temporary, "wb") as file,
            self.files.open_input_stream(f"{root}/{name}") as stream,
        ):
            shutil.copyfileobj(stream, file)

    def send(self, path: Path) -> None:
        """Upload what has changed in the folder of a run, search or trial: a manifest after the files it describes.

        In the bucket only checkpoints are removed: those that are gone locally, older than the newest local one and not
        the best one.
        """
        state, root = SyncState(path), self.key(path)
        sent: set[str] = set()
        try:
            for name in sorted(filter(state.changed, _files(path)), key=_order):
                with (
                    contextlib.suppress(FileNotFoundError),
                    open(path / name, "rb") as file,
                ):  # else it was just removed
                    facts = os.fstat(file.fileno())
                    with self.reporting_errors(), self.files.open_output_stream(f"{root}/{name}") as stream:
                        shutil.copyfileobj(file, stream)
                    state.known[name] = [facts.st_size, facts.st_mtime_ns]
                    sent.add(name)
            remote = {} if not sent else self.list_files(path)
            for name in sent & remote.keys():
                state.known[name][2:] = remote[name]
            for name in sorted(
                _outlived(path, remote), key=_order, reverse=True
            ):  # a manifest before the files that it describes
                with self.reporting_errors(), contextlib.suppress(FileNotFoundError):
                    self.files.delete_file(f"{root}/{name}")
                remote.pop(name)
                state.known.pop(name, None)
            if sent:
                state.sizes = {name: size for name, (size, _) in remote.items()}
        finally:
            state.write()

    def send_file(self, file: Path) -> None:
        """Upload one file of a run, such as a log, if possible; this machine needs no other part of the run."""
        with contextlib.suppress(OSError, TroupeError), open(file, "rb") as source, self.reporting_errors():
            name = self.key(file)
            with self.files.open_output_stream(name) as stream:
                shutil.copyfileobj(source, stream)

    def remove_file(self, file: Path) -> None:
        """Remove one file of a run from the bucket, if possible."""
        with contextlib.suppress(FileNotFoundError, TroupeError), self.reporting_errors():
            self.files.delete_file(self.key(file))

    def remove(self, path: Path) -> None:
        """Remove a run or search from the bucket; foreign files stay."""
        root = self.key(path)
        with self.reporting_errors(), contextlib.suppress(FileNotFoundError):
            listed = self.files.get_file_info(self.fs.FileSelector(root, allow_not_found=True, recursive=True))
            names = {info.path[len(root) + 1 :] for info in listed if info.is_file}
            others = contents.foreign(names)
            if not others:
                self.files.delete_dir(root)
            for name in sorted(names - {*others}, key=_order, reverse=True) if others else ():
                self.files.delete_file(f"{root}/{name}")

    def remove_checkpoints(self, path: Path, keep: str = "") -> None:
        """Remove all checkpoints of a run from the bucket, except `keep`."""
        for name in filter(contents.is_of_checkpoint, self.list_files(path)):
            if name.split("/")[1] != keep:
                with self.reporting_errors(), contextlib.suppress(FileNotFoundError):
                    self.files.delete_file(self.key(path / name))

    def key(self, path: Path) -> str:
        """The key of a file or folder of a run in the bucket."""
        return f"{self.root}/{path.relative_to(self.folder).as_posix()}"

    def has(self, file: Path) -> bool:
        """Whether a file of a run is in the bucket; False if that cannot be determined."""
        with contextlib.suppress(TroupeError), self.reporting_errors():
            return bool(self.files.get_file_info(self.key(file)).type != self.fs.FileType.NotFound)
        return False


def _as_it_is(fetch: Callable[[], None]) -> None:
    """Fetch, and retry once if a listed file is gone: the owner of the run has pruned it."""
    try:
        fetch()
    except Unreachable as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        fetch()


def _files(path: Path) -> list[str]:
    """The files of a folder, by name within it, without those that start with a dot, which are local, and without the
    trials of a search."""
    names_inside = []
    for folder, inside, names in os.walk(path):
        top = folder == str(path)
        inside[:] = [name for name in inside if not name.startswith(".") and not (top and name == TRIALS)]
        names_inside += [
            os.path.relpath(os.path.join(folder, name), path) for name in names if not name.startswith(".")
        ]
    return names_inside


def _saved(names: Iterable[str]) -> list[str]:
    """The checkpoints with a manifest, which is written last: oldest first."""
    parts = [name.split("/") for name in names if name.startswith("checkpoints/") and name.endswith("/manifest.json")]
    return sorted((of for _, of, _ in parts), key=checkpoint.position_of)


def _newest(names: Sequence[str]) -> tuple[int, int]:
    return checkpoint.position_of(names[-1] if names else "")


def _outlived(path: Path, remote: Iterable[str]) -> list[str]:
    """The files in the bucket to remove: those of checkpoints that are gone locally, older than the newest local one
    and not the best one."""
    outdated = list[str]()
    with contextlib.suppress(
        OSError, ValueError, KeyError, IndexError
    ):  # no local checkpoint, or one of an older troupe
        last = checkpoint.all_in(path / "checkpoints")[-1]
        best = checkpoint.manifest_of(last)["best"]
        for name in remote:
            of = name.split("/")[1] if contents.is_of_checkpoint(name) else best
            if of != best and not (path / "checkpoints" / of).exists():
                outdated += [name] if checkpoint.position_of(of) < checkpoint.position_of(last.name) else []
    return outdated


def _order(name: str) -> tuple[bool, int, str]:
    """Sort key: files that others depend on come first."""
    folder, _, base = name.rpartition("/")
    return base in LAST, -folder.count("/"), name


MESSAGES = {
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
    """The reason of a bucket's error, in a few words."""
    text = " ".join(str(error).split())
    return next((message for mark, message in MESSAGES.items() if mark in text), f"failed ({text[:200]})")
