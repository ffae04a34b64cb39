"""A bucket that is a folder of this machine, as several machines know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainers.run_folders import bucket
from trainers.storage import atomic_files


class Objects:
    """Files without folders, as in a bucket."""

    def __init__(self, files: Any) -> None:
        self.files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)

    def open_output_stream(self, path: str) -> Any:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return self.files.open_output_stream(path)


def machine(tmp_path: Path, name: str) -> bucket.Bucket:
    """The bucket as one machine knows it."""
    folder = tmp_path / name
    folder.mkdir()
    address = f"file://{tmp_path}/bucket"
    atomic_files.write(folder / bucket.MARK, address)
    (tmp_path / "bucket").mkdir(exist_ok=True)
    made = bucket.Bucket(address, folder)
    made.files = Objects(made.files)
    return made
