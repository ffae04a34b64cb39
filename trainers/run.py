"""One worker's part of a run. It is the same in this process, a Ray actor, a test process and a trial."""

from __future__ import annotations

import contextlib
import gc
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.base.errors import CONFLICT, TroupeError
from trainers.base.problems import Problem
from trainers.base.version import __version__
from trainers.data.sources import open_data
from trainers.engine.control import Control
from trainers.families import registry
from trainers.run_folders import bucket
from trainers.run_folders.run_folder import RunFolder
from trainers.runtime import processor
from trainers.runtime.global_state import with_default_globals
from trainers.settings.config import Config
from trainers.settings.fields import plain

if TYPE_CHECKING:  # torch is not loaded before a run starts
    from trainers.distributed.process_group import World


@dataclass(frozen=True)
class Plan:
    """What every worker receives: plain values, so that it can be serialized."""

    family: str
    settings: Mapping[str, Any]  # all of them, resolved: no `auto` for device and grad_sync
    folder: Path
    data_dir: Path
    families: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # go into the manifests
    fingerprint: str | None = None  # required of the data
    bucket: str = ""  # of the run, if it is not in a shared folder

    def on_this_machine(self) -> Plan:
        """The same plan on another machine, which has its own local folder for the runs of a bucket."""
        if not self.bucket:
            return self
        return replace(self, folder=bucket.local_folder(self.folder, self.bucket))

    @classmethod
    def of(cls, folder: RunFolder, data_dir: Path, families: tuple[Path, ...]) -> Plan:
        """The plan from a run's folder. Raises TroupeError if the folder holds no settings."""
        stored = folder.read_settings()
        return cls(stored["family"], stored["settings"], folder.path, data_dir, families, stored, stored["data"])

    def config(self) -> Config:
        return registry.config_class(self.family, self.families).of(self.settings, self.family)


@with_default_globals
def run(plan: Plan, world: World, control: Control) -> dict[str, Any]:
    """Open the data, build the family and train, with all global switches at their defaults. Returns the result.

    Switches that the family sets in its methods apply to the run, in every worker, and are restored afterwards.
    """
    from trainers.engine import loop

    config = plan.config()
    data = open_for(config, plan.data_dir, plan.families, fingerprint=plan.fingerprint)
    if plan.fingerprint is not None and data.fingerprint != plan.fingerprint:
        reason = "the samples differ from the driver's"
        raise TroupeError(Problem("data-differ", "data", reason, value=config.data), CONFLICT)
    config = config.finalize(data.facts)
    family = registry.family_class(plan.family, plan.families)(config, data.facts)
    try:
        with without_own_garbage():
            return loop.train_loop(family, data, config, world, RunFolder(plan.folder), control, plan.facts)
    except SystemExit as error:  # otherwise the process would exit as if successful
        raise RuntimeError(f"sys.exit({error.code!r}) was called during training") from error


@contextlib.contextmanager
def without_own_garbage() -> Iterator[None]:
    """Collect the reference cycles created inside, such as figures: 60 runs in one process would leak 40 MB.

    Older objects are not traversed: that is slow once torch and matplotlib are loaded.
    """
    enabled_here = not gc.get_freeze_count()  # else the caller has frozen objects, which must stay so
    if enabled_here:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if enabled_here:
            gc.unfreeze()


def open_for(
    config: Any,
    data_dir: Path,
    families: Sequence[Path] = (),
    warn: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    fingerprint: str | None = None,
) -> Any:
    """The data set that a config names. Does not import torch; `progress(done, total)` reports packing."""
    size: Any = getattr(config, "image_size", "auto")
    return open_data(
        config.data,
        data_dir=data_dir,
        image_size=None if size == "auto" else size,
        evaluate_on=config.evaluate_on,
        extra=families,
        warn=warn,
        progress=progress,
        fingerprint=fingerprint,
        folders=getattr(config, "folders", "auto"),
        value_range=getattr(config, "value_range", "auto"),
    )


def description(family: str, config: Config, data: Any, families: Sequence[Path] = ()) -> dict[str, Any]:
    """The content of a new run's settings.json; the config is resolved for the data. The custom `families` that it
    was started with are recorded, so that a verb called without them can name them."""
    return {
        "family": family,
        "versions": versions(),
        "data": data.fingerprint,
        "settings": plain(config.model_dump()),
        "facts": plain(data.facts),
        "from": None,
        **({"families": [str(path) for path in families]} if families else {}),
    }


def versions() -> dict[str, str]:
    """What a run's numbers can depend on besides the settings that define it."""
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "troupe": __version__,
        "processor": processor.name(),
    }
