"""Tiny labelled cases with known answers, for the tests of planning, training and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import nibabel
import numpy as np
import phantoms
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.bundle import ModelBundle
from medseg.core.geometry import Shape3, Spacing3
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import SourceDescription
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.data.cache import CaseCache
from medseg.data.dataset import BatchDataset
from medseg.data.loader import LoaderSpec, training_loader, validation_loader
from medseg.data.plan import Plan
from medseg.inference.sliding_window import SlidingWindow
from medseg.losses.dice_ce import DiceCELoss
from medseg.models.unet import UNet
from medseg.tasks.semantic import SemanticTask
from medseg.training.callbacks import EpochCheckpoint, MovingAverage
from medseg.training.checkpoint_files import CHECKPOINT_NAME
from medseg.training.fit import FitResult, fit
from medseg.training.module import TrainingModule
from medseg.training.schedules import poly
from medseg.transforms.augment import Augment

LABELS = phantoms.TWO_LABELS


def block(
    number: int,
    *,
    shape: Shape3 = (16, 14, 12),
    spacing_mm: Spacing3 = (1.0, 1.25, 2.0),
    orientation: str = "RAS",
    modality: str = "MR",
    labels: LabelSet = LABELS,
) -> tuple[Volume, LabelMap]:
    """A bright box (class 1) with a brighter corner (class 2), placed anew for each number.

    The box is three to five times brighter than the noise, so a few dozen steps learn it.
    """
    rng = np.random.default_rng(number)
    reference = np.zeros(shape, np.uint8)
    low = rng.integers(1, 4, 3)
    high = low + np.array(shape) // 2
    reference[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    reference[tuple(slice(a, a + 3) for a in low)] = 2
    image = 300.0 * reference + rng.normal(0.0, 60.0, shape)
    geometry = phantoms.grid(shape=shape, spacing_mm=spacing_mm, orientation=orientation)
    return (
        Volume(image.astype(np.float32)[None], geometry, modality),
        LabelMap(reference, geometry, labels),
    )


def case_of(
    volume: Volume,
    reference: LabelMap | None,
    *,
    key: str = "case_a",
    group: str = "",
    is_held_out: bool = False,
    paths: tuple[Path, ...] = (),
) -> Case:
    """A case that holds its image and reference in memory."""
    return Case(
        key,
        read_image=lambda: volume,
        read_reference=None if reference is None else lambda: reference,
        group=group,
        is_held_out=is_held_out,
        paths=paths,
    )


def block_cases(count: int, **options: Any) -> list[Case]:
    """`count` cases of `block`, keys case_000, case_001, ..."""
    return [case_of(*block(n, **options), key=f"case_{n:03d}") for n in range(count)]


def write_blocks(folder: Path, count: int, **options: Any) -> list[Path]:
    """`count` cases of `block` as images/case_000.nii.gz and labels/case_000.nii.gz; returns the
    images.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    images = []
    for n in range(count):
        volume, reference = block(n, **options)
        affine = volume.geometry.affine
        images.append(folder / "images" / f"case_{n:03d}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(volume.array[0], affine), images[-1])
        nibabel.save(
            nibabel.Nifti1Image(reference.array, affine),
            folder / "labels" / f"case_{n:03d}.nii.gz",
        )
    return images


@dataclass(frozen=True)
class CaseList:
    """A source of given cases."""

    given: tuple[Case, ...]
    labels: LabelSet | None = None

    def cases(self) -> list[Case]:
        return list(self.given)

    def describe(self) -> SourceDescription:
        return SourceDescription(labels=self.labels)


def small_plan(**changes: Any) -> Plan:
    """A finished plan for the cases of `block` at their own spacing."""
    entries: dict[str, Any] = {
        "spatial_dims": 3,
        "orientation": "RAS",
        "spacing_mm": (1.0, 1.25, 2.0),
        "patch_size": (16, 16, 8),
        "batch_size": 2,
        "strides": ((1, 1, 1), (2, 2, 2)),
        "kernel_sizes": ((3, 3, 3), (3, 3, 3)),
        "base_channels": 4,
        "normalisation": ({"kind": "zscore"},),
    }
    return Plan(**{**entries, **changes})


class PerfectNetwork(nn.Module):
    """Its logits are the channels of the image, which must be one mask per class."""

    def __init__(self, in_channels: int, out_channels: int, *, value: float = 1.0) -> None:
        super().__init__()
        assert in_channels == out_channels
        self.register_buffer("value", torch.tensor(value))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.value


def one_hot(reference: LabelMap, *, num_classes: int = 3) -> Volume:
    """The masks of all classes as channels, 255 inside."""
    masks = np.stack([reference.array == n for n in range(num_classes)])
    return Volume(255.0 * masks.astype(np.float32), reference.geometry)


def perfect_bundle(
    folder: Path,
    *,
    values: Sequence[float] = (1.0,),
    mirror_axes: str = "",
    labels: LabelSet = LABELS,
    options: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    coarse: ModelBundle | None = None,
    **plan: Any,
) -> ModelBundle:
    """A bundle of `PerfectNetwork`, one fold per value; needs
    MEDSEG_ALLOWED_TARGETS=learning_cases.
    """
    return ModelBundle.write(
        folder,
        weights={f"fold_{n}": {"value": torch.tensor(v)} for n, v in enumerate(values)},
        plan=small_plan(**{"normalisation": ({"kind": "scale_255"},) * 3, **plan}),
        labels=labels,
        config={},
        coarse=coarse,
        card={
            "name": "perfect",
            "mirror_axes": mirror_axes,
            "network": {
                "class": "learning_cases.PerfectNetwork",
                "options": dict(options or {"in_channels": 3}),
            },
            **(card or {}),
        },
    )


def numbers(shape: tuple[int, ...], *, seed: int = 0) -> NDArray[np.float32]:
    """Normally distributed float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """What `StopAt` raises."""


class StopAt(pl.Callback):
    """Stops a training as a kill would, before the given step's batch is used."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            raise Stopped


def small_unet(**options: Any) -> nn.Module:
    """An untrained U-Net for `small_plan`, the same at each call."""
    torch.manual_seed(0)
    return UNet(1, 3, **{"base_channels": 4, "strides": (1, 2), **options})


def fit_blocks(
    folder: Path,
    *,
    epochs: int,
    steps_per_epoch: int = 3,
    resume: bool = False,
    network: nn.Module | None = None,
    loss: nn.Module | None = None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Any] = (),
    shows_progress: bool = False,
    num_workers: int = 0,
    max_time_s: float | None = None,
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
    lr: float = 0.01,
    cases: Sequence[Case] | None = None,
    decay: float = 0.9,
    plan: Mapping[str, Any] | None = None,
    num_validation: int = 1,
    num_shown: int | None = None,
    always_validate: bool = True,
    finishes: bool = True,
    **trainer: Any,
) -> FitResult:
    """Trains a tiny network on three blocks, repeatably on the CPU, with a fourth to validate."""
    cases = block_cases(4) if cases is None else list(cases)
    cache = CaseCache(folder / "cache", plan=small_plan(**(plan or {})), num_classes=3)
    loader = LoaderSpec(num_workers=num_workers, steps_per_epoch=steps_per_epoch)
    task = SemanticTask(labels=LABELS, loss=loss or DiceCELoss())
    batches = BatchDataset(
        cases[:-num_validation],
        cache,
        augment=Augment(),
        foreground_fraction=0.5,
        mirror_axes=(0,),
        outside_label=task.outside_label,
        seed=7,
        rank=0,
        num_steps=epochs * steps_per_epoch,
        finishes=finishes,
    )
    module = TrainingModule(
        small_unet() if network is None else network,
        task,
        optimizer=partial(optimizer, lr=lr),
        schedule=poly,
        inference=SlidingWindow(),
        patch_size=(16, 16, 8),
        total_steps=epochs * steps_per_epoch // trainer.get("accumulate_grad_batches", 1),
        max_time_s=max_time_s,
        always_validate=always_validate,
    )
    return fit(
        module,
        trainer_factory=partial(
            pl.Trainer,
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            deterministic=True,
            gradient_clip_val=12.0,
            **trainer,
        ),
        training=training_loader(batches, loader, device="cpu"),
        validation=validation_loader(cases[-num_validation:], cache, num_shown=num_shown),
        folder=folder,
        resume=resume,
        seed=7,
        callbacks=[
            MovingAverage(decay=decay),
            *callbacks,
            EpochCheckpoint(folder / CHECKPOINT_NAME, share=float("inf")),  # after every epoch
        ],
        loggers=list(loggers),
        shows_progress=shows_progress,
    )
