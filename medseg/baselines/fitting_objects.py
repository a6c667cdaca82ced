"""How far objects are apart and how small they can be, chosen on cases whose objects are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medseg.baselines.predictor import Baseline
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet, LabelMap, instances_of
from medseg.metrics.detection import HitCounts, hit_counts
from medseg.metrics.object_pairs import ObjectPairs, compare_objects

# Narrower than half an object cuts everything, wider than one joins; of equals the first is taken.
_SHARES_OF_DIAMETER = (0.7, 0.85, 0.55, 1.0, 0.4, 1.3)
_PERCENTILES_OF_VOLUME = (0, 1, 5)
_IOU = 0.5


def fit_sizes(baseline: Baseline, cases: Sequence[Case]) -> Baseline:
    """The baseline with the distance and the least volume of objects that give the highest F1 at an
    IoU of 0.5; itself where no reference tells objects apart.

    Distances are shares of the median diameter of the reference objects (of a disc or ball of their
    size), volumes percentiles of theirs.

    Args:
        baseline: finds objects; `apart_mm` and `smallest_mm3` are replaced.
        cases: labelled.
    """
    known = [(case, objects) for case in cases if (objects := _objects(case)) is not None]
    sizes = [objects.volumes_mm3 for _, objects in known]
    volumes = np.concatenate(sizes) if sizes else np.zeros(0)
    if not volumes.size:
        return baseline
    diameter = float(np.median(np.concatenate([_diameters(objects) for _, objects in known])))
    smallest = sorted({0.0, *(float(np.percentile(volumes, p)) for p in _PERCENTILES_OF_VOLUME)})
    choices = [
        replace(baseline, apart_mm=float(f"{diameter * share:.3g}"), smallest_mm3=0.0)
        for share in _SHARES_OF_DIAMETER
    ]
    counts = {(a, volume): HitCounts() for a in range(len(choices)) for volume in smallest}
    for case, objects in known:
        classes = choices[0].predict_volume(case.read_image())
        for a, choice in enumerate(choices):
            found = choice.told_apart(classes)
            assert isinstance(found, InstanceSet)
            class_ids = sorted({int(n) for n in objects.class_ids})
            for pairs in compare_objects(objects, found, class_ids=class_ids):
                for volume in smallest:
                    counts[a, volume] += hit_counts(_not_below(pairs, volume), _IOU)
    best, volume = max(counts, key=lambda key: counts[key].f1)
    return replace(choices[best], smallest_mm3=float(f"{volume:.4g}"))


def _objects(case: Case) -> InstanceSet | None:
    assert case.read_reference is not None
    reference = case.read_reference()
    return None if isinstance(reference, LabelMap) else instances_of(reference)


def _diameters(objects: InstanceSet) -> np.ndarray:
    """Of the disc (in a flat picture) or ball of each object's size, mm."""
    shape, spacing = objects.geometry.shape, objects.geometry.spacing_mm
    flat = [step for step, extent in zip(spacing, shape, strict=True) if extent == 1]
    if flat:
        return np.asarray(2 * np.sqrt(objects.volumes_mm3 / flat[0] / np.pi))
    return np.asarray(2 * np.cbrt(objects.volumes_mm3 * 3 / (4 * np.pi)))


def _not_below(pairs: ObjectPairs, volume_mm3: float) -> ObjectPairs:
    """The pairs without predicted objects of less volume."""
    large = (pairs.prediction_mm3 >= volume_mm3).astype(np.float64)
    return replace(pairs, scores=large).above(0.5)
