"""Lesions found by a detector against the connected parts of a semantic network's class.

Both are folders of predictions on the same cases, such as `<run>/predictions` of two trainings
with the same held-out phantoms:

    python -m medseg train +experiment=liver_lesions data.source.num_held_out=24
    python -m medseg train +experiment=liver data.source.num_held_out=24 \
        data.source.num_cases=256 trainer.max_time=00:00:30:00
    python benchmarks/lesions.py REFERENCES --objects runs/liver_lesions/fold_0/predictions \
        --classes runs/liver/fold_0/predictions
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from medseg.core.components import components
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap
from medseg.metrics.detection import HitCounts, hit_counts
from medseg.metrics.object_pairs import ObjectPairs, compare_objects
from medseg.sources.instance_maps import read_instance_map
from medseg.sources.label_maps import read_label_map

IOUS = (0.1, 0.3, 0.5)
MIN_VOLUMES_MM3 = (0.0, 100.0, 200.0, 400.0, 800.0)
DIAMETERS_MM = (10.0, 20.0)
"""At which sizes are divided, of a ball of the same volume."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("references", type=Path)
    parser.add_argument("--objects", type=Path, nargs="*", default=[])
    parser.add_argument("--classes", type=Path, nargs="*", default=[])
    parser.add_argument("--class-id", type=int, default=2)
    options = parser.parse_args()
    names = [f"class_{n}" for n in range(1, options.class_id)]
    labels = LabelSet.from_names(["background", *names, "lesion"])
    for folder in options.objects:
        cases = [
            pairs_of(path, read_instance_map(folder / path.name), options.class_id, labels)
            for path in references(options.references, folder)
        ]
        for least in (0.0, 0.3, 0.5, 0.7):
            tell(f"{folder} score {least:g}", [case.above(least) for case in cases])
    for folder in options.classes:
        for volume in MIN_VOLUMES_MM3:
            cases = []
            for path in references(options.references, folder):
                found = lesions(folder / path.name, options.class_id, labels)
                found = larger(found, volume)
                cases.append(pairs_of(path, found, options.class_id, labels))
            tell(f"{folder} parts of at least {volume:g} mm3", cases)


def references(folder: Path, predictions: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.nii.gz")) if (predictions / path.name).exists()]


def lesions(path: Path, class_id: int, labels: LabelSet) -> InstanceSet:
    found = read_label_map(path, None)
    only = np.where(found.array == class_id, class_id, 0).astype(np.uint8)
    return components(LabelMap(only, found.geometry, labels), [class_id])


def larger(found: InstanceSet, volume_mm3: float) -> InstanceSet:
    """The same without small objects."""
    kept = found.num_voxels * found.geometry.voxel_volume_mm3 >= volume_mm3
    table = np.concatenate(([0], np.where(kept, np.cumsum(kept), 0)))
    return replace(
        found,
        layers=table[found.layers].astype(found.layers.dtype),
        class_ids=found.class_ids[kept],
        scores=found.scores[kept],
    )


def pairs_of(path: Path, found: InstanceSet, class_id: int, labels: LabelSet) -> ObjectPairs:
    reference = lesions(path, class_id, labels)
    (pairs,) = compare_objects(reference, found, class_ids=[class_id], case=path.name)
    return pairs


def tell(name: str, cases: Sequence[ObjectPairs]) -> None:
    """One row: F1 and its parts over all lesions, and what was found by size."""
    parts = []
    for iou in IOUS:
        hits = sum((hit_counts(case, iou) for case in cases), HitCounts())
        parts.append(
            f"IoU {iou:g}: F1 {hits.f1:.3f} ({hits.true_positives} found, "
            f"{hits.false_positives} wrong, {hits.false_negatives} missed)"
        )
    print(f"{name}, {len(cases)} cases: " + "; ".join(parts))
    edges = [0.0, *(np.pi / 6 * d**3 for d in DIAMETERS_MM), np.inf]
    for low, high in pairwise(edges):
        found = wanted = 0
        for case in cases:
            own = (case.reference_mm3 >= low) & (case.reference_mm3 < high)
            reached = np.zeros(len(own), bool)
            reached[case.reference[case.iou >= IOUS[0]]] = True
            wanted, found = wanted + int(own.sum()), found + int((own & reached).sum())
        print(f"  {low:.0f} to {high:.0f} mm3: {found} of {wanted} touched at IoU {IOUS[0]}")


if __name__ == "__main__":
    main()
