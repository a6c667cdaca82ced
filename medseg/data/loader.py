"""Loaders: batches in the order of their step, and whole cases for validation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from medseg.core.errors import ConfigError
from medseg.core.identity import Case
from medseg.data.cache import CaseCache
from medseg.data.dataset import BatchDataset
from medseg.transforms.boxes import box_around


@dataclass(frozen=True)
class LoaderSpec:
    """How batches are made.

    Args:
        num_workers: processes that prepare batches; None takes up to 8 beside a GPU, and none on
            CPU, where they would only compete with the network.
        steps_per_epoch: training steps between two looks at the validation cases and two
            checkpoints.
        foreground_fraction: share of patches centred on a voxel of a foreground class; a whole
            number of each batch, see `BatchDataset`.
        validation_cases: at most this many cases are looked at while training. The last look takes
            in all that it has time for, all of them where validation has no time limit
            (`trainer.deterministic`); with callbacks=early_stop no look is known to be the last.
        augment_on_device: change patches (transforms/augment.py) on the device that trains, all of
            a batch, instead of in the processes that cut them; None does so on a GPU.
    """

    num_workers: int | None = None
    steps_per_epoch: int = 50
    foreground_fraction: float = 0.33
    validation_cases: int = 8
    augment_on_device: bool | None = None

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise ConfigError(
                "loader.steps_per_epoch", f"is {self.steps_per_epoch}", "use 1 or more"
            )
        if self.validation_cases < 1:
            raise ConfigError(
                "loader.validation_cases", f"is {self.validation_cases}", "use 1 or more"
            )
        if self.num_workers is not None and self.num_workers < 0:
            raise ConfigError("loader.num_workers", f"is {self.num_workers}", "use 0 or more")
        if not 0 <= self.foreground_fraction <= 1:
            raise ConfigError(
                "loader.foreground_fraction", f"is {self.foreground_fraction}", "use 0 to 1"
            )

    def workers(self, device: str) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return 0 if device == "cpu" else min(8, max(1, (os.cpu_count() or 2) - 1))

    def augments_on(self, device: str) -> bool:
        """Whether patches are changed on the device that trains."""
        return device != "cpu" if self.augment_on_device is None else self.augment_on_device


class StepSampler(Sampler[int]):
    """The step numbers of one epoch; Lightning calls `set_epoch` before each."""

    def __init__(self, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.steps_per_epoch
        return iter(range(first, first + self.steps_per_epoch))


class ShownCases(Sampler[int]):
    """The first validation cases, or, where `takes_all` is set, all of them.

    It may be set and taken back while the cases are gone through.
    """

    def __init__(self, num_cases: int, *, num_shown: int) -> None:
        self.num_cases = num_cases
        self.num_shown = num_shown
        self.takes_all = False

    def __len__(self) -> int:
        return self.num_cases

    def __iter__(self) -> Iterator[int]:
        for number in range(self.num_cases):
            if number >= self.num_shown and not self.takes_all:
                return
            yield number


class WholeCases(Dataset[dict[str, Any]]):
    """Validation cases in network space, one at a time and unchanged.

    Args:
        cases: validation cases.
        cache: gives them in network space, and holds the plan.
        region_margin: voxels along each axis; cases are cut to the reference with this margin, as
            the fine network of a cascade would see them if the coarse one made no mistake.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        cache: CaseCache,
        *,
        region_margin: tuple[float, ...] | None = None,
    ) -> None:
        self.cases = list(cases)
        self.cache = cache
        self.region_margin = region_margin

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Image (C, I, J, K) float32, target (I, J, K) int64 and the case's key; where there are
        objects, also what the target's codes mean.
        """
        case = self.cache.get(self.cases[number])
        image, labels = case.image, case.labels
        if self.region_margin is not None:
            least = self.cache.plan.patch_size or ()
            box = box_around(case.locations, labels.shape, margin=self.region_margin, least=least)
            image, labels = np.ascontiguousarray(image[(slice(None), *box)]), labels[box]
        return {
            "image": torch.from_numpy(image),
            "target": torch.from_numpy(labels).long(),
            "key": case.key,
            "spacing_mm": case.spacing_mm,
            **({} if case.codes is None else {"codes": case.codes}),
        }


def training_loader(
    batches: BatchDataset, spec: LoaderSpec, *, device: str
) -> DataLoader[dict[str, Any]]:
    """Batches of the epoch in order; each item of the data set is a whole batch already."""
    workers = spec.workers(device)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=StepSampler(spec.steps_per_epoch),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device != "cpu",
    )


def validation_loader(
    cases: Sequence[Case],
    cache: CaseCache,
    *,
    num_shown: int | None = None,
    region_margin: tuple[float, ...] | None = None,
) -> DataLoader[dict[str, Any]]:
    """Whole cases, or the regions of their references, one at a time.

    Args:
        cases: validation cases.
        cache: see `WholeCases`.
        num_shown: see `ShownCases`; None shows all.
        region_margin: see `WholeCases`.
    """
    whole = WholeCases(cases, cache, region_margin=region_margin)
    num_shown = len(whole) if num_shown is None else num_shown
    return DataLoader(whole, batch_size=None, sampler=ShownCases(len(whole), num_shown=num_shown))
