"""Compares suppression and RoIAlign with torchvision's operators, in 2D, where torchvision is.

    python benchmarks/detection_parts.py [--cases 1000]

Needs torchvision beside torch (not a dependency of medseg), and medseg on the path. Prints how far
both differ on random cases in float64, and the processor time of each on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch import Tensor

from medseg.models.detection.nms import nms
from medseg.models.detection.roi_align import roi_align

TV_ORDER = [1, 0, 3, 2]
"""torchvision's boxes are x, y, x, y; x runs along the last axis."""


def random_boxes(rng: np.random.Generator, count: int, extent: float, largest: float) -> Tensor:
    centres = rng.uniform(0, extent, (count, 2))
    sizes = rng.uniform(1, largest, (count, 2))
    return torch.tensor(np.concatenate([centres - sizes / 2, centres + sizes / 2], 1))


def differing_suppressions(cases: int) -> int:
    """Cases in which not the same boxes are kept, with and without groups."""
    different = 0
    for seed in range(cases):
        rng = np.random.default_rng(seed)
        count, limit = int(rng.integers(1, 200)), float(rng.uniform(0.1, 0.9))
        boxes, scores = random_boxes(rng, count, 60, 20), torch.tensor(rng.random(count))
        groups = torch.tensor(rng.integers(0, 3, count))
        theirs = boxes[:, TV_ORDER]
        alone = torchvision.ops.nms(theirs, scores, limit)
        grouped = torchvision.ops.batched_nms(theirs, scores, groups, limit)
        different += not torch.equal(nms(boxes, scores, max_iou=limit), alone)
        different += not torch.equal(nms(boxes, scores, max_iou=limit, groups=groups), grouped)
    return different


def largest_differences(cases: int) -> tuple[float, float]:
    """Of RoIAlign's values and gradients."""
    values = gradients = 0.0
    for seed in range(cases):
        rng = np.random.default_rng(seed)
        shape, stride = rng.integers(1, 12, 2), float(rng.choice([1, 2, 4]))
        ratio, size = int(rng.integers(1, 4)), tuple(int(n) for n in rng.integers(1, 8, 2))
        ours = torch.tensor(rng.normal(size=(2, 3, *shape)), requires_grad=True)
        theirs = ours.detach().clone().requires_grad_()
        extent = float(stride * shape.max())
        rows = [random_boxes(rng, 1 + n, 1.2 * extent, extent) for n in range(2)]
        found = roi_align(
            ours, rows, output_size=size, stride=(stride, stride), sampling_ratio=ratio
        )
        wanted = torchvision.ops.roi_align(
            theirs,
            [part[:, TV_ORDER] for part in rows],
            size,
            spatial_scale=1 / stride,
            sampling_ratio=ratio,
            aligned=True,
        )
        back = torch.tensor(rng.normal(size=tuple(found.shape)))
        found.backward(back)
        wanted.backward(back)
        assert ours.grad is not None
        assert theirs.grad is not None
        values = max(values, float((found - wanted).detach().abs().max()))
        gradients = max(gradients, float((ours.grad - theirs.grad).abs().max()))
    return values, gradients


def milliseconds(work: Callable[[], object], repeats: int = 5) -> float:
    work()
    start = time.process_time()
    for _ in range(repeats):
        work()
    return 1000 * (time.process_time() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    cases = parser.parse_args().cases
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"suppression: {differing_suppressions(cases)} of {2 * cases} comparisons differ")
    values, gradients = largest_differences(cases)
    print(f"RoIAlign: {cases} cases differ by at most {values:.1e}, gradients by {gradients:.1e}")
    rng = np.random.default_rng(0)
    for count in (1000, 5000):
        boxes = random_boxes(rng, count, 512, 32).float()
        scores = torch.tensor(rng.random(count)).float()
        theirs = boxes[:, TV_ORDER].contiguous()
        ours_ms = milliseconds(lambda: nms(boxes, scores, max_iou=0.5))  # noqa: B023
        theirs_ms = milliseconds(lambda: torchvision.ops.nms(theirs, scores, 0.5))  # noqa: B023
        print(f"suppression of {count} boxes: {ours_ms:.1f} ms, torchvision {theirs_ms:.1f} ms")
    features = torch.randn(1, 64, 64, 64, requires_grad=True)
    boxes = random_boxes(rng, 256, 256, 64).float()
    theirs = boxes[:, TV_ORDER].contiguous()

    def ours() -> None:
        roi_align(features, [boxes], output_size=(14, 14), stride=(4, 4)).sum().backward()

    def torchvisions() -> None:
        torchvision.ops.roi_align(
            features, [theirs], 14, spatial_scale=0.25, sampling_ratio=2, aligned=True
        ).sum().backward()

    print(
        f"RoIAlign and gradient, 256 boxes, 14x14 cells, 64 channels: {milliseconds(ours):.0f} ms, "
        f"torchvision {milliseconds(torchvisions):.0f} ms"
    )


if __name__ == "__main__":
    main()
