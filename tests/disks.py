"""Disks that can be filled and disks whose plug can be pulled."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

SHUT_DOWN, WITHOUT_THE_LOG = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN: nothing more reaches the disk, the rest of its journal


class SmallDisk:
    """A small disk in memory, of 24 MB where a test wants no other, which is enough to start a run."""

    def __init__(self, path: Path, megabytes: int = 24) -> None:
        self.path, self.megabytes = path, megabytes

    def mount(self) -> str:
        """Plug it in; the kernel's reason where that may not be."""
        self.path.mkdir(exist_ok=True)
        return _reason("mount", "-t", "tmpfs", "-o", f"size={self.megabytes}m", "tmpfs", str(self.path))

    def fill(self) -> None:
        """Leave no byte free."""
        with open(self.path / "ballast", "ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        (self.path / "ballast").unlink()

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def give_back(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False)


class JournalDisk:
    """A file system of its own, with a journal, whose plug can be pulled."""

    def __init__(self, image: Path, path: Path) -> None:
        self.image, self.path = image, path
        self.pulled = False

    def make(self) -> str:
        """Make it; the reason where that cannot be."""
        self.path.mkdir(exist_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(256 << 20)
        return _reason("mkfs.ext4", "-q", str(self.image))

    def mount(self) -> str:
        """Plug it in; the kernel's reason where that may not be.

        After a pull it is a copy of what had reached it: whoever has made a mount namespace meanwhile holds the other
        one, and the kernel would show that one again.
        """
        if self.pulled:
            old, self.image, self.pulled = self.image, self.image.with_name(f"{self.image.name}-copy"), False
            subprocess.run(["cp", "--sparse=always", str(old), str(self.image)], check=True)
            old.unlink()
        return _reason("mount", "-o", "loop,commit=300", str(self.image), str(self.path))

    def pull(self) -> None:
        """Drop all that was not made durable."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUT_DOWN, struct.pack("I", WITHOUT_THE_LOG))
        finally:
            os.close(folder)
        self.pulled = True

    def unmount(self) -> None:
        """Take it away; a process that was killed a moment ago may still hold it."""
        deadline = time.monotonic() + 10
        while reason := _reason("umount", str(self.path)):
            if time.monotonic() > deadline:
                raise OSError(reason)
            time.sleep(0.05)

    def give_back(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False)


def _reason(*words: str) -> str:
    """Why a command failed, or nothing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{words[0]}: {error.strerror}"
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
