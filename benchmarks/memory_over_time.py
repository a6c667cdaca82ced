"""Memory of the whole `predict` command over time on a large scan, as a table.

    python benchmarks/memory_over_time.py FOLDER --shape 512 512 1000 --classes 117 --budget 8

Writes a CT of noise and a bundle with a small U-Net of random weights below FOLDER, runs
`python -m medseg predict` on them in a process of its own and samples that process's memory. What a
network has learnt changes nothing about memory; the share of voxels at boundaries does, and is
larger for random weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
import torch
from PIL import Image, ImageDraw

from medseg.bundle import ModelBundle
from medseg.core.labels import LabelSet
from medseg.data.plan import Plan
from medseg.models.unet import UNet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 1000))
    parser.add_argument("--spacing", type=float, nargs=3, default=(0.8, 0.8, 1.0), help="mm")
    parser.add_argument("--classes", type=int, default=117)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--budget", type=float, default=8.0)
    parser.add_argument("--plot", type=Path, help="PNG of the memory over time")
    options = parser.parse_args()
    images = options.folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    write_scan(images / "scan.nii.gz", tuple(options.shape), tuple(options.spacing))
    write_bundle(options.folder / "bundle", options.classes, options.patch)
    command = [
        *(sys.executable, "-m", "medseg", "predict"),
        f"bundle={options.folder / 'bundle'}",
        f"source.folder={images}",
        f"paths.output={options.folder / 'results'}",
        f"inference.memory_budget_gib={options.budget}",
        f"inference.overlap={options.overlap}",
    ]
    start = time.monotonic()
    process = psutil.Popen(command)
    samples: list[tuple[float, float]] = []
    while process.poll() is None:
        try:
            samples.append((time.monotonic() - start, process.memory_info().rss / 2**30))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.25)
    print(f"exit code {process.wait()}, {samples[-1][0]:.0f} s, budget {options.budget:g} GiB")
    print(f"highest memory {max(size for _, size in samples):.2f} GiB; over time:")
    table = np.array(samples)
    np.savetxt(
        options.folder / "memory.csv",
        table,
        "%.2f",
        delimiter=",",
        header="seconds,GiB",
        comments="",
    )
    if options.plot:
        plot(table, options.budget, options.plot)
    for part in np.array_split(table, 20):
        print(f"{part[-1, 0]:7.0f} s  {part[:, 1].max():5.2f} GiB")


def plot(table: np.ndarray, budget: float, path: Path) -> None:
    """Memory over time as a line, below the budget as another."""
    width, height, left, bottom = 900, 360, 60, 40
    image = Image.new("P", (width, height), 0)
    image.putpalette([255, 255, 255, 40, 40, 40, 60, 84, 136, 230, 75, 53, 225, 225, 225])
    draw = ImageDraw.Draw(image)
    end, top = float(table[-1, 0]), 1.1 * budget

    def place(seconds: float, size: float) -> tuple[float, float]:
        x = left + seconds / end * (width - left - 20)
        return x, height - bottom - size / top * (height - bottom - 20)

    for size in range(0, int(top) + 1, 2):
        draw.line([place(0, size), place(end, size)], fill=4)
        x, y = place(0, size)
        draw.text((x - 40, y - 6), f"{size} GiB", fill=1)
    step = max(1, round(end / 60 / 8)) * 60
    for seconds in range(0, int(end) + 1, step):
        x, y = place(seconds, 0)
        draw.text((x - 4, y + 8), f"{seconds // 60} min", fill=1)
    draw.line([place(0, budget), place(end, budget)], fill=3)
    draw.line([place(*row) for row in table[:: max(1, len(table) // 2000)]], fill=2, width=2)
    image.save(path, optimize=True)


def write_scan(path: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(-1000, 1500, tuple(-(-n // 16) for n in shape), dtype=np.int16)
    array = coarse
    for axis in range(3):
        array = np.repeat(array, 16, axis=axis)
    array = array[tuple(slice(n) for n in shape)]
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)


def write_bundle(folder: Path, classes: int, patch: int) -> None:
    torch.manual_seed(0)
    options = {
        "in_channels": 1,
        "base_channels": 4,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "light_finest": False,
    }
    network = UNet(out_channels=classes, **options)
    ModelBundle.write(
        folder,
        weights={"fold_0": network.state_dict()},
        plan=Plan(
            spatial_dims=3,
            orientation="RAS",
            spacing_mm=(1.5, 1.5, 1.5),
            patch_size=(patch,) * 3,
            batch_size=2,
            strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
            kernel_sizes=((3, 3, 3),) * 3,
            base_channels=4,
            normalisation=(
                {"kind": "clip_zscore", "low": -1000, "high": 1000, "mean": 0.0, "std": 400.0},
            ),
        ),
        labels=LabelSet.from_names(["background", *(f"organ_{n}" for n in range(1, classes))]),
        config={},
        card={
            "name": "memory",
            "network": {"class": "medseg.models.unet.UNet", "options": options},
        },
    )


if __name__ == "__main__":
    main()
