"""Noisy images of discs and spheres, whose objects are known, for tests of detectors."""

from __future__ import annotations

import numpy as np
import torch

from medseg.models.detection.objects import Objects


def disc_images(count, shape, *, num_discs, radii, num_classes=1, seed=0):
    """Images (count, 1, *shape) and their objects: bright discs that do not touch, on noise.

    Discs of the second class are dark.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) + 0.5
    images, references = [], []
    for _ in range(count):
        image = rng.normal(0, 0.2, shape)
        masks, classes, taken = [], [], np.zeros(shape, bool)
        for _ in range(50):
            radius = rng.uniform(*radii)
            centre = [rng.uniform(min(radius, n / 2), max(n - radius, n / 2)) for n in shape]
            distance = np.sqrt(((grid - centre) ** 2).sum(-1))
            if len(masks) == num_discs:
                break
            if (taken & (distance <= radius + 2)).any():
                continue
            mask = distance <= radius
            taken |= mask
            class_id = 1 + len(masks) % num_classes
            image[mask] += 2.0 if class_id == 1 else -2.0
            masks.append(mask)
            classes.append(class_id)
        images.append(image)
        stacked = np.stack(masks) if masks else np.zeros((0, *shape), bool)
        references.append(Objects.from_masks(torch.tensor(stacked), torch.tensor(classes)))
    return torch.tensor(np.stack(images), dtype=torch.float32)[:, None], references


def class_maps(images, references):
    """(N, *S) long: the class of every voxel."""
    maps = torch.zeros((len(images), *images.shape[2:]), dtype=torch.long)
    for n, reference in enumerate(references):
        for mask, class_id in zip(reference.masks, reference.classes, strict=True):
            maps[n][mask] = class_id
    return maps


def agreement(found, reference, shape, *, min_iou=0.5):
    """Share TP / (TP + FP + FN) of one image: masks of the same class with IoU above `min_iou`."""
    left, hits = set(range(len(reference))), 0
    for n in range(len(found)):
        mask = found.mask(n, shape)
        for m in sorted(left):
            other = reference.masks[m]
            iou = float((mask & other).sum() / (mask | other).sum())
            if iou > min_iou and found.classes[n] == reference.classes[m]:
                left.remove(m)
                hits += 1
                break
    return hits / max(1, len(found) + len(left))
