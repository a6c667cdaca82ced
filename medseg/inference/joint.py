"""One image through the networks of one bundle or of several: what all of them together say."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import LabelMap, ProbabilityMap, UncertaintyMap
from medseg.inference.assembly import PART_BYTES, WORKING_COPIES, Maps, Wanted, assemble
from medseg.inference.bundle_networks import BundleNetworks
from medseg.inference.cases import Segmented
from medseg.inference.logit_stream import LogitStream
from medseg.inference.memory import MemoryUse, Progress
from medseg.inference.postprocess import Postprocess
from medseg.inference.sliding_window import Weights
from medseg.inference.tiling import Tiling
from medseg.inference.uncertainty import Measure, expected_dice
from medseg.inference.upsample import LabelRule
from medseg.transforms.preprocess import Preprocessed
from medseg.transforms.restore import turn_back, turned_shape


class Joint:
    """Bundles of the same classes and of the same patient axes.

    Args:
        members: networks of each bundle.
        weights: of the bundles, as `shares_of` gives them.
        postprocess: thresholds and corrections of the common result.
    """

    def __init__(
        self,
        members: Sequence[BundleNetworks],
        *,
        weights: Tensor,
        postprocess: Postprocess,
    ) -> None:
        self.members = members
        self.weights = weights
        self.postprocess = postprocess
        self.labels: LabelSet = members[0].bundle.labels
        self.measures = [Measure(self.labels, m.bundle.temperature) for m in members]
        self.rule = LabelRule(
            self.labels.num_outputs,
            paints=[region.paints for region in self.labels.regions] or None,
            offsets=postprocess.logit_offsets(self.labels),
            num_classes=len(self.labels),
        )

    def segment(
        self,
        prepared: Sequence[Preprocessed],
        *,
        wants: Collection[ResultKind],
        on_progress: Callable[[Progress], None] | None,
    ) -> Segmented:
        """What is wanted of an image.

        Args:
            prepared: the image as each bundle wants it.
            wants: kinds of results beside the label map.
            on_progress: told before the first window and after every few.
        """
        wanted = Wanted(
            "probabilities" in wants,
            "uncertainty" in wants,
            "uncertainty" in wants and sum(m.num_passes for m in self.members) > 1,
        )
        source = prepared[0].source
        images = [torch.from_numpy(p.array) for p in prepared]
        tilings = self._tilings(prepared)
        memories = self._memories(tilings, source, wanted)
        count = _Counting(
            on_progress,
            total=sum(tiling.num_windows for tiling in tilings),
            memory=_together(memories),
            estimate_s=sum(
                member.expected_seconds(image, tiling)
                for member, image, tiling in zip(self.members, images, tilings, strict=True)
            )
            if on_progress
            else float("nan"),
        )
        streams = []
        for n, (member, tiling) in enumerate(zip(self.members, tilings, strict=True)):
            measure = self.measures[n] if self._spreads(member, wanted) else None
            turned = turned_shape(source, member.bundle.plan.orientation)
            streams.append(
                LogitStream(
                    member.slabs(images[n], tiling, memories[n], measure=measure, on_windows=count),
                    old_shape=_axis_first(tiling.shape, tiling.axis),
                    shape=_axis_first(turned, tiling.axis),
                    measure=self.measures[n],
                    swaps=self._other_axes(n, tiling.axis) != self._other_axes(0, tilings[0].axis),
                    has_spread=measure is not None,
                )
            )
        maps = assemble(
            streams,
            weights=self.weights,
            measure=self.measures[0],
            rule=self.rule,
            own_rules=self._own_rules,
            wanted=wanted,
        )
        return self._results(maps, tilings[0].axis, source)

    def finished(self, classes: NDArray[Any], source: Geometry) -> LabelMap:
        """A label map in the orientation of the first bundle, on the grid of the image and
        post-processed.
        """
        array = turn_back(classes, source, orientation=self._orientation)
        return self.postprocess.apply(LabelMap(array, source, self.labels))

    def share_map(self, shares: NDArray[np.float32], source: Geometry) -> ProbabilityMap:
        """Probabilities in the orientation of the first bundle, on the grid of the image."""
        labels = self.labels
        if labels.regions:
            names = [region.name for region in labels.regions]
            labels = LabelSet.from_names([labels.names[0], *names])
        return ProbabilityMap(
            turn_back(shares, source, orientation=self._orientation), source, labels
        )

    def _results(self, maps: Maps, axis: int, source: Geometry) -> Segmented:
        def turned(array: NDArray[Any]) -> NDArray[Any]:
            lead = array.ndim - 3
            back = np.moveaxis(array, lead, lead + axis)
            return turn_back(back, source, orientation=self._orientation)

        decided = turned(maps.labels)
        label_map = self.postprocess.apply(LabelMap(decided, source, self.labels))
        shares = uncertainty = None
        if maps.shares is not None:
            shares = self.share_map(np.moveaxis(maps.shares, 1, 1 + axis), source)
        if maps.entropy is not None:
            assert maps.certainty is not None
            assert maps.mass is not None
            uncertainty = UncertaintyMap(
                turned(maps.entropy),
                None if maps.disagreement is None else turned(maps.disagreement),
                source,
                expected_dice(
                    label_map.array, decided, turned(maps.certainty), maps.mass, self.labels
                ),
            )
        return Segmented(label_map, shares, uncertainty)

    def _tilings(self, prepared: Sequence[Preprocessed]) -> list[Tiling]:
        """Of all bundles, with slabs along the same axis of the patient, the one that needs the
        least memory.
        """
        if len(self.members) == 1:
            return [self.members[0].tiling(prepared[0])]
        tilings = [m.tiling(p) for m, p in zip(self.members, prepared, strict=True)]
        choices = []
        for axis in range(3):
            places = [self._axis_of(n, axis) for n in range(len(self.members))]
            turned = [replace(t, along=a) for t, a in zip(tilings, places, strict=True)]
            choices.append((sum(float(np.prod(t.slab_shape)) for t in turned), axis, turned))
        return min(choices)[2]

    def _memories(
        self, tilings: Sequence[Tiling], source: Geometry, wanted: Wanted
    ) -> list[MemoryUse]:
        """Of each bundle, next to the slabs of those before it."""
        channels = self.labels.num_outputs
        voxels = float(np.prod(source.shape))
        per_voxel = wanted.bytes_per_voxel(channels, has_regions=bool(self.labels.regions))
        result_bytes = 2.0 * voxels * per_voxel
        if wanted.probabilities or wanted.uncertainty or len(self.members) > 1:
            result_bytes += WORKING_COPIES * len(self.members) * float(PART_BYTES)
        memories: list[MemoryUse] = []
        for member, tiling in zip(self.members, tilings, strict=True):
            before = sum(memory.parts["slab of logits"] for memory in memories)
            memories.append(
                member.memory(
                    tiling,
                    result_bytes=result_bytes,
                    has_spread=self._spreads(member, wanted),
                    others_bytes=before,
                )
            )
        return memories

    @property
    def _own_rules(self) -> list[LabelRule]:
        """Of each bundle's logits: as the common rule, which is for calibrated ones, unless there
        is one bundle, whose thresholds were chosen for its logits as they are.
        """
        offsets = self.rule.offsets
        if len(self.members) == 1 or offsets is None:
            return [self.rule] * len(self.members)
        return [
            replace(self.rule, offsets=[value * m.temperature for value in offsets])
            for m in self.measures
        ]

    @staticmethod
    def _spreads(member: BundleNetworks, wanted: Wanted) -> bool:
        return wanted.disagreement and member.num_passes > 1

    @property
    def _orientation(self) -> str | None:
        return self.members[0].bundle.plan.orientation

    def _codes(self, n: int) -> str:
        return self.members[n].bundle.plan.orientation or "IJK"

    def _axis_of(self, n: int, axis: int) -> int:
        """The axis of a bundle's network space that is an axis of the first's."""
        return self._codes(n).index(self._codes(0)[axis])

    def _other_axes(self, n: int, axis: int) -> str:
        return self._codes(n).replace(self._codes(n)[axis], "")


class _Counting:
    """Tells how far all bundles have come together."""

    def __init__(
        self,
        tell: Callable[[Progress], None] | None,
        *,
        total: int,
        memory: MemoryUse,
        estimate_s: float,
    ) -> None:
        self._tell = tell
        self._progress = Progress(0, total, 0.0, memory, estimate_s)
        if tell:
            tell(self._progress)
        self._start = time.monotonic()

    def __call__(self, windows: int) -> None:
        seconds = time.monotonic() - self._start
        done = self._progress.done + windows
        self._progress = replace(self._progress, done=done, seconds=seconds)
        if self._tell:
            self._tell(self._progress)


def _together(memories: Sequence[MemoryUse]) -> MemoryUse:
    """The last one's, which has the slabs of the others beside it, with the largest network."""
    last = memories[-1]
    network = max(memory.parts["network"] for memory in memories)
    return replace(last, parts={**last.parts, "network": network})


def _axis_first(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (shape[axis], *(n for a, n in enumerate(shape) if a != axis))


def shares_of(weights: Weights | None, count: int, *, num_channels: int) -> Tensor:
    """The weights of so many bundles, equal ones for None.

    Args:
        weights: one for each bundle, or a row for each with one for each channel.
        count: of the bundles.
        num_channels: of their logits.

    Returns:
        (count, 1) or (count, num_channels), float32; each column sums up to 1.

    Raises:
        ConfigError: there are more or fewer, or one is no positive number.
    """
    if weights is None:
        return torch.full((count, 1), 1 / count)
    rows = [[row] if isinstance(row, int | float) else list(row) for row in weights]
    lengths = {len(row) for row in rows}
    fits = len(rows) == count and lengths in ({1}, {num_channels})
    if not fits or not all(isfinite(w) and w > 0 for row in rows for w in row):
        raise ConfigError(
            "inference.weights",
            f"is {[row if len(row) > 1 else row[0] for row in rows]} for {count} bundles",
            "give one positive number for each bundle, or a list for each with one number for "
            f"each of its {num_channels} outputs",
        )
    given = torch.tensor(rows, dtype=torch.float64)
    return (given / given.sum(0)).float()
