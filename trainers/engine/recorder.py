"""Writes a run's files while it trains, and reports its progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trainers.base.errors import FAILED, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.contract.family import GRID
from trainers.drawing import pictures, plots
from trainers.drawing.decoration import EVENTS, Decorations, matplotlib_of_ours
from trainers.engine import inference, state
from trainers.engine.trainer import Trainer
from trainers.run_folders.mirror import Mirror
from trainers.run_folders.run_folder import RunFolder
from trainers.run_folders.run_locks import Writer
from trainers.storage import atomic_files, checkpoint
from trainers.storage.tensors import as_uint8, read_weights


class Recorder:
    """Writes metrics, grids and checkpoints of one run; ranks other than 0 only take part in collective work."""

    def __init__(
        self, trainer: Trainer, folder: RunFolder, facts: Mapping[str, Any], writer: Writer, mirror: Mirror
    ) -> None:
        self.trainer, self.folder, self.facts = trainer, folder, facts
        self.writer, self.mirror = writer, mirror
        self.config, self.control = trainer.config, trainer.control
        self.decorations = Decorations(trainer.control.notify)
        self.making = self.decorations.making
        self.is_rank0 = trainer.world.rank == 0
        self.seconds = 0.0  # of training before this process
        self.evaluating = 0.0  # of those, in evaluations
        self.watching = 0.0  # and in checks for signs of failure
        self.pictured = time.monotonic()  # when the newest evaluation was plotted
        self.started = time.monotonic()
        self.since = (0, time.monotonic())  # samples drawn and time at which the speed measurement starts
        self.speed = 0.0
        self.events: Any = None
        self.saved = ""  # the name of the newest checkpoint
        self.first_step = 0  # the last step whose rest was done before this process
        self.notified = set[str]()  # lines that are printed only once

    def start(self) -> None:
        """Resume from the newest checkpoint, or save the first one."""
        trainer = self.trainer
        newest = None
        if self.is_rank0:
            with self.writer.writing():
                atomic_files.clear_unfinished(self.folder.path, self.folder.grids)
                newest = checkpoint.newest(self.folder.checkpoints, self.control.notify)
        name = trainer.world.broadcast(newest.name if newest else None)
        if name is not None:
            path = self.folder.checkpoints / name
            state.restore(trainer, checkpoint.load(path))
            trainer.note_saved()
            manifest = checkpoint.manifest_of(path)
            self.seconds = float(manifest.get("seconds", 0))
            self.evaluating = float(manifest.get("evaluation_seconds", 0))
            self.watching = float(manifest.get("watch_seconds", 0))
            self.speed = float(manifest.get("samples_per_second", 0))
            self.saved = name
            if self.is_rank0:
                with self.writer.writing():
                    self.folder.truncate_metrics(trainer.step - trainer.pending, self.control.notify)
        else:
            if self.is_rank0:
                with self.writer.writing():
                    self.folder.truncate_metrics(-1)
            trainer.setup()
            for weights in self.folder.path.glob("from.*"):
                state.start_from(trainer, read_weights(weights, tuple(trainer.networks), about="--init-from"))
        if int(self.config.evaluate_every):
            inference.sanity_check_references(trainer)
        self.started = time.monotonic()
        self.since, self.first_step = (trainer.position, self.started), trainer.step - trainer.pending
        if self.is_rank0 and not self.folder.real.exists():
            with self.writer.writing(), self.making("real.png"):
                real = trainer.data.preview(GRID)
                if real is not None:
                    pictures.write_grid(self.folder.real, as_uint8(real).numpy())
        if name is None:
            self.draw()
            self.save()
        self._update_progress()

    def after_step(self) -> None:
        """Write metrics, grid, evaluation and checkpoint if they are due at this step.

        Raises Interrupted if a stop is requested during the grid or the evaluation: both are then pending.
        """
        trainer, config, step = self.trainer, self.config, self.trainer.step
        every, last = int(config.evaluate_every), step >= config.steps
        logged = step % config.log_every == 0 or last
        evaluated = bool(every) and (step % every == 0 or last)
        drawn = step % config.sample_every == 0 or last
        if logged or evaluated or drawn:
            trainer.look()
        if self.is_rank0 and logged:
            self._write_metrics()
        self._update_progress()
        trainer.pending = True
        samples = inference.draw_grid(trainer, interruptible=True) if drawn else None
        if evaluated:
            before = time.monotonic()
            inference.evaluate_held_out(trainer)
            self.evaluating += time.monotonic() - before
        trainer.pending = False  # from here on nothing takes long
        better = evaluated and self._record_evaluation()
        last = last or trainer.reached
        if evaluated and not last and time.monotonic() - self.pictured > WAITS.picture_of_evaluation:
            self._picture()
        if last and not drawn:
            samples = inference.draw_grid(trainer)
        unless = self._show_and_watch(samples)
        if last or better or unless or self._is_time_to_save():
            self.save()
        self._update_progress()
        if self.is_rank0 and (logged or evaluated):
            self.control.on_step_end(step)
        if evaluated:  # a scheduler that got these results may have requested a stop
            trainer.stop_agreed |= any(trainer.world.all_gather(self.control.stop_requested))
        if unless and not last:
            hint = f"stopped and saved; to continue anyway: --resume {self.folder.name} {unless}"
            raise TroupeError(Problem("worry", f"step {step}", trainer.worry, hint), FAILED)

    def _record_evaluation(self) -> bool:
        """Write the newest evaluation to metrics and verdict; returns whether it is the best so far."""
        trainer = self.trainer
        better = inference.note_best(trainer)
        if self.is_rank0 and (missing := inference.missing_metric(trainer)) and missing not in self.notified:
            self.notified.add(missing)
            self.control.notify(missing)
        main = inference.main_metric(trainer)
        if self.is_rank0 and main is not None and not math.isfinite(trainer.evaluation.results[f"eval_{main}"]):
            reason = f"eval_{main} is not finite; this evaluation cannot be the best"
            self.control.notify(f"step {trainer.step}: {reason}")
        self._write(trainer.evaluation.results)
        self._report(better)
        return better

    def _is_time_to_save(self) -> bool:
        """Whether a checkpoint is due, by steps or by the clock of rank 0."""
        often = self.config.checkpoint_every
        return self.trainer.save_agreed if isinstance(often, str) else self.trainer.step % often == 0

    def _show_and_watch(self, samples: Tensor | list[str] | None) -> str:
        """Write a grid and check it for signs of failure; returns the setting that lets a stopped run continue."""
        self._show(samples)
        return self._watch(samples) if isinstance(samples, Tensor) else ""

    def draw(self) -> None:
        """Draw the fixed grid of this step."""
        self._show(inference.draw_grid(self.trainer))

    def _show(self, samples: Tensor | list[str] | None) -> None:
        """Write a drawn grid, the same on every rank, to a file: images or texts."""
        step = self.trainer.step
        if not self.is_rank0 or samples is None:
            return
        with self.writer.writing(), self.making("grids"):
            if not isinstance(samples, Tensor):
                atomic_files.write(self.folder.grids / f"step_{step:08d}.txt", pictures.sheet_of_texts(samples))
                return
            columns = self.trainer.family.grid().columns
            pictures.write_grid(self.folder.grids / f"step_{step:08d}.png", samples.numpy(), columns)
            if self.events is not None:
                sheet = pictures.grid(samples.numpy(), columns).convert("RGB")
                with self.making(EVENTS):
                    self.events.image("grid", np.asarray(sheet), step)

    def _watch(self, drawn: Tensor) -> str:
        """Check a grid for signs of failure; returns the setting that lets a stopped run continue."""
        trainer, before, earlier = self.trainer, time.monotonic(), self.trainer.worry
        watch = inference.watch(trainer, drawn)
        self.watching += time.monotonic() - before if watch is not None else 0.0
        self._write(trainer.watch_metrics)
        if self.is_rank0 and trainer.worry and not earlier:
            self.control.notify(f"step {trainer.step}: {trainer.worry}")
        return watch.unless if watch is not None and trainer.worry else ""

    def save(self) -> None:
        """Save a checkpoint if the replicas agree; do nothing if this state is already saved."""
        trainer = self.trainer
        name = checkpoint.checkpoint_name(trainer.step, trainer.phases_done, trainer.pending)
        if self.saved == name:
            return
        trainer.look()
        state.check_replicas(trainer)
        snapshot = state.state_of(trainer)

        def written() -> None:
            with self.writer.writing():
                if self.folder.metrics.exists():
                    atomic_files.sync(self.folder.metrics)  # rows of steps before this one are never lost
                if self.events is not None:
                    with self.making(EVENTS):
                        atomic_files.sync(self.events.path)
                facts = {
                    **self.facts,
                    "step": trainer.step,
                    "seconds": round(self._elapsed(), 3),
                    "evaluation_seconds": round(self.evaluating, 3),
                    "watch_seconds": round(self.watching, 3),
                    "samples_per_second": round(self.speed, 2),
                }
                best = checkpoint.checkpoint_name(trainer.best["step"]) if trainer.best else None
                checkpoint.save(self.folder.checkpoints, name, snapshot, {**facts, "best": best})
                checkpoint.prune(self.folder.checkpoints, self.config.keep_checkpoints, best)
            self.mirror.upload_now()

        trainer.on_rank0(written)
        self.saved = name
        trainer.note_saved()
        self.control.heartbeat()

    def flush(self) -> None:
        """Wait on every rank until all written files have reached their storage."""
        self.trainer.on_rank0(self.mirror.flush)

    def finish(self) -> dict[str, Any]:
        """The result of a run that has made its last step; only rank 0's is used."""
        trainer, seconds = self.trainer, self._elapsed()
        if trainer.step == self.first_step:
            self._complete()
        self.save()
        drawn = self._picture() if self.folder.metrics.exists() else []
        grids = [
            path
            for path in sorted(self.folder.grids.glob("step_*.*"))
            if checkpoint.position_of(path.stem)[0] <= trainer.step
        ]
        sheets = [path for path in grids if path.suffix == ".png"]
        result = {
            "name": self.folder.name,
            "steps": trainer.step,
            "seconds": round(seconds, 1),
            "evaluation_share": round(self.evaluating / seconds, 4) if seconds and self.evaluating else 0.0,
            "watch_share": round(self.watching / seconds, 4) if seconds and self.watching else 0.0,
            "worry": trainer.worry,
            "target": self.config.target if trainer.reached else None,
            "samples_per_second": round(self.speed, 2),
            "metrics": {**trainer.metrics, **trainer.evaluation.results},
            "best": trainer.best,
            "checkpoint": f"checkpoints/{checkpoint.checkpoint_name(trainer.step)}",
            "grid": f"grids/{grids[-1].name}" if grids else None,
            "timelapse": None,
            "pictures": drawn,
            "not_made": self.decorations.not_made,
            "verdict": trainer.family.details(),
        }
        if self.is_rank0:
            with self.writer.writing():
                with self.making(self.folder.timelapse.name):
                    if pictures.write_timelapse(
                        self.folder.timelapse, sheets, self.control.heartbeat, self.control.notify
                    ):
                        result["timelapse"] = self.folder.timelapse.name
                atomic_files.write(self.folder.result, json.dumps(atomic_files.finite(result), indent=1) + "\n")
        self.flush()
        trainer.world.all_gather(None)  # all end together: the supervisor would take the others for lost
        return result

    def _complete(self) -> None:
        """Evaluate and draw the last step if the process that made it was killed before it could, or if it was not yet
        the last."""
        trainer, step = self.trainer, self.trainer.step
        evaluated = drawn = None
        if self.is_rank0:
            rows = [row for row in self.folder.read_metrics()[0] if row["step"] == step]
            evaluated = any(name.startswith("eval_") for row in rows for name in row)
            drawn = any(self.folder.grids.glob(f"step_{step:08d}.*"))
        evaluated, drawn = trainer.world.broadcast((evaluated, drawn))
        if int(self.config.evaluate_every):
            inference.evaluate_held_out(trainer)
            if step > 0 and not evaluated:
                inference.note_best(trainer)
                self._write(trainer.evaluation.results)
        if not drawn:
            self.draw()

    def _picture(self) -> list[str]:
        """Plot curves and the family's figures of the newest evaluation, on rank 0; returns the names of the files."""
        if not self.is_rank0 or not self.control.plots:
            return []
        trainer, folder = self.trainer, self.folder
        made, drawn = list[str](), dict[str, Any]()
        self.pictured = time.monotonic()
        with self.writer.writing(), self.making("pictures"), matplotlib_of_ours():
            rows, _ = folder.read_metrics()
            with self.making(folder.curves.name):
                if len({row["step"] for row in rows}) > 1:  # a curve of one point shows nothing
                    plots.write_curves(folder.curves, rows)
                made += [folder.curves.name] if folder.curves.exists() else []
            drawn = dict(trainer.family.pictures(trainer.evaluation, trainer.data))
            for name, picture in drawn.items():
                file = folder.path / f"{name}.png"
                with self.making(file.name):
                    if picture is None:
                        file.unlink(missing_ok=True)  # of an earlier evaluation
                    else:
                        pictures.write_picture(file, picture)
                        made.append(file.name)
        self.control.heartbeat()
        return made

    def _report(self, better: bool) -> None:
        """Write the reports of the newest and the best evaluation to verdict.json."""
        report = self.trainer.family.details() if self.is_rank0 else None
        if report is None:
            return
        newest = {"step": self.trainer.step, **report}
        earlier = {name: one for name, one in self.folder.read_verdict().items() if one["step"] < newest["step"]}
        best = newest if better or "best" not in earlier else earlier["best"]
        with self.writer.writing():
            content = atomic_files.finite({"final": newest, "best": best})
            atomic_files.write(self.folder.verdict, json.dumps(content, indent=1) + "\n")

    def _write_metrics(self) -> None:
        drawn, now = self.trainer.position, time.monotonic()
        before, then = self.since
        if now > then and drawn > before:
            self.speed = (drawn - before) / (now - then)
            self.since = (drawn, now)
        self._write({**self.trainer.metrics, "samples_per_second": round(self.speed, 2)})

    def _write(self, row: Mapping[str, float]) -> None:
        """Append a row to metrics.jsonl and to the TensorBoard events."""
        if not self.is_rank0 or not row:
            return
        step = self.trainer.step
        with self.writer.writing():
            with open(self.folder.metrics, "a", encoding="utf-8") as file:
                record = {"step": step, "seconds": round(self._elapsed(), 3), **atomic_files.finite(row)}
                file.write(json.dumps(record) + "\n")
            with self.making(EVENTS):
                if self.events is None:
                    from trainers.drawing.event_file import EventFile  # slow import: not before the first step

                    self.events = EventFile(self.folder.path, step)
                self.events.scalars(row, step)
        self.control.report(step, row)

    def _update_progress(self) -> None:
        self.control.progress = {
            "step": self.trainer.step,
            "steps": self.config.steps,
            "samples_per_second": self.speed,
            "metrics": {**self.trainer.metrics, **self.trainer.evaluation.results},
        }

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started
