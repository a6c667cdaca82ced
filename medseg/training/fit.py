"""Seed, train, resume: one model on one fold, ending with the averaged weights."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from medseg.core.errors import ConfigError
from medseg.inference.precision import device_of
from medseg.training.callbacks import (
    CheckedCheckpoints,
    EpochCheckpoint,
    MovingAverage,
    ProgressLine,
    SamplerEpoch,
    TimeLimit,
)
from medseg.training.checkpoint_files import CHECKPOINT_NAME, has_checkpoint
from medseg.training.module import TrainingModule


@dataclass(frozen=True)
class FitResult:
    """What a training gave.

    Args:
        weights: averaged weights of the network, on CPU.
        num_steps: training steps done.
        elapsed_s: seconds spent training, interruptions not counted.
        score_name: of the validation scores, such as "dice".
        scores: last validation score per class, in network space.
        scored_cases: how many cases they rest on, and on how many they would with more time.
        best_score: see `medseg.tasks.task.Task`.
        is_main_process: False in the other processes of a training on several devices.
    """

    weights: Mapping[str, Tensor]
    num_steps: int
    elapsed_s: float
    score_name: str
    scores: Mapping[str, float]
    scored_cases: tuple[int, int]
    best_score: float
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
    _quieten_lightning()
    warnings.filterwarnings("ignore", module="lightning")
    pl.seed_everything(seed, workers=True, verbose=False)
    trainer = trainer_factory(
        callbacks=callbacks,
        logger=loggers,
        plugins=[CheckedCheckpoints()],
        default_root_dir=str(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
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
        score_name=module.task.score_name,
        scores=dict(module.scores),
        scored_cases=module.scored_cases,
        best_score=module.best_score,
        is_main_process=trainer.is_global_zero,
    )


def seconds(max_time: str | Mapping[str, float] | None) -> float | None:
    """Seconds of a Lightning time limit, "DD:HH:MM:SS" or a mapping with days, hours, minutes,
    seconds.

    Raises:
        ConfigError: it is no such time, or no time at all.
    """
    if max_time is None:
        return None
    remedy = "write days:hours:minutes:seconds, as 00:00:10:00"
    if isinstance(max_time, Mapping):
        units = ("days", "hours", "minutes", "seconds")
        parts = [max_time.get(unit, 0) for unit in units]
        is_time = set(max_time) <= set(units) and all(isinstance(p, int | float) for p in parts)
    else:
        texts = str(max_time).split(":")
        is_time = len(texts) == 4 and all(text.isdigit() for text in texts)
        parts = [int(text) for text in texts] if is_time else []
    if not is_time:
        raise ConfigError("trainer.max_time", f"is '{max_time}'", remedy)
    days, hours, minutes, secs = parts
    total = timedelta(days=days, hours=hours, minutes=minutes, seconds=secs).total_seconds()
    if total <= 0:
        raise ConfigError("trainer.max_time", f"is '{max_time}', which leaves no time", remedy)
    return total


def check_trainer(options: Mapping[str, Any]) -> None:
    """Makes a trainer of options for Lightning's, so that a wrong one is told before data is read.

    Raises:
        ConfigError: a number is out of range, or devices, strategy and precision do not go
            together or are not to be had here.
    """
    seconds(options.get("max_time"))
    for name in ("max_epochs", "accumulate_grad_batches"):
        number = options.get(name)
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"trainer.{name}", f"is {number}", "use 1 or more")
    device_of(str(options.get("accelerator")))
    num_nodes = options.get("num_nodes") or 1
    if num_nodes > 1 and not {"MASTER_ADDR", "SLURM_JOB_ID"} & set(os.environ):
        # Lightning would wait for the others for ever.
        raise ConfigError(
            "trainer.num_nodes",
            f"is {num_nodes}, but nothing says where the other machines are",
            "start it on every machine with torchrun or srun, which do",
        )
    own = ("_target_", "max_time", "enable_progress_bar", "log_every_n_steps")
    _quieten_lightning()
    try:
        pl.Trainer(
            **{key: value for key, value in options.items() if key not in own},
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except Exception as error:  # of many classes, Lightning's own and Python's
        raise ConfigError(
            "trainer",
            " ".join(str(error).split()),
            "correct trainer.accelerator, trainer.devices, trainer.strategy or trainer.precision",
        ) from error


def check_optimizer(factory: Callable[[Iterable[torch.nn.Parameter]], Any]) -> None:
    """Makes an optimizer of one number, so that a wrong option is told before data is read.

    Raises:
        ConfigError: an option is out of range.
    """
    try:
        factory([torch.nn.Parameter(torch.zeros(1))])
    except Exception as error:
        raise ConfigError("optimizer", str(error), "correct the options of optimizer") from error


def _quieten_lightning() -> None:
    """Leaves out banners and advertisements."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
