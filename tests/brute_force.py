"""Detection's operators as their papers define them, in plain loops and float64."""

from __future__ import annotations

import itertools
import math

import numpy as np


def box_iou(first, second):
    dims = len(first) // 2
    shared = total_first = total_second = 1.0
    for axis in range(dims):
        low = max(first[axis], second[axis])
        high = min(first[dims + axis], second[dims + axis])
        shared *= max(0.0, high - low)
        total_first *= first[dims + axis] - first[axis]
        total_second *= second[dims + axis] - second[axis]
    union = total_first + total_second - shared
    return shared / union if union > 0 else 0.0


def greedy_nms(boxes, scores, max_iou, groups):
    left = sorted(range(len(boxes)), key=lambda n: (-scores[n], n))
    kept = []
    for candidate in left:
        if all(
            groups[candidate] != groups[better]
            or box_iou(boxes[candidate], boxes[better]) <= max_iou
            for better in kept
        ):
            kept.append(candidate)
    return kept


def yolact_nms(boxes, scores, max_iou, groups):
    left = sorted(range(len(boxes)), key=lambda n: (-scores[n], n))
    return [
        candidate
        for rank, candidate in enumerate(left)
        if all(
            groups[candidate] != groups[better]
            or box_iou(boxes[candidate], boxes[better]) <= max_iou
            for better in left[:rank]
        )
    ]


def roi_align(features, box, output_size, stride, sampling_ratio, gradient=None):
    """Cells (C, *output_size) of one box, and the gradient of the features (C, *S) that comes with
    `gradient` (C, *output_size).
    """
    dims, extents = len(output_size), features.shape[1:]
    cells = np.zeros((features.shape[0], *output_size))
    back = np.zeros(features.shape)
    start = [box[a] / stride[a] - 0.5 for a in range(dims)]
    cell = [(box[dims + a] - box[a]) / stride[a] / output_size[a] for a in range(dims)]
    for index in itertools.product(*(range(n) for n in output_size)):
        for sample in itertools.product(range(sampling_ratio), repeat=dims):
            point = [
                start[a] + cell[a] * (index[a] + (sample[a] + 0.5) / sampling_ratio)
                for a in range(dims)
            ]
            if any(p < -1 or p > extents[a] for a, p in enumerate(point)):
                continue
            point = [min(max(p, 0.0), extents[a] - 1.0) for a, p in enumerate(point)]
            for corner in itertools.product((0, 1), repeat=dims):
                weight, voxel = 1.0 / sampling_ratio**dims, []
                for a in range(dims):
                    low = math.floor(point[a])
                    weight *= (point[a] - low) if corner[a] else (low + 1 - point[a])
                    voxel.append(min(low + corner[a], extents[a] - 1))
                cells[(slice(None), *index)] += weight * features[(slice(None), *voxel)]
                if gradient is not None:
                    back[(slice(None), *voxel)] += weight * gradient[(slice(None), *index)]
    return cells, back
