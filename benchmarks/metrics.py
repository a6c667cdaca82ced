"""Times medseg's scores against MONAI's Hausdorff and surface Dice metrics at equal values.

    python benchmarks/metrics.py [--predictions DIR --references DIR] [--cases N]

Without folders, label maps with two classes are made: a structure in the size of a hippocampus, a
kidney and a liver, each segmented well, fairly and badly. CPU time; MONAI gets its one-hot
tensors made beforehand, and only the two metrics are timed; medseg's time is that of all scores.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from monai.metrics import HausdorffDistanceMetric, SurfaceDiceMetric
from scipy.ndimage import zoom

from medseg.core.geometry import Geometry
from medseg.core.segmentation import LabelMap
from medseg.metrics.case_scores import CaseScore, evaluate_case
from medseg.reports.label_files import find_predictions, find_references
from medseg.sources.label_maps import read_label_map

TOLERANCE_MM = 1.0
SIZES = {"40": (1.0, 1.0, 1.0), "120": (0.8, 0.8, 2.5), "220": (0.8, 0.8, 1.5)}
QUALITIES = {"good": 0.01, "fair": 0.05, "bad": 0.25}
Pairs = Iterator[tuple[str, LabelMap, LabelMap]]


def made_pairs() -> Pairs:
    """Blobs with an inner blob, and the same with smooth noise on their surface."""
    random = np.random.default_rng(0)
    for size, spacing_mm in SIZES.items():
        extent = int(size)
        axes = np.meshgrid(*[np.linspace(-1, 1, extent)] * 3, indexing="ij")
        radius = np.sqrt(sum(axis**2 for axis in axes))
        radius += 0.25 * zoom(random.normal(size=(8, 8, 8)), extent / 8, order=3)
        geometry = Geometry.from_spacing((extent,) * 3, spacing_mm=spacing_mm)
        for quality, amplitude in QUALITIES.items():
            noise = amplitude * zoom(random.normal(size=(16, 16, 16)), extent / 16, order=3)
            maps = [
                LabelMap(((field < 0.65) + (field < 0.3)).astype(np.uint8), geometry)
                for field in (radius, radius + noise)
            ]
            yield f"{size}^3 {quality}", maps[0], maps[1]


def read_pairs(predictions: Path, references: Path, *, most: int) -> Pairs:
    predicted, referred = find_predictions(predictions), find_references(references)
    keys = [key for key in referred.paths if key in predicted.paths]
    for key in keys[:most]:
        yield (
            key,
            read_label_map(referred.paths[key], None),
            read_label_map(predicted.paths[key], None),
        )


def time_medseg(
    reference: LabelMap, prediction: LabelMap, surface: str
) -> tuple[float, list[CaseScore]]:
    start = time.process_time()
    scores = evaluate_case(
        reference, prediction, labels=None, tolerance_mm=TOLERANCE_MM, surface=surface
    )
    return time.process_time() - start, scores


def time_monai(
    reference: LabelMap, prediction: LabelMap, class_ids: list[int]
) -> tuple[float, float, float, np.ndarray, np.ndarray]:
    """Seconds of HD95, of surface Dice and of it on surface elements; HD95 and surface Dice."""
    maps = [
        torch.from_numpy(np.stack([found.array == n for n in class_ids])).float()[None]
        for found in (prediction, reference)
    ]
    spacing = list(reference.geometry.spacing_mm)
    tolerances = [TOLERANCE_MM] * len(class_ids)
    metrics = (
        HausdorffDistanceMetric(include_background=True, percentile=95),
        SurfaceDiceMetric(tolerances, include_background=True),
        SurfaceDiceMetric(tolerances, include_background=True, use_subvoxels=True),
    )
    times, values = [], []
    for metric in metrics:
        start = time.process_time()
        values.append(metric(*maps, spacing=spacing)[0].numpy())
        times.append(time.process_time() - start)
    return times[0], times[1], times[2], values[0], values[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--references", type=Path)
    parser.add_argument("--cases", type=int, default=52)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    is_given = arguments.predictions is not None
    pairs = (
        read_pairs(arguments.predictions, arguments.references, most=arguments.cases)
        if is_given
        else made_pairs()
    )
    print("ms per case; ratio = MONAI's two metrics / all of medseg's scores on the same surface")
    print(
        f"{'case':>22} {'border voxels: HD95':>20} {'+ NSD':>8} {'medseg':>8} {'ratio':>6}"
        f" {'elements: NSD':>15} {'medseg':>8} {'largest difference':>20}"
    )
    total = np.zeros(5)
    is_first = True
    for key, reference, prediction in pairs:
        if is_first:  # tables and lazy imports
            time_medseg(reference, prediction, "elements")
            time_monai(reference, prediction, [1])
            is_first = False
        ours_s, scores = time_medseg(reference, prediction, "border_voxels")
        elements_s, _ = time_medseg(reference, prediction, "elements")
        class_ids = [score.class_id for score in scores]
        hd_s, nsd_s, nsd_elements_s, hd95_mm, nsd = time_monai(reference, prediction, class_ids)
        difference = max(
            np.nanmax(np.abs(hd95_mm - [score.hd95_mm for score in scores])),
            np.nanmax(np.abs(nsd - [score.nsd for score in scores])),
        )
        times = np.array([hd_s, nsd_s, ours_s, nsd_elements_s, elements_s]) * 1000
        total += times
        if not is_given:
            print_row(key, times, f"{difference:.1e}")
    if is_given:
        print_row("all", total, "")


def print_row(key: str, times_ms: np.ndarray, difference: str) -> None:
    hd, nsd, ours, nsd_elements, elements = times_ms
    print(
        f"{key:>22} {hd:20.1f} {nsd:8.1f} {ours:8.1f} {(hd + nsd) / ours:6.1f}"
        f" {nsd_elements:15.1f} {elements:8.1f} {difference:>20}"
    )


if __name__ == "__main__":
    main()
