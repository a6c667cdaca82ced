"""Seed, train, resume: one model on one fold, ending with the averaged weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from medseg.core.errors import ConfigError
from medseg.training.callbacks import (
    CheckedCheckpoints,
    EpochCheckpoint,
    MovingAverage,
    ProgressLine,
    SamplerEpoch,
    TimeLimit,
    has_checkpoint,
)
from medseg.training.module import TrainingModule

CHECKPOINT_NAME = "checkpoints/last.ckpt"


@dataclass(frozen=True)
class FitResult:
    """What a training gave.

    Args:
        weights: averaged weights of the network, on CPU.
        num_steps: training steps done.
        elapsed_s: seconds spent training, interruptions not counted.
        scores: last validation Dice per class, in network space.
        is_main_process: False in the other processes of a training on several devices.
    """

    weights: Mapping[str, Tensor]
    num_steps: int
    elapsed_s: float
    scores: Mapping[str, float]
    is_main_process: bool


def fit(
    module: TrainingModule,
    *,
    trainer_factory: Callable[..., pl.Trainer],
    training: DataLoader[Any],
    validation: DataLoader[Any],
    folder: Path,
    resume: bool,
    seed: int,
    callbacks: list[pl.Callback],
    loggers: list[Any],
    shows_progress: bool = True,
) -> FitResult:
    """Trains until the steps or the time are used up and returns the averaged weights.

    Args:
        module: model and task.
        trainer_factory: makes the trainer from callbacks, loggers, plugins and a root folder.
        training, validation: loaders.
        folder: run folder; holds the checkpoint.
        resume: go on from the checkpoint in `folder` if there is one.
        seed: of the random start.
        callbacks: further callbacks; a MovingAverage and an EpochCheckpoint are added where
            missing.
        loggers: Lightning loggers.
        shows_progress: draw a progress line on the terminal.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint is damaged.
    """
    checkpoint = folder / CHECKPOINT_NAME
    for unfinished in checkpoint.parent.glob(f".*.{checkpoint.name}"):  # of a run that was killed
        unfinished.unlink(missing_ok=True)
    average = next((c for c in callbacks if isinstance(c, MovingAverage)), None)
    if average is None:
        average = MovingAverage(decay=0.0)
        callbacks = [*callbacks, average]
    if not any(isinstance(c, EpochCheckpoint) for c in callbacks):
        callbacks = [*callbacks, EpochCheckpoint(checkpoint)]
    callbacks = [*callbacks, TimeLimit(), SamplerEpoch(training)]
    if shows_progress:
        callbacks.append(ProgressLine())
    for name in ("lightning.pytorch", "lightning.fabric"):  # banners and advertisements
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    pl.seed_everything(seed, workers=True, verbose=False)
    trainer = trainer_factory(
        callbacks=callbacks,
        logger=loggers,
        plugins=[CheckedCheckpoints()],
        default_root_dir=str(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=10,
    )
    trainer.fit(
        module,
        training,
        validation,
        ckpt_path=checkpoint if resume and has_checkpoint(checkpoint) else None,
    )
    if getattr(trainer, "interrupted", False):
        raise KeyboardInterrupt
    return FitResult(
        weights={key: value.detach().cpu() for key, value in average.average.items()},
        num_steps=trainer.global_step,
        elapsed_s=module.elapsed_s,
        scores=dict(module.scores),
        is_main_process=trainer.is_global_zero,
    )


def seconds(max_time: str | Mapping[str, int] | None) -> float | None:
    """Seconds of a Lightning time limit, "DD:HH:MM:SS" or a mapping with days, hours, minutes,
    seconds.

    Raises:
        ConfigError: the text is no such time.
    """
    if max_time is None:
        return None
    if not isinstance(max_time, str):
        return timedelta(**dict(max_time)).total_seconds()
    parts = max_time.split(":")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        raise ConfigError(
            "trainer.max_time",
            f"is '{max_time}'",
            "write days:hours:minutes:seconds, as 00:00:10:00",
        )
    days, hours, minutes, secs = (int(part) for part in parts)
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=secs).total_seconds()


def device_of(accelerator: str) -> str:
    """ "cuda" or "cpu" for a Lightning accelerator name."""
    if accelerator in ("gpu", "cuda"):
        if not torch.cuda.is_available():
            raise ConfigError(
                "trainer.accelerator", "is gpu, but no GPU can be used here", "set trainer=cpu"
            )
        return "cuda"
    return "cuda" if accelerator == "auto" and torch.cuda.is_available() else "cpu"
