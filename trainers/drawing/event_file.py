"""TensorBoard's event file, written synchronously: tensorboardX's writer is a thread that hangs on a full disk."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c


class EventFile:
    """Scalars and images of a run from `step` on; TensorBoard hides later steps of older files."""

    def __init__(self, folder: Path, step: int, kind: str = "") -> None:
        """Raises OSError, as all writes do, if the disk is full. `kind` is the suffix of its name."""
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}{kind}"
        self.path = folder / name
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._append(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, row: Mapping[str, float], step: int) -> None:
        for name, value in row.items():
            self._append(Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value)))

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image as uint8 (height, width, channels)."""
        drawn = summary.image(name, image, dataformats="HWC")
        self._append(Event(wall_time=time.time(), step=step, summary=drawn))

    def settings(self, values: Mapping[str, Any], metric: str) -> None:
        """The settings that a trial varies, and its metric, for TensorBoard's table of hyperparameters."""
        plain = {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in values.items()}
        for part in summary.hparams(plain, {metric: 0.0}):
            self._append(Event(wall_time=time.time(), step=0, summary=part))

    def _append(self, event: Any) -> None:
        data = event.SerializeToString()
        head = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (head, data)]
        with open(self.path, "ab", buffering=0) as file:
            record, start = head + checks[0] + data + checks[1], file.tell()
            try:
                if file.write(record) != len(record):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except BaseException:
                file.truncate(start)  # an incomplete event would hide all later ones
                raise
