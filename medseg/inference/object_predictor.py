"""One case through a bundle that finds objects: image in, objects on the input grid out."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.bundle import ModelBundle
from medseg.core.components import thing_ids
from medseg.core.errors import MedsegError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap, ProbabilityMap
from medseg.core.volume import Volume
from medseg.inference.bundle_networks import mirror_axes_of
from medseg.inference.ensemble import BundleGroup
from medseg.inference.network_space import instance_set, panoptic_map
from medseg.inference.object_engines import FiniteDetector, sole_network
from medseg.inference.object_merge import (
    FoundObject,
    cropped,
    merge_views,
    probabilities_of,
)
from medseg.inference.object_windows import PART_SCORE, ObjectWindows
from medseg.inference.precision import autocast, best_device, best_precision
from medseg.inference.runtimes import make_detector
from medseg.inference.sliding_window import EngineName, Tta, mirror_combinations
from medseg.inference.upsample import upsample_labels
from medseg.models.detection.masks import THRESHOLD
from medseg.models.detection.objects import Detector
from medseg.models.layout import in_fast_layout
from medseg.transforms.preprocess import Preprocessed, preprocess
from medseg.transforms.resample import along_axes
from medseg.transforms.restore import turn_back, turned_shape


class ObjectPredictor:
    """Finds objects with the network of a bundle, and the class of every voxel where it is for
    panoptic segmentation; or objects with the networks of several bundles.

    A network's scores are moved so that the one from which on objects are best kept, as
    validation cases have it, becomes a half; their order stays. Several networks, and mirrored
    images, are views of which an object has the mean score and outline (`merge_views`).

    Args:
        bundle: loaded bundle of one network, or several that find objects of the same classes.
        objects: how images are covered with windows, and which objects are kept.
        tta: "mirror" looks at all mirrored images along the axes that training mirrored.
        engine: what computes the network's maps; others than torch see windows of the extents that
            training saw, on the CPU.
        device: "cpu" or "cuda"; None takes a GPU where there is one.
        precision: "bf16-mixed", "16-mixed" or "32-true"; None takes the fastest native one.

    Raises:
        BundleError: a bundle averages several networks, which objects cannot be.
        ConfigError: the bundle carries no network for the engine.
    """

    def __init__(
        self,
        bundle: ModelBundle | BundleGroup,
        *,
        objects: ObjectWindows | None = None,
        tta: Tta = "none",
        engine: EngineName = "torch",
        device: str | None = None,
        precision: str | None = None,
    ) -> None:
        bundles = bundle.bundles if isinstance(bundle, BundleGroup) else (bundle,)
        self.labels = bundles[0].labels
        self.task_kind: Literal["instances", "panoptic"] = (
            "panoptic" if bundles[0].task_kind == "panoptic" else "instances"
        )
        self.objects = objects or ObjectWindows()
        device = device or best_device()
        precision = precision or best_precision(device)
        self.members = [
            _Member(
                one,
                objects=self.objects,
                is_alone=len(bundles) == 1,
                tta=tta,
                engine=engine,
                device=device,
                precision=precision,
            )
            for one in bundles
        ]

    def predict(self, case: Case) -> InstanceSet | PanopticMap:
        """Objects on the grid of the case's image."""
        return self.predict_volume(case.read_image())

    def predict_with_probabilities(
        self, case: Case
    ) -> tuple[LabelMap | InstanceSet | PanopticMap, ProbabilityMap]:
        """Objects have scores, not probabilities of classes.

        Raises:
            MedsegError: always.
        """
        raise MedsegError(
            case.key,
            "probabilities were asked for, but the model finds objects, which have scores",
            "leave out probabilities; the scores are in <case>.json",
            code="E_PREDICTION",
        )

    def predict_volume(self, volume: Volume) -> InstanceSet | PanopticMap:
        """Objects on the grid of the volume."""
        orientation = self.members[0].bundle.plan.orientation
        source = volume.geometry
        shape = turned_shape(source, orientation)
        views, classes = [], None
        for member, ready in zip(self.members, self._prepared(volume), strict=True):
            found, classes = member.find(ready, shape, wants_classes=self.task_kind == "panoptic")
            views.append(found)
        if len(views) == 1:  # interpolated outlines of neighbours may overlap
            placed = self.objects.apart(views[0], shape)
        else:
            placed = self.objects.chosen(merge_views(views, shape), shape)
        unit = Geometry.from_spacing(shape, spacing_mm=(1.0, 1.0, 1.0))
        instances = instance_set(placed, unit, labels=self.labels)
        turned = replace(
            instances,
            layers=turn_back(instances.layers, source, orientation=orientation),
            geometry=source,
        )
        if classes is None:
            return turned
        return panoptic_map(
            turn_back(classes, source, orientation=orientation), turned, labels=self.labels
        )

    def _prepared(self, volume: Volume) -> list[Preprocessed]:
        """The volume as each bundle has it, computed once for equal plans."""
        plans = [member.bundle.plan for member in self.members]
        prepared: list[Preprocessed] = []
        for n, plan in enumerate(plans):
            first = plans.index(plan)
            prepared.append(prepared[first] if first < n else preprocess(volume, plan))
        return prepared


class _Member:
    """The network of one bundle.

    Args:
        bundle, objects, tta, engine, device, precision: see `ObjectPredictor`.
        is_alone: else what this network doubts is found, too, since others may be sure of it.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        objects: ObjectWindows,
        is_alone: bool,
        tta: Tta,
        engine: EngineName,
        device: str,
        precision: str,
    ) -> None:
        self.bundle = bundle
        self.is_alone = is_alone
        # Windows work with the network's own scores.
        own = moved_score(objects.min_score, 0.5, bundle.best_score)
        self.objects = replace(objects, min_score=own)
        self.device = device
        self.precision = precision
        axes = mirror_axes_of(bundle, tta=tta)
        self.mirrors = mirror_combinations(axes if tta == "mirror" else ())
        network = in_fast_layout(sole_network(bundle).to(self.device).eval(), self.device)
        exported = make_detector(
            bundle, engine, network, device=self.device, precision=self.precision
        )
        if exported is not None:
            network.cpu()
            self.device, self.precision = "cpu", exported.precision
            self.objects = replace(self.objects, window_growth=1.0)
        self.detector = FiniteDetector(
            exported or cast(Detector, network), precision=self.precision
        )

    def find(
        self, ready: Preprocessed, shape: tuple[int, int, int], *, wants_classes: bool
    ) -> tuple[list[FoundObject], NDArray[np.integer] | None]:
        """Objects and the class of every voxel, on the grid of the volume turned as the plan is.

        Args:
            ready: the image as the plan has it.
            shape: of that grid.
            wants_classes: of voxels; else None is given.
        """
        bundle = self.bundle
        image = torch.from_numpy(ready.array).to(self.device)
        objects = self.objects
        # Slices that a 2D network doubts would wear down the objects of a volume.
        if not self.is_alone and (bundle.plan.spatial_dims == 3 or image.shape[3] == 1):
            doubted = moved_score(PART_SCORE, 0.5, bundle.best_score)
            objects = replace(objects, min_score=min(objects.min_score, doubted))
        with torch.inference_mode(), autocast(self.device, self.precision):
            found, logits = objects.find(
                self.detector,
                image,
                patch_size=tuple(bundle.plan.patch_size or ()),
                class_ids=thing_ids(bundle.labels),
                num_classes=len(bundle.labels) if wants_classes else None,
                mirrors=self.mirrors,
            )
        inner = ready.array.shape[1:]
        placed = [
            replace(
                resized(one, inner, shape), score=moved_score(one.score, bundle.best_score, 0.5)
            )
            for one in found
        ]
        if logits is None:
            return placed, None
        return placed, upsample_labels(logits, shape, num_classes=len(bundle.labels))


def moved_score(score: float, before: float, after: float) -> float:
    """A score on a scale on which `before` has become `after`: odds are multiplied, so that 0 stays
    0, 1 stays 1, and the order is kept.
    """
    if before == after:
        return score
    odds_for = score * after * (1 - before)
    odds_against = (1 - score) * before * (1 - after)
    return odds_for / (odds_for + odds_against)


def resized(
    found: FoundObject, old_shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> FoundObject:
    """An object of a grid on another one over the same field of view: where its probabilities,
    interpolated linearly, are at least a half. Where nowhere they are, it is where the voxel of the
    old grid that is nearest is in the mask, or at least one voxel of the highest probability.

    Args:
        found: in three axes.
        old_shape, new_shape: voxels of the two grids.
    """
    if tuple(old_shape) == tuple(new_shape):
        return found
    old_values = probabilities_of(found)
    start, matrices = [], {}
    for axis, (old, new) in enumerate(zip(old_shape, new_shape, strict=True)):
        first, matrix = _linear(found.start[axis] - 1, old_values.shape[axis], old, new)
        start.append(first)
        matrices[axis] = matrix
    values = along_axes(old_values, matrices)
    mask: NDArray[np.bool_] = values >= THRESHOLD
    if not mask.any():
        nearest = {
            n: (m == m.max(1, keepdims=True)).astype(np.float32) for n, m in matrices.items()
        }
        mask = along_axes(np.pad(found.mask, 1).astype(np.float32), nearest) > 0
    if not mask.any():
        mask = values == values.max()
        mask.flat[np.flatnonzero(mask)[1:]] = False
    around = np.pad(values, 1)
    return cropped(replace(found, start=tuple(start), mask=mask, probabilities=around))


def _linear(first: int, extent: int, old: int, new: int) -> tuple[int, NDArray[np.float32]]:
    """First voxel of the new axis that a piece of the old one reaches, and the matrix that
    interpolates the piece there; the outermost voxels of the image go on beyond it.
    """
    low = max(0, int(np.floor((first + 0.5) * new / old - 0.5)))
    high = min(new - 1, int(np.ceil((first + extent - 0.5) * new / old - 0.5)))
    high = max(low, high)
    position = (np.arange(low, high + 1) + 0.5) * old / new - 0.5
    position = np.clip(position, 0, old - 1) - first
    below = np.clip(np.floor(position).astype(int), 0, extent - 1)
    above = np.minimum(below + 1, extent - 1)
    weight = np.clip(position - below, 0, 1)
    matrix = np.zeros((len(position), extent), np.float32)
    np.add.at(matrix, (np.arange(len(position)), below), 1 - weight)
    np.add.at(matrix, (np.arange(len(position)), above), weight)
    return low, matrix
