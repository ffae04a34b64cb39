"""Uploading a run to its bucket during training, with retries while the bucket fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem, sentences
from trainers.base.timeouts import WAITS
from trainers.run_folders import bucket

T = TypeVar("T")


def retry(do: Callable[[], T], heartbeat: Callable[[], object] = lambda: None) -> T:
    """The result of `do`, retried while the bucket fails; `heartbeat` is called before each try, and can raise.

    Raises bucket.Unreachable (exit code 3) if it has failed for too long.
    """
    started, pause = time.monotonic(), 1.0
    while True:
        heartbeat()
        try:
            return do()
        except bucket.Unreachable:
            if time.monotonic() - started > WAITS.bucket:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


class Mirror:
    """Uploads what a run writes, in a separate thread during training; does nothing for a run outside of buckets."""

    def __init__(
        self, path: Path | None, notify: Callable[[str], None], heartbeat: Callable[[], object] = lambda: None
    ) -> None:
        self.path, self.notify, self.heartbeat = path or Path(), notify, heartbeat
        self.bucket = bucket.bucket_of_run(path) if path is not None else None
        self.reported: list[Problem] = []  # the problems reported last
        self.woken, self.ended, self.one = threading.Event(), threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._keep, daemon=True)
        if self.bucket is not None:
            self.thread.start()

    def upload_now(self) -> None:
        """Upload now, without waiting for the interval."""
        self.woken.set()

    def flush(self) -> None:
        """Return when everything is sent. Raises TroupeError (exit code 3) if the bucket has failed for too long."""
        if self.bucket is None:
            return
        try:
            retry(self._send, self.heartbeat)
        except bucket.Unreachable as error:
            hint = f"the complete run is in {self.path}, and --resume {self.path.name} sends it"
            raise bucket.Unreachable([replace(one, hint=hint) for one in error.problems], ENVIRONMENT) from None

    def end(self) -> None:
        self.ended.set()
        self.woken.set()
        if self.thread.is_alive():
            self.thread.join(timeout=30)

    def _keep(self) -> None:
        pause = WAITS.poll_changes
        while not self.ended.is_set():
            self.woken.wait(pause)
            self.woken.clear()
            try:
                self._send()
                pause = WAITS.poll_changes
            except TroupeError:
                pause = min(2 * pause, WAITS.bucket_tried_again)

    def _send(self) -> None:
        """Upload once; a problem is reported once, and raised."""
        assert self.bucket is not None
        with self.one:
            try:
                self.bucket.send(self.path)
            except TroupeError as error:
                if self.reported != error.problems:
                    self.reported = error.problems
                    hint = "all is kept on the local disk, and sent once possible"
                    for line in sentences(replace(one, hint=hint) for one in self.reported):
                        self.notify(line)
                raise
            if self.reported:
                self.reported = []
                self.notify(f"{self.bucket.address}: everything is sent")
