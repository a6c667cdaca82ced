"""Augmented patches per second of processor time, against batchgeneratorsv2 with the same changes.

python benchmarks/augmentation.py [--patch 40,56,40] [--patches 200] [--threads 1]

Both cut patches out of the same volumes in memory and change them with the same probabilities and
ranges (nnU-Net's); without batchgeneratorsv2 only medseg is timed. Patches are drawn in turn, a
block of each, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from medseg.data.cache import PreparedCase
from medseg.data.dataset import BatchDataset
from medseg.transforms.augment import Augment

NUM_CASES = 8
BLOCK = 20


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    patch = tuple(int(n) for n in arguments.patch.split(","))
    rng = np.random.default_rng(0)
    shape = tuple(n + n // 4 for n in patch)
    images = [rng.normal(size=(1, *shape)).astype(np.float32) for _ in range(NUM_CASES)]
    labels = [rng.integers(0, 3, shape).astype(np.int16) for _ in range(NUM_CASES)]
    pipelines = {"medseg": _medseg(patch, images, labels)}
    try:
        pipelines["batchgeneratorsv2"] = _batchgenerators(patch, images, labels)
    except ImportError as error:
        print(f"batchgeneratorsv2 cannot be imported: {error}")
    seconds = dict.fromkeys(pipelines, 0.0)
    for draw in pipelines.values():
        draw(0)
    for start in range(0, arguments.patches, BLOCK):
        for name, draw in pipelines.items():
            begin = time.process_time()
            for n in range(start, start + BLOCK):
                draw(n)
            seconds[name] += time.process_time() - begin
    for name, spent in seconds.items():
        print(f"{name:<18} {arguments.patches / spent:8.1f} patches/s")
    if len(seconds) == 2:
        print(f"ratio {seconds['batchgeneratorsv2'] / seconds['medseg']:.1f}")


def _medseg(
    patch: tuple[int, ...], images: list[np.ndarray], labels: list[np.ndarray]
) -> Callable[[int], object]:
    cases = {
        str(n): PreparedCase(str(n), image, label, (1.0, 1.0, 1.0), ())
        for n, (image, label) in enumerate(zip(images, labels, strict=True))
    }
    plan = SimpleNamespace(batch_size=1, patch_size=patch, spatial_dims=3)
    batches = BatchDataset(
        [SimpleNamespace(key=key) for key in cases],  # type: ignore[misc]
        SimpleNamespace(plan=plan, get=lambda case: cases[case.key]),  # type: ignore[arg-type]
        augment=Augment(),
        foreground_fraction=0.0,
        mirror_axes=(0, 1, 2),
        outside_label=0,
        seed=0,
        rank=0,
        num_steps=10**6,
    )
    return batches.__getitem__


def _batchgenerators(
    patch: tuple[int, ...], images: list[np.ndarray], labels: list[np.ndarray]
) -> Callable[[int], object]:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    ours = Augment()
    angle = float(np.radians(ours.rotation_degrees))
    every = {"synchronize_channels": False, "p_per_channel": 1}
    sampled = [
        (GaussianNoiseTransform((0, 0.1), **every), ours.noise_probability),
        (
            GaussianBlurTransform(ours.blur_sigma, synchronize_axes=False, **every),
            ours.blur_probability,
        ),
        (MultiplicativeBrightnessTransform(ours.brightness, **every), ours.brightness_probability),
        (
            ContrastTransform(ours.contrast, preserve_range=True, **every),
            ours.contrast_probability,
        ),
        (
            SimulateLowResolutionTransform(
                ours.low_resolution, synchronize_axes=True, ignore_axes=(), **every
            ),
            ours.low_resolution_probability,
        ),
        (
            GammaTransform(ours.gamma, p_invert_image=0.25, p_retain_stats=1, **every),
            ours.gamma_probability,
        ),
    ]
    changes = ComposeTransforms(
        [
            SpatialTransform(
                patch,
                0,
                random_crop=False,
                p_rotation=ours.rotation_probability,
                rotation=(-angle, angle),
                p_scaling=ours.scaling_probability,
                scaling=ours.scaling,
                p_synchronize_scaling_across_axes=1,
            ),
            *(RandomTransform(change, probability) for change, probability in sampled),
            MirrorTransform((0, 1, 2)),
        ]
    )
    pairs = [
        (torch.from_numpy(image), torch.from_numpy(label[None]))
        for image, label in zip(images, labels, strict=True)
    ]

    def draw(n: int) -> object:
        image, segmentation = pairs[n % NUM_CASES]
        return changes(image=image, segmentation=segmentation)

    return draw


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", default="40,56,40")
    parser.add_argument("--patches", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
