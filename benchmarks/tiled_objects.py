"""Objects found in windows against those found in the whole image: are they the same, and what do
they cost?

A detector without a network (connected parts above a level) finds every object exactly, so what
differs comes from the windows. Each run is a process of its own, whose highest memory is told.
With a bundle of a 2D network, its memory for images of growing extents is told instead.

    python benchmarks/tiled_objects.py
    python benchmarks/tiled_objects.py --bundle runs/nuclei/fold_0/bundle
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medseg.bundle import ModelBundle
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet
from medseg.core.volume import Volume
from medseg.inference.bundle_predictor import predictor_of
from medseg.inference.ensemble import load_bundles
from medseg.inference.network_space import instance_set
from medseg.inference.object_windows import ObjectWindows
from medseg.metrics.detection import hit_counts
from medseg.metrics.object_pairs import compare_objects
from medseg.models.detection.objects import Detections

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, tuple[float, float]]] = {
    # name: extents, training patch, objects, radii in voxels
    "2D": ((2048, 2048), (256, 256), 3000, (3.0, 24.0)),
    "3D": ((256, 256, 256), (64, 64, 64), 500, (3.0, 11.0)),
}


class Bright:
    """Connected parts above 1."""

    def __call__(self, image: Tensor) -> Tensor:
        return image

    def semantic_logits(self, outputs: Tensor, *, shape: Sequence[int]) -> None:
        return None

    def detect(
        self, outputs: Tensor, *, shape: Sequence[int], max_objects: int, min_score: float
    ) -> list[Detections]:
        pixels = outputs[0, 0].numpy()
        parts, count = ndimage.label(pixels > 1)
        boxes = ndimage.find_objects(parts)
        masks = [parts[box] == n for n, box in enumerate(boxes, start=1)]
        if not count:
            return [Detections.none(pixels.ndim)]
        corners = torch.tensor([[part.start for part in box] for box in boxes])
        extents = torch.tensor([mask.shape for mask in masks])
        return [
            Detections(
                torch.cat([corners, corners + extents], 1).float(),
                torch.linspace(0.99, 0.6, count),
                torch.ones(count, dtype=torch.long),
                corners,
                tuple(torch.from_numpy(mask) for mask in masks),
            )
        ]


def phantom(shape: tuple[int, ...], count: int, radii: tuple[float, float]) -> np.ndarray:
    """Numbered balls that do not touch, shape (I, J, K)."""
    rng = np.random.default_rng(0)
    numbers = np.zeros(shape, np.uint16)
    placed = 0
    for _ in range(50 * count):
        if placed == count:
            break
        radius = rng.uniform(*radii)
        centre = rng.uniform(radius, np.array(shape) - 1 - radius)
        low = np.maximum(np.floor(centre - radius - 2).astype(int), 0)
        high = np.minimum(np.ceil(centre + radius + 3).astype(int), shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = np.meshgrid(
            *(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"
        )
        squares = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
        if (numbers[box][squares <= (radius + 2) ** 2] > 0).any():
            continue
        placed += 1
        numbers[box][squares <= radius**2] = placed
    return numbers.reshape((*shape, 1)[:3])


def run(name: str, growth: float, path: Path) -> dict[str, Any]:
    """One prediction; memory is the process's highest above what the image itself needed."""
    patch = CASES[name][1]
    image = torch.from_numpy(np.load(path))[None]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    objects, _ = ObjectWindows(window_growth=growth, max_objects=100_000).find(
        Bright(), image, patch_size=patch, class_ids=[1]
    )
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = np.load(path.with_suffix(".numbers.npy"))
    geometry = Geometry.from_spacing(numbers.shape, spacing_mm=(1.0, 1.0, 1.0))
    found = instance_set(objects, geometry, labels=None)
    reference = type(found).from_map(numbers, geometry)
    (pairs,) = compare_objects(reference, found, class_ids=[1])
    return {
        "objects": int(numbers.max()),
        "found": len(found),
        "f1_at_0.9": hit_counts(pairs, 0.9).f1,
        "seconds": round(seconds, 1),
        "mib": round((peak - before) / 1024),
    }


def run_network(folder: Path, extent: int) -> dict[str, Any]:
    """One prediction of a picture of balls with a bundle's network; memory is the process's highest
    above what it had with network and image read.
    """
    bundle = load_bundles(folder)
    assert isinstance(bundle, ModelBundle)
    predictor = predictor_of(bundle, device="cpu")
    numbers = phantom((extent, extent), extent**2 // 1400, (3.0, 24.0))
    rng = np.random.default_rng(0)
    pixels = np.where(numbers > 0, 160, 30) + rng.integers(0, 30, numbers.shape)
    array = np.repeat(pixels[None].astype(np.float32), bundle.plan.num_channels, 0)
    picture = Volume(array, Geometry.from_spacing(numbers.shape, spacing_mm=(1.0, 1.0, 1.0)), "OT")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = predictor.predict(Case("balls", lambda: picture))
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(found, InstanceSet)
    return {
        "objects": int(numbers.max()),
        "found": len(found),
        "seconds": round(seconds, 1),
        "mib": round((peak - before) / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--extent", type=int)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "GROWTH", "IMAGE"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one[0], float(options.one[1]), Path(options.one[2]))))
        return
    if options.extent:
        print(json.dumps(run_network(options.bundle, options.extent)))
        return
    if options.bundle:
        for extent in (512, 1024, 2048, 4096):
            command = [sys.executable, __file__, "--bundle", options.bundle, "--extent", extent]
            output = subprocess.run(
                [str(part) for part in command], check=True, capture_output=True, text=True
            ).stdout
            print(f"{extent}x{extent}: {output.strip()}", flush=True)
        return
    for name, (shape, _, count, radii) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image.npy"
            numbers = phantom(shape, count, radii)
            np.save(path, np.where(numbers > 0, 5.0, 0.0).astype(np.float32))
            np.save(path.with_suffix(".numbers.npy"), numbers)
            for growth in (1.0, 2.0, 1000.0):
                command = [sys.executable, __file__, "--one", name, str(growth), str(path)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                print(f"{name}, window {growth:g} patches: {output.strip()}", flush=True)


if __name__ == "__main__":
    main()
