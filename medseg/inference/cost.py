"""What a network costs at a patch: parameters, operations, memory and time, and which part of it
takes most; measured, not estimated.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medseg.inference.live_bytes import LiveBytes
from medseg.inference.precision import autocast
from medseg.losses.deep_supervision import DeepSupervision
from medseg.losses.dice_ce import DiceCELoss
from medseg.models.detection.objects import Detector, Objects

_NORMS = (
    nn.GroupNorm,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
NUM_CUBES = 4
NUM_DETECTED = 100
"""Objects that a network learns, and finds at most, while it is measured."""

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU)


@dataclass(frozen=True)
class Part:
    """One part of a network.

    Args:
        parameters: weights to learn.
        flops: of the forward pass of one patch.
        kept_bytes: what it keeps for the backward pass of one patch.
    """

    parameters: int
    flops: int
    kept_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Args:
        parameters: weights to learn.
        forward_flops: of one patch; a multiplication and an addition count as two.
        step_flops: forward and backward, for the batch.
        forward_seconds: one patch, in evaluation mode.
        step_seconds: forward, loss and backward, for the batch; median of the repeats.
        step_bytes: most memory in tensors during a step, parameters and gradients included.
        receptive_field: voxels of the patch along each axis that the logits of its middle voxel
            depend on, normalisation and dropout apart.
        parts: the network's parts by name.
    """

    parameters: int
    forward_flops: int
    step_flops: int
    forward_seconds: float
    step_seconds: float
    step_bytes: int
    receptive_field: tuple[int, ...]
    parts: Mapping[str, Part]

    def largest(self, fact: str) -> tuple[str, float]:
        """Name of the part with most of "parameters", "flops" or "kept_bytes", and its share."""
        values = {name: getattr(part, fact) for name, part in self.parts.items()}
        name = max(values, key=lambda key: values[key])
        return name, values[name] / max(1, sum(values.values()))


def measure_cost(
    network: nn.Module,
    *,
    in_channels: int,
    out_channels: int,
    patch_size: tuple[int, ...],
    batch_size: int = 1,
    device: str = "cpu",
    precision: str = "32-true",
    repeats: int = 3,
) -> Cost:
    """Runs the network at a patch and measures it; its weights stay as they are.

    A network that finds objects learns a handful of cubes in every patch, and its forward pass ends
    with what it finds; its receptive field is that of its finest features.

    Raises:
        MedsegError: the network does not take such a patch.
    """
    network = network.to(device)
    image = torch.randn(1, in_channels, *patch_size, device=device)
    batch = torch.randn(batch_size, in_channels, *patch_size, device=device)
    target = torch.randint(0, out_channels, (batch_size, *patch_size), device=device)
    loss = DeepSupervision(DiceCELoss())
    references = [_cubes(patch_size, out_channels, device)] * batch_size

    def loss_of_batch() -> Tensor:
        outputs = network(batch)
        if not isinstance(network, Detector):
            return loss(outputs, target)
        terms = network.losses(outputs, references, _class_map(references, target))
        return torch.stack(list(terms.values())).sum()

    def step() -> None:
        network.train()
        with autocast(device, precision):
            value = loss_of_batch()
        value.backward()

    def forward() -> None:
        network.eval()
        with torch.inference_mode(), autocast(device, precision):
            outputs = network(image)
            if isinstance(network, Detector):
                network.detect(outputs, shape=patch_size, max_objects=NUM_DETECTED)

    field = receptive_field(network, image)
    with FlopCounterMode(display=False) as counter:
        forward()
    forward_flops = counter.get_total_flops()
    by_module = counter.get_flop_counts()
    parts = _parts(network)
    flops = {
        name: sum(by_module.get(f"{type(network).__name__}.{name}", {}).values()) for name in parts
    }
    with FlopCounterMode(display=False) as counter:
        step()
    step_flops = counter.get_total_flops()
    network.zero_grad(set_to_none=True)
    step_bytes, kept = _memory(network, step, parts, device=device)
    forward_seconds = _seconds(forward, repeats, device=device)
    step_seconds = _seconds(step, repeats, device=device)
    network.zero_grad(set_to_none=True)
    return Cost(
        parameters=_num_parameters(network),
        forward_flops=forward_flops,
        step_flops=step_flops,
        forward_seconds=forward_seconds,
        step_seconds=step_seconds,
        step_bytes=step_bytes,
        receptive_field=field,
        parts={
            name: Part(_num_parameters(part), flops[name], kept[name] // batch_size)
            for name, part in parts.items()
        },
    )


def receptive_field(network: nn.Module, image: Tensor) -> tuple[int, ...]:
    """Voxels along each axis that the middle voxel's logits depend on, in a patch like `image`.

    The gradient that comes back from the middle voxel is no number, and so is every gradient it
    becomes part of. Normalisation, which mixes all voxels, is taken out first, and so are
    activations and maxima, which let the gradient pass only where values are large.
    """
    probe = _linearised(network)
    entry = torch.zeros_like(image).requires_grad_()
    with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
        # Optimised convolutions may mix neighbouring voxels by factors that cancel (Winograd);
        # switching them off and on makes torch speak of Intel GPUs.
        logits = _finest_map(probe(entry))
        middle = tuple(extent // 2 for extent in logits.shape[2:])
        gradient = torch.zeros_like(logits)
        gradient.movedim((0, 1), (-2, -1))[middle] = math.nan
        reached = torch.autograd.grad(logits, entry, gradient)[0].isnan().any(1)[0]
    field = []
    for axis in range(reached.ndim):
        found = torch.nonzero(reached.transpose(0, axis).flatten(1).any(1))[:, 0]
        field.append(int(found[-1] - found[0]) + 1 if len(found) else 0)
    return tuple(field)


def _finest_map(outputs: Any) -> Tensor:
    """Logits, or the first and finest map among the outputs of a network that finds objects."""
    if isinstance(outputs, dict):
        outputs = next(iter(outputs.values()))
    return outputs[0] if isinstance(outputs, list) else outputs


def _cubes(patch_size: tuple[int, ...], out_channels: int, device: str) -> Objects:
    """Cubes of a quarter of the patch along every axis, of all classes in turn."""
    masks = torch.zeros((NUM_CUBES, *patch_size), dtype=torch.bool, device=device)
    for n in range(NUM_CUBES):
        spans: list[slice] = []
        for extent in patch_size:
            side = max(1, extent // 4)
            start = n * (extent - side) // max(1, NUM_CUBES - 1)
            spans.append(slice(start, start + side))
        masks[n][tuple(spans)] = True
    classes = torch.arange(NUM_CUBES, device=device) % max(1, out_channels - 1) + 1
    return Objects.from_masks(masks, classes)


def _class_map(references: list[Objects], like: Tensor) -> Tensor:
    """The class of each voxel of a batch; shape and device of `like`."""
    maps = torch.zeros_like(like)
    for n, reference in enumerate(references):
        for mask, class_id in zip(reference.masks, reference.classes, strict=True):
            maps[n] = maps[n].where(~mask, class_id)
    return maps


def _linearised(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode without normalisation and activations, with means for maxima."""
    probe = copy.deepcopy(network).eval()
    means: dict[type[nn.Module], Any] = {nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}
    for module in list(probe.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (*_NORMS, *_ACTIVATIONS)):
                setattr(module, name, nn.Identity())
            elif type(child) in means:
                pool: Any = child
                mean = means[type(child)](
                    pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode
                )
                setattr(module, name, mean)
    return probe


def _parts(network: nn.Module) -> dict[str, nn.Module]:
    """A network's children; those of a list, and of a lone wrapper, stand for it."""
    return dict(_walk(network, ""))


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList) or name == "network":
            yield from _walk(child, f"{path}.")
        elif any(True for _ in child.parameters()):
            yield path, child


def _num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _memory(
    network: nn.Module, step: Callable[[], None], parts: Mapping[str, nn.Module], *, device: str
) -> tuple[int, dict[str, int]]:
    """Most bytes during a step, and bytes that each part keeps for the backward pass."""
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    kept = dict.fromkeys(parts, 0)
    started = dict.fromkeys(parts, 0)
    handles = []
    with LiveBytes() as live:
        for name, part in parts.items():

            def before(module: nn.Module, inputs: Any, name: str = name) -> None:
                started[name] = live.now

            def after(module: nn.Module, inputs: Any, outputs: Any, name: str = name) -> None:
                kept[name] += live.now - started[name]

            handles.append(part.register_forward_pre_hook(before))
            handles.append(part.register_forward_hook(after))
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        step()
        for handle in handles:
            handle.remove()
        peak = weights + live.most
    if device.startswith("cuda"):
        peak = int(torch.cuda.max_memory_allocated(device))
    return peak, kept


def _seconds(work: Callable[[], None], repeats: int, *, device: str) -> float:
    """Median time of a call, after the calls that came before it as warm-up."""
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
