"""The numbers of a training as a table, history.csv: one row after every epoch."""

from __future__ import annotations

import csv
import io
import resource
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from medseg.core.atomic import write_text

FILE_NAME = "history.csv"
FIXED = ("epoch", "step", "elapsed_s", "loss", "learning_rate", "memory_gib", "gpu_memory_gib")
"""Columns before the validation scores; memory is the highest so far, of the process and on the
GPU.
"""


class RunHistory(pl.Callback):
    """Writes history.csv. A resumed training keeps the rows up to where it goes on.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, str]] = []
        self._loss: Tensor | None = None
        self._num_losses = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._rows = read_history(self.path)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._rows = [row for row in self._rows if int(row["step"]) <= trainer.global_step]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any
    ) -> None:
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach()
        self._loss = loss.clone() if self._loss is None else self._loss + loss
        self._num_losses += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or self._loss is None:
            return
        values: dict[str, float] = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "elapsed_s": pl_module.elapsed_now_s,
            "loss": float(self._loss) / self._num_losses,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "memory_gib": peak_memory_gib(),
        }
        if torch.cuda.is_available():
            values["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        values |= {name: float(score) for name, score in pl_module.scores.items()}
        self._rows.append({name: f"{value:.8g}" for name, value in values.items()})
        self._loss, self._num_losses = None, 0
        columns = dict.fromkeys([*FIXED, *(name for row in self._rows for name in row)])
        lines = io.StringIO()
        writer = csv.DictWriter(lines, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, lines.getvalue())


def read_history(path: Path) -> list[dict[str, str]]:
    """Rows of a history.csv; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [dict(row) for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]


def peak_memory_gib() -> float:
    """Most main memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
