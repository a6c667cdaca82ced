"""Seconds of a U-Net training step, and the share of the machine's peak it reaches.

python benchmarks/training_step.py [--base 16] [--patch 40,56,40] [--batch 2] [--steps 10]

The peak is a 2048x2048 matrix product in the same format in the same run. FLOPs are counted by
PyTorch.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from medseg.inference.precision import autocast
from medseg.losses.deep_supervision import DeepSupervision
from medseg.losses.dice_ce import DiceCELoss
from medseg.models.unet import UNet


def main() -> None:
    arguments = _arguments()
    patch = tuple(int(n) for n in arguments.patch.split(","))
    model = UNet(1, 3, base_channels=arguments.base)
    loss = DeepSupervision(DiceCELoss())
    image = torch.randn(arguments.batch, 1, *patch)
    target = torch.randint(0, 3, (arguments.batch, *patch))
    optimizer = torch.optim.AdamW(model.parameters())
    for precision in ("bf16-mixed", "32-true"):

        def step(precision: str = precision) -> None:
            with autocast("cpu", precision):
                value = loss(model(image), target)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        step()
        with FlopCounterMode(display=False) as counter:
            step()
        seconds = _median_seconds(step, arguments.steps)
        dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        peak = _peak(dtype)
        rate = counter.get_total_flops() / seconds
        print(
            f"{precision:<10} {seconds:.3f} s a step, {counter.get_total_flops() / 1e9:.1f} GFLOP, "
            f"{rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of {peak / 1e9:.0f} GFLOP/s"
        )


def _peak(dtype: torch.dtype) -> float:
    a = torch.randn(2048, 2048).to(dtype)
    return 2 * 2048**3 / _median_seconds(lambda: a @ a, 10)


def _median_seconds(work: object, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=int, default=16)
    parser.add_argument("--patch", default="40,56,40")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
