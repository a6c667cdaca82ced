"""What a run shows besides its curves: plan and configuration as text, slices with contours,
precision against recall.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medseg.core.atomic import atomic_path
from medseg.inference.bundle_networks import free_stride
from medseg.models.detection.class_logits import with_class_logits
from medseg.tasks.decoding import probabilities
from medseg.tasks.semantic import SemanticTask
from medseg.training.overlays import contour_overview

MAX_PICTURES = 16
"""Over a whole training, evenly spread: event files stay small, and the run page as well."""
NUM_THRESHOLDS = 64


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
        is_last = (
            pl_module.progress >= 1.0
            or trainer.should_stop
            or trainer.current_epoch + 1 == trainer.max_epochs
        )
        if pl_module.progress * (self.max_pictures - 1) < self._num_shown and not is_last:
            return
        self._num_shown = int(pl_module.progress * (self.max_pictures - 1)) + 1
        batch, found = shown
        key, image = batch["key"], batch["image"]
        reference, prediction = pl_module.task.shown(found, batch)
        picture = contour_overview(
            image[0].float().cpu().numpy(),
            reference,
            prediction,
            labels=pl_module.task.labels,
            spacing_mm=self.spacing_mm,
        )
        curves = precision_recall_samples(pl_module, image, batch["target"])
        for board in _boards(trainer):
            board.add_image(f"validation/{key}", np.moveaxis(picture, -1, 0), trainer.global_step)
            for name, (is_inside, shares) in curves.items():
                board.add_pr_curve(
                    f"precision_recall/{name}",
                    is_inside,
                    shares,
                    trainer.global_step,
                    num_thresholds=NUM_THRESHOLDS,
                )
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / f"step_{trainer.global_step:07d}.png") as unfinished:
                Image.fromarray(picture).save(unfinished, format="PNG")


def precision_recall_samples(
    pl_module: Any, image: Tensor, target: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per structure, where it is and how probable the network finds it, in one patch around the
    middle of the reference; none for tasks that find objects.

    Args:
        pl_module: with model, task, inference and patch size.
        image: (C, I, J, K).
        target: (I, J, K).
    """
    task = pl_module.task
    if not isinstance(task, SemanticTask):
        return {}
    size = [*pl_module.patch_size, 1][:3]
    places = torch.nonzero(target > 0)
    middle = places[len(places) // 2] if len(places) else torch.tensor(target.shape) // 2
    box = tuple(
        slice(start, start + n)
        for m, n, extent in zip(middle.tolist(), size, target.shape, strict=True)
        for start in [max(0, min(m - n // 2, extent - n))]
    )
    network = with_class_logits(pl_module.model)
    with torch.inference_mode():
        logits = pl_module.inference.logits(
            network,
            image[(slice(None), *box)],
            patch_size=pl_module.patch_size,
            out_channels=task.out_channels,
            stride=free_stride(network),
        )
    shares = probabilities(logits[None].float().cpu(), labels=task.labels, axis=1)[0]
    truth = target[box].cpu()
    known = torch.ones_like(truth, dtype=torch.bool)
    if task.labels.ignore_id is not None:
        known = truth != task.labels.ignore_id
    first = 0 if task.labels.regions else 1
    return {
        structure.name: (
            torch.isin(truth, torch.tensor(structure.class_ids))[known],
            shares[first + n][known],
        )
        for n, structure in enumerate(task.labels.structures)
    }


def _boards(trainer: pl.Trainer) -> list[Any]:
    return [
        logger.experiment
        for logger in trainer.loggers
        if isinstance(logger, pl.loggers.TensorBoardLogger) and trainer.is_global_zero
    ]
