"""What happens beside the steps: moving average, checkpoints, time limit, progress."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.utils.data import DataLoader

from medseg.core.atomic import atomic_path
from medseg.core.errors import TrainingError
from medseg.data.loader import StepSampler
from medseg.training.checkpoint_files import previous_path

logger = logging.getLogger(__name__)

DIGEST_BYTES = 32
_SCORE_TITLES = {"dice": "Dice", "ap50": "AP50", "pq": "PQ"}
LOG_EVERY_S = 30.0
"""Where there is no terminal, progress is a log line at this distance within epochs, and
after them not more often than this.
"""


class MovingAverage(pl.Callback):
    """Exponential moving average of the weights, used for validation and for the bundle.

    Args:
        decay: share of the old average that a step keeps; early steps keep less, so that the random
            start is forgotten (Tarvainen and Valpola 2017, NeurIPS).
    """

    def __init__(self, *, decay: float = 0.998) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._training: dict[str, Tensor] = {}
        self._last_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.average:
            self.average = {k: v.detach().clone() for k, v in self._state(pl_module).items()}
        device = pl_module.device
        self.average = {k: v.to(device) for k, v in self.average.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        step = trainer.global_step
        if step == self._last_step:  # gradients are still being accumulated
            return
        self._last_step = step
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            floating, current = [], []
            for key, value in self._state(pl_module).items():
                if value.is_floating_point():
                    floating.append(self.average[key])
                    current.append(value.detach())
                else:
                    self.average[key].copy_(value)
            torch._foreach_lerp_(floating, current, 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.average:
            state = self._state(pl_module)
            self._training = {key: value.detach().clone() for key, value in state.items()}
            self._module(pl_module).load_state_dict(self.average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._training:
            self._module(pl_module).load_state_dict(self._training)
            self._training = {}

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"]
        self._last_step = state_dict["last_step"]

    @staticmethod
    def _module(pl_module: pl.LightningModule) -> torch.nn.Module:
        model: torch.nn.Module = pl_module.model
        return model

    def _state(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        return self._module(pl_module).state_dict()


class CheckedCheckpoints(CheckpointIO):
    """Writes a checkpoint in one step with its sha256 behind it, and keeps the one before.

    A kill while writing leaves the old file; a file damaged on disk is noticed, and the one before
    is used.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_path(path) as unfinished, unfinished.open("wb") as file:
            file.write(buffer.getbuffer())
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            if path.exists():
                # Killed between here and the end, a training goes on from the one before.
                path.replace(previous_path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = Path(path)
        for candidate in (path, previous_path(path)):
            content = candidate.read_bytes() if candidate.exists() else b""
            body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
            if content and hashlib.sha256(body).digest() == digest:
                if candidate != path:
                    logger.warning("%s is damaged or gone; going on from %s", path, candidate.name)
                    # Otherwise the next save would keep it in place of the sound one.
                    path.unlink(missing_ok=True)
                loaded: dict[str, Any] = torch.load(
                    io.BytesIO(body), map_location=map_location or "cpu", weights_only=True
                )
                return loaded
        raise TrainingError(
            path,
            "is damaged (its sha256 does not fit), and so is the one before it",
            "train anew with another name=<name> or paths.runs=<folder>",
            code="E_CHECKPOINT_DAMAGED",
        )

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class EpochCheckpoint(pl.callbacks.Checkpoint):
    """Writes `path` after an epoch and at the end of training.

    Lightning calls its kind last, when an EarlyStopping has counted the epoch.

    Args:
        path: of the checkpoint.
        share: at most about this share of the time goes into writing; epochs are left out for it. A
            short training writes after every epoch, so that a kill costs little.
    """

    def __init__(self, path: Path, *, share: float = 0.05) -> None:
        self.path = path
        self.share = share
        self._next = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Every process takes part in saving, so all follow the clock of one.
        if trainer.strategy.broadcast(time.monotonic() >= self._next):
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        start = time.monotonic()
        trainer.save_checkpoint(self.path)
        end = time.monotonic()
        self._next = end + (end - start) / self.share


class SamplerEpoch(pl.Callback):
    """Tells the sampler which epoch a resumed training goes on with.

    Lightning asks the loader for batches before it tells the sampler the epoch, so without this the
    first resumed epoch would repeat the batches of epoch 0.
    """

    def __init__(self, training: DataLoader[Any]) -> None:
        self.training = training

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        epochs_done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        if isinstance(self.training.sampler, StepSampler):
            self.training.sampler.set_epoch(epochs_done)


class TimeLimit(pl.Callback):
    """Ends training once the module has trained for its `max_time_s`, interruptions not counted."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.max_time_s is not None and pl_module.elapsed_s >= pl_module.max_time_s:
            trainer.should_stop = True  # resumed after its end

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.max_time_s is not None:
            is_over = pl_module.elapsed_now_s >= pl_module.max_time_s
            if trainer.strategy.reduce_boolean_decision(is_over, all=False):
                trainer.should_stop = True


class Monitor(pl.Callback):
    """Learning rate and throughput.

    Args:
        batch_size: patches per step.
        every_n_steps: interval of the curves.
    """

    def __init__(self, *, batch_size: int, every_n_steps: int = 10) -> None:
        self.batch_size = batch_size
        self.every_n_steps = every_n_steps
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            rate = (batch_idx + 1) / max(1e-6, time.monotonic() - self._start)
            pl_module.log("throughput/patches_per_s", rate * self.batch_size * trainer.world_size)
            pl_module.log("learning_rate", trainer.optimizers[0].param_groups[0]["lr"])


class ProgressLine(pl.Callback):
    """Share done, step, loss, Dice and the time left: one line on a terminal, else in the log."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._loss = float("nan")
        self._last_line = self._last_epoch_line = -LOG_EVERY_S

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._last_line = time.monotonic()
        self._first = (self._last_line, pl_module.progress)
        if not trainer.is_global_zero or not get_console().is_terminal:
            return
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            refresh_per_second=2,
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=1.0, facts="", left="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any
    ) -> None:
        if not trainer.is_global_zero:
            return
        loss = float(outputs["loss"].detach()) if isinstance(outputs, dict) else float(outputs)
        self._loss = loss if np.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss
        if self._bar is not None:
            facts, left = self._facts(trainer, pl_module), self._left(pl_module)
            self._bar.update(self._task, completed=pl_module.progress, facts=facts, left=left)
        elif time.monotonic() - self._last_line >= LOG_EVERY_S:
            self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        is_due = time.monotonic() - self._last_epoch_line >= LOG_EVERY_S
        if trainer.is_global_zero and self._bar is None and is_due:
            self._log(trainer, pl_module)
            self._last_epoch_line = self._last_line

    def _log(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._last_line = time.monotonic()
        facts, left = self._facts(trainer, pl_module), self._left(pl_module)
        logger.info("epoch %d: %s, %s", trainer.current_epoch + 1, facts, left)

    def _facts(self, trainer: pl.Trainer, pl_module: Any) -> str:
        scores = " ".join(f"{name} {value:.3f}" for name, value in pl_module.scores.items())
        facts = f"step {trainer.global_step} loss {self._loss:.3f}"
        if not scores:
            return facts
        scored, shown = pl_module.scored_cases
        kind = _SCORE_TITLES.get(pl_module.task.score_name, pl_module.task.score_name)
        return f"{facts} {kind} {scores}" + (
            f" ({scored} of {shown} cases looked at)" * (scored < shown)
        )

    def _left(self, pl_module: Any) -> str:
        start, first = self._first
        done = pl_module.progress
        rate = (done - first) / max(1e-6, time.monotonic() - start)
        if rate <= 0:
            return "? left"
        left_s = (1 - done) / rate
        if pl_module.max_time_s:  # the first steps are slow
            left_s = min(left_s, max(0.0, pl_module.max_time_s - pl_module.elapsed_s))
        return f"{timedelta(seconds=round(left_s))} left"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
