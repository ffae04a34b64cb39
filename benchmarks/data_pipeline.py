"""Images a second of the data path alone, and the memory of a worker that reads a packed folder.

The data path is what a step does before its networks: `data.batch` of the next 64 samples of the stream, and `signed`,
in one thread. It is set against the images a second of DCGAN's steps at the same size of images (batch 64, one
micro-batch, float32). Memory: a process of its own opens a folder that is packed already, reads every image of two
epochs, and tells what it holds. Its own memory (Anonymous in /proc/PID/smaps_rollup) must not grow with the folder, but
for the names and the order of the samples: 2 % of the images' bytes are allowed. Pages of mapped files are shown too,
but are no cost of a worker: all workers of a host share them, and the kernel takes them back when it needs the room.
(Private_Clean and Private_Dirty would count them as private while only one process has mapped them.) Linux only.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
from PIL import Image

BATCH = 64
SIZES = {"digits": 32, "folder": 64}
TIMES = 50.0
FEW, MANY = 1000, 20000
ALLOWED = 0.02  # of the bytes of the images


def open_source(name: str, folder: str) -> Any:
    """As a worker opens it: a packed folder is known by the fingerprint that the driver has found."""
    from trainers.data.sources import open_data

    packed = [json.loads(path.read_text()) for path in Path(folder, "packed", "packed").glob("*/packed.json")]
    known = next((facts["fingerprint"] for facts in packed if facts["source"].endswith(f"/{name}")), None)
    words = "digits" if name == "digits" else f"imagefolder:{folder}/{name}"
    return open_data(words, data_dir=Path(folder, "packed"), fingerprint=known)


def data_side(name: str, folder: str, batches: int) -> float:
    """Images a second of the data path."""
    import torch
    import workload

    from trainers.contract.streams import sample_indices
    from trainers.data.images import signed

    torch.set_num_threads(1)
    data = open_source(name, folder)
    data.to(torch.device("cpu"))
    place = 0

    def one_batch() -> None:
        nonlocal place
        indices = sample_indices(data.size, 0, place, BATCH).tolist()
        signed(data.batch(indices)["images"], torch.float32)
        place += BATCH

    return BATCH * batches / sum(workload.seconds_of_steps(one_batch, batches // 10, batches))


def step_side(name: str, steps: int) -> float:
    """Images a second of DCGAN's steps at the size of this source."""
    import workload

    config = workload.config_of("dcgan", batch_size=BATCH, microbatch_size=BATCH)
    data = workload.generated(SIZES[name], channels=1 if name == "digits" else 3)
    trainer = workload.trainer_of("dcgan", config, data)
    return BATCH / statistics.median(workload.seconds_of_steps(partial(workload.train_step, trainer), 2, steps))


def memory_side(name: str, folder: str) -> dict[str, float]:
    """Megabytes of a process that has read every image of a folder twice."""
    import torch

    from trainers.contract.streams import sample_indices
    from trainers.data.images import signed

    torch.set_num_threads(1)
    data = open_source(name, folder)
    data.to(torch.device("cpu"))
    for start in range(0, 2 * data.size, BATCH):
        signed(data.batch(sample_indices(data.size, 0, start, BATCH).tolist())["images"], torch.float32)
    return {**common.memory_of(), "images": data.size * 64 * 64 * 3 / 1e6}


def make_folder(folder: Path, count: int) -> None:
    """Pictures of noise, smooth enough that they are quick to pack."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        image = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        image.resize((64, 64)).save(folder / f"{number:05d}.png", compress_level=1)


def main() -> None:
    options = common.parser(__doc__, rounds=5)
    options.add_argument("--batches", type=int, default=2000, help="timed batches in each process (default 2000)")
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    bounds, raw = [], {}
    run = partial(common.side, __file__, environment=common.our_environment())
    with tempfile.TemporaryDirectory() as folder:
        for name, count in {"folder": MANY, "few": FEW}.items():
            print(f"making and packing {count} images", file=sys.stderr)
            make_folder(Path(folder, name), count)
            open_source(name, folder)
        for name in SIZES:
            answers = common.alternate({
                f"{name}: data": partial(run, "data", name, folder, given.batches),
                f"{name}: step": partial(run, "step", name, 8),
            }, given.rounds)  # fmt: skip
            raw.update(answers)
            data, step = answers[f"{name}: data"], answers[f"{name}: step"]
            ratio = common.paired(data, step)
            rows.append({
                "source": name, "size": SIZES[name], "n": given.rounds, "data images/s": common.spread(data),
                "DCGAN images/s": common.spread(step), "times": ratio,
            })  # fmt: skip
            bounds.append(common.at_least(f"{name}: data path over DCGAN's step", ratio.median, TIMES))
        memory = common.alternate({
            f"memory with {FEW} images": partial(run, "memory", "few", folder),
            f"memory with {MANY} images": partial(run, "memory", "folder", folder),
        }, given.rounds)  # fmt: skip
    raw.update(memory)
    held = {name: {kind: common.spread([answer[kind] for answer in answers]) for kind in answers[0]}
            for name, answers in memory.items()}  # fmt: skip
    few, many = held.values()
    common.show([{"": name, **{f"{kind} MB": value for kind, value in kinds.items()}} for name, kinds in held.items()])
    print()
    growth = many["own"].median - few["own"].median
    part = growth / (many["images"].median - few["images"].median)
    bounds.append(common.at_most(f"own memory more with {MANY} images than with {FEW}, of their bytes", part, ALLOWED))
    common.report("data_pipeline", given.rounds, rows, bounds, raw, batches=given.batches,
                  memory={name: {kind: value._asdict() for kind, value in kinds.items()}
                          for name, kinds in held.items()})  # fmt: skip


def side(what: str, name: str, *words: str) -> Any:
    if what == "data":
        return data_side(name, words[0], int(words[1]))
    return step_side(name, int(words[0])) if what == "step" else memory_side(name, words[0])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        common.tell(side(*sys.argv[2:]))
    else:
        main()
