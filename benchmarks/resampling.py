"""Seconds of resampling a volume, against scipy.ndimage.zoom, and the largest difference.

python benchmarks/resampling.py [--shape 256,256,64] [--to 200,200,96] [--repeats 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from medseg.transforms.resample import resample_image


def main() -> None:
    arguments = _arguments()
    old, new = _shape(arguments.shape), _shape(arguments.to)
    image = np.random.default_rng(0).normal(size=(1, *old)).astype(np.float32)
    factors = [after / before for before, after in zip(old, new, strict=True)]

    def by_products() -> np.ndarray:
        return resample_image(image, new)[0]

    def by_scipy() -> np.ndarray:
        return ndimage.zoom(image[0], factors, order=3, mode="nearest", grid_mode=True)

    difference = np.abs(by_products() - np.clip(by_scipy(), image.min(), image.max())).max()
    ours, theirs = (_median_seconds(work, arguments.repeats) for work in (by_products, by_scipy))
    print(
        f"matrix products {ours:.2f} s, scipy.ndimage.zoom {theirs:.2f} s, ratio "
        f"{theirs / ours:.1f}; largest difference {difference:.1e} of a standard deviation"
    )


def _shape(text: str) -> tuple[int, int, int]:
    i, j, k = (int(n) for n in text.split(","))
    return i, j, k


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="256,256,64")
    parser.add_argument("--to", default="200,200,96")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
