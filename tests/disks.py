"""Disks that can be filled and disks whose plug can be pulled."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
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

    def make(self) -> str:
        """Make it; the reason where that cannot be."""
        self.path.mkdir(exist_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(256 << 20)
        return _reason("mkfs.ext4", "-q", str(self.image))

    def mount(self) -> str:
        """Plug it in; the kernel's reason where that may not be."""
        return _reason("mount", "-o", "loop,commit=300", str(self.image), str(self.path))

    def pull(self) -> None:
        """Drop all that was not made durable."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUT_DOWN, struct.pack("I", WITHOUT_THE_LOG))
        finally:
            os.close(folder)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)

    def give_back(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False)


def _reason(*words: str) -> str:
    """Why a command failed, or nothing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{words[0]}: {error.strerror}"
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
