"""What a run shows besides its curves: plan and configuration as text, slices with contours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from PIL import Image

from medseg.core.atomic import atomic_path
from medseg.training.overlays import contour_overview

MAX_PICTURES = 16
"""Over a whole training, evenly spread: event files stay small, and the run page as well."""


class RunBoard(pl.Callback):
    """Texts and pictures for TensorBoard; pictures also as files for the run page.

    Args:
        spacing_mm: of network space, for the aspect ratio of pictures.
        folder: where pictures go as step_<number>.png; None for none.
        texts: shown once, by title.
        max_pictures: of one training.
    """

    def __init__(
        self,
        *,
        spacing_mm: tuple[float, ...],
        folder: Path | None = None,
        texts: Mapping[str, str] | None = None,
        max_pictures: int = MAX_PICTURES,
    ) -> None:
        self.spacing_mm = spacing_mm
        self.folder = folder
        self.texts = dict(texts or {})
        self.max_pictures = max_pictures
        self._num_shown = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for board in _boards(trainer):
            for title, text in self.texts.items():
                # Four spaces make a block of code, which keeps line breaks.
                block = "\n".join(f"    {line}" for line in text.splitlines())
                board.add_text(title, block, trainer.global_step)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        shown = pl_module.last_shown
        pl_module.last_shown = None
        if shown is None or not trainer.is_global_zero:
            return
        # The next picture is due when its share of the training is over; the last one always is.
        is_last = pl_module.progress >= 1.0 or trainer.should_stop
        if pl_module.progress * (self.max_pictures - 1) < self._num_shown and not is_last:
            return
        self._num_shown = int(pl_module.progress * (self.max_pictures - 1)) + 1
        key, image, target, prediction = shown
        picture = contour_overview(
            image[0].float().cpu().numpy(),
            target.cpu().numpy(),
            prediction.cpu().numpy(),
            labels=pl_module.task.labels,
            spacing_mm=self.spacing_mm,
        )
        for board in _boards(trainer):
            board.add_image(f"validation/{key}", np.moveaxis(picture, -1, 0), trainer.global_step)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / f"step_{trainer.global_step:07d}.png") as unfinished:
                Image.fromarray(picture).save(unfinished, format="PNG")


def _boards(trainer: pl.Trainer) -> list[Any]:
    return [
        logger.experiment
        for logger in trainer.loggers
        if isinstance(logger, pl.loggers.TensorBoardLogger) and trainer.is_global_zero
    ]
