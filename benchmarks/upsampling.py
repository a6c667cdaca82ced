"""Label maps from logits on a coarser grid: medseg, PyTorch's interpolation of all classes, and, if
it is installed, nnU-Net's export, in turn on the same logits.

    python benchmarks/upsampling.py --classes 117 --shape 160 160 120 --scale 1.5
    python benchmarks/upsampling.py --full 512 512 600 --classes 117

Logits are smooth blobs with noise, so that a share of the voxels lies at boundaries as in a scan of
the body. With --full only medseg runs, fed slab by slab as prediction does, and the highest memory
of the process is printed.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.inference.upsample import LabelResult, LabelRule, upsample_labels

STRUCTURE = 24
"""Coarse voxels from one structure to the next: 36 mm at 1.5 mm."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=117)
    parser.add_argument("--shape", type=int, nargs=3, default=(120, 120, 100), help="coarse")
    parser.add_argument("--scale", type=float, default=1.5, help="fine voxels per coarse one")
    parser.add_argument("--full", type=int, nargs=3, help="fine shape for medseg alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-peers", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    upsample_labels(torch.zeros(2, 2, 2, 2), (3, 3, 3))  # compiles
    if options.full:
        run_full(tuple(options.full), options.scale, options.classes)
        return
    shape = tuple(options.shape)
    fine = tuple(round(n * options.scale) for n in shape)
    logits = blobs(options.classes, shape)
    print(f"{options.classes} classes, {shape} to {fine}, {options.threads} threads")
    ours, seconds, processor = timed(lambda: upsample_labels(logits, fine))
    print(f"medseg             {seconds:8.2f} s, processor {processor:8.2f} s")
    if options.skip_peers:
        return
    for name, run in (("PyTorch, all", all_classes), ("nnU-Net", nnunet_export)):
        try:
            theirs, other, other_processor = timed(lambda run=run: run(logits, fine))
        except ImportError:
            print(f"{name:18} is not installed")
            continue
        print(
            f"{name:18} {other:8.2f} s, processor {other_processor:8.2f} s: {other / seconds:.1f} "
            f"times as long, processor {other_processor / processor:.1f} times; "
            f"{(theirs != ours).mean():.1e} of the voxels differ"
        )


def blobs(classes: int, shape: tuple[int, ...]) -> Tensor:
    """Logits of structures of about STRUCTURE voxels, background in half of the space."""
    generator = torch.Generator().manual_seed(0)
    knots = [max(2, round(n / STRUCTURE)) for n in shape]
    coarse = torch.randn(1, classes, *knots, generator=generator) * 6
    coarse[:, 0] += 6 * (2 * np.log(classes)) ** 0.5
    logits = F.interpolate(coarse, shape, mode="trilinear")[0]
    for channel in logits:
        channel += torch.randn(shape, generator=generator) * 0.3
    return logits


def all_classes(logits: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    full = F.interpolate(logits[None], shape, mode="trilinear")[0]
    return full.argmax(0).numpy()


def nnunet_export(logits: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """What nnU-Net does with logits when it writes a prediction."""
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
    )
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    old = list(logits.shape[1:])
    spacing = [a / b for a, b in zip(shape, old, strict=True)]
    sampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    plans = PlansManager(
        {
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {
                "3d_fullres": {
                    "architecture": {},
                    "spacing": spacing,
                    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                    "resampling_fn_probabilities_kwargs": sampling,
                }
            },
        }
    )
    names = {"background": 0} | {str(n): n for n in range(1, len(logits))}
    properties = {
        "spacing": [1.0, 1.0, 1.0],
        "shape_after_cropping_and_before_resampling": list(shape),
        "shape_before_cropping": list(shape),
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }
    return convert(
        logits,
        plans,
        plans.get_configuration("3d_fullres"),
        LabelManager(names, None),
        properties,
        num_threads_torch=torch.get_num_threads(),
    )


def run_full(shape: tuple[int, ...], scale: float, classes: int) -> None:
    """Slabs of logits, made one after the other, to a label map of the full size."""
    old = tuple(round(n / scale) for n in shape)
    order = (2, 0, 1)  # along the axis of the body
    old, shape = tuple(old[n] for n in order), tuple(shape[n] for n in order)
    depth = 48
    slab = blobs(classes, (depth + 1, *old[1:]))
    result = LabelResult(old, shape, rule=LabelRule(classes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, began = time.perf_counter(), time.process_time()
    for first in range(0, old[0], depth):
        low = max(0, first - 1)
        result.add(low, slab[:, : min(old[0], first + depth) - low])
    seconds, processor = time.perf_counter() - start, time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{classes} classes, {old} to {shape}: {seconds:.1f} s, processor {processor:.1f} s; "
        f"{result.num_interpolated / result.array.size:.1%} of the voxels interpolated; "
        f"highest memory {peak / 2**20:.2f} GiB, {before / 2**20:.2f} before the first "
        f"slab (a slab of logits takes {slab.nbytes / 2**30:.2f} GiB)"
    )


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    start, began = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - start, time.process_time() - began


if __name__ == "__main__":
    main()
