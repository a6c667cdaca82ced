"""Seconds of a U-Net training step, the share of the machine's peak it reaches, and a peer's.

python benchmarks/training_step.py [--base 16] [--patch 40,56,40] [--batch 2] [--steps 10]
    [--precision 32-true]

The peak is a 2048x2048 matrix product in the same format in the same run. FLOPs are counted by
PyTorch. Where dynamic_network_architectures is installed (nnU-Net's networks), its plain U-Net with
the same stages, patch and batch takes the same steps in turn, with nnU-Net's optimizer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medseg.inference.precision import autocast, best_precision
from medseg.losses.deep_supervision import DeepSupervision
from medseg.losses.dice_ce import DiceCELoss
from medseg.models.layout import in_fast_layout
from medseg.models.unet import UNet
from medseg.training.muon import Muon


def main() -> None:
    arguments = _arguments()
    precision = arguments.precision or best_precision("cpu")
    patch = tuple(int(n) for n in arguments.patch.split(","))
    image = torch.randn(arguments.batch, 1, *patch)
    target = torch.randint(0, 3, (arguments.batch, *patch))
    loss = DeepSupervision(DiceCELoss())
    channels = [arguments.base * 2**n for n in range(4)]
    networks = {
        "medseg": UNet(1, 3, base_channels=arguments.base),
        "medseg, light": UNet(1, 3, base_channels=arguments.base, light_finest=True),
    }
    networks = {name: in_fast_layout(model, "cpu") for name, model in networks.items()}
    try:
        networks["nnU-Net"] = _peer(channels)
    except ImportError as error:
        print(f"nnU-Net's network cannot be imported: {error}")

    def make_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def step() -> None:
            with autocast("cpu", precision):
                value = loss(model(image), target)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 12.0)
            optimizer.step()

        return step

    steps = {
        name: make_step(
            model,
            torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.99, nesterov=True)
            if name == "nnU-Net"
            else Muon(model.parameters()),
        )
        for name, model in networks.items()
    }
    work, times = {}, {name: [] for name in steps}
    for name, step in steps.items():
        step()
        with FlopCounterMode(display=False) as counter:
            step()
        work[name] = counter.get_total_flops()
    for _ in range(arguments.steps):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    peak = _peak(torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    print(f"{precision}, peak {peak / 1e9:.0f} GFLOP/s")
    for name, seconds in times.items():
        median = sorted(seconds)[len(seconds) // 2]
        rate = work[name] / median
        print(
            f"{name:<14} {median:.3f} s a step, {work[name] / 1e9:.1f} GFLOP, "
            f"{rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the peak"
        )


def _peer(channels: list[int]) -> nn.Module:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        1,
        len(channels),
        channels,
        nn.Conv3d,
        3,
        [1, 2, 2, 2],
        2,
        3,
        2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
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
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
