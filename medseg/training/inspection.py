"""Looks into a training, taken on request: histograms of the weights, a profile of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

from medseg.core.errors import ConfigError


class WeightHistograms(pl.Callback):
    """Histograms of all weights and of their last gradients, for TensorBoard.

    Args:
        every_n_epochs: how often; each time costs about 10 KiB per tensor.
    """

    def __init__(self, *, every_n_epochs: int = 10) -> None:
        if every_n_epochs < 1:
            raise ConfigError("every_n_epochs", f"is {every_n_epochs}", "use 1 or more")
        self.every_n_epochs = every_n_epochs
        self._gradients: dict[str, torch.Tensor] = {}

    def _is_due(self, trainer: pl.Trainer) -> bool:
        return trainer.is_global_zero and trainer.current_epoch % self.every_n_epochs == 0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        if self._is_due(trainer):
            self._gradients = {
                name: weight.grad.detach()
                for name, weight in pl_module.named_parameters()
                if weight.grad is not None
            }

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._is_due(trainer):
            return
        for logger in trainer.loggers:
            if not isinstance(logger, pl.loggers.TensorBoardLogger):
                continue
            for name, weight in pl_module.named_parameters():
                logger.experiment.add_histogram(
                    f"weights/{name}", weight.detach().float(), trainer.global_step
                )
            for name, gradient in self._gradients.items():
                logger.experiment.add_histogram(
                    f"gradients/{name}", gradient.float(), trainer.global_step
                )
        self._gradients = {}


class StepProfile(pl.Callback):
    """A trace of a few training steps as <folder>/trace.json, for chrome://tracing or Perfetto.

    Args:
        folder: where the trace goes.
        first_step: where it begins; the steps before warm up.
        num_steps: how many it holds; ten of a small 3D network give a few MiB.
    """

    def __init__(self, *, folder: str, first_step: int = 5, num_steps: int = 5) -> None:
        if first_step < 0 or num_steps < 1:
            raise ConfigError(
                "num_steps", f"is {num_steps} from {first_step}", "use 1 or more, from 0 or more"
            )
        self.folder = Path(folder)
        self.first_step = first_step
        self.num_steps = num_steps
        self._profile: Any = None
        self._num_done = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and self._num_done == self.first_step and not self._profile:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities, record_shapes=True)
            self._profile.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._num_done += 1
        if self._profile and self._num_done == self.first_step + self.num_steps:
            self._finish()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._profile:
            self._profile.stop()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(self.folder / "trace.json"))
            self._profile = None
