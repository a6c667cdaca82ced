"""A network begun with the weights of another: what fits is taken over, class by class and channel
by channel, and what became of every tensor is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Matches = Sequence[int | None]
"""For each new channel the old one that it continues; None for one that is new."""

_MOST_LISTED = 6


@dataclass(frozen=True)
class WeightReport:
    """What became of weights that a network was to begin with, by the network's names.

    Args:
        copied: taken as they are.
        adapted: taken for the classes and channels that both have, or brought to the network's
            shape.
        misfits: of another shape, so that the network keeps its own ("name: 21x256 for 3x256").
        missing: of the network alone.
        unused: of the other network alone.
    """

    copied: tuple[str, ...]
    adapted: tuple[str, ...]
    misfits: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.copied)} weights taken as they are"]
        for names, text in (
            (self.adapted, "taken in part or brought to this network's shape"),
            (self.misfits, "of another shape, so the network keeps its own"),
            (self.missing, "of this network alone"),
            (self.unused, "of the other network alone, left out"),
        ):
            if names:
                more = f" and {len(names) - _MOST_LISTED} more" * (len(names) > _MOST_LISTED)
                lines.append(f"  {len(names)} {text}: {', '.join(names[:_MOST_LISTED])}{more}")
        return "\n".join(lines)


def start_from(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    make: Callable[[int, int], nn.Module],
    channels: Matches,
    outputs: Matches,
) -> WeightReport:
    """Copies weights into a network of perhaps other channels and classes.

    The first convolution keeps its weights for the channels that both have; for a new channel it
    begins with the mean of the old ones. The head keeps the rows of the classes that both have; the
    others stay as they are.

    Args:
        network: changed in place.
        weights: state dict of the other network.
        make: an equal network for numbers of image and output channels; it shows which tensors
            depend on them.
        channels, outputs: which old channel each new one continues.
    """
    state = network.state_dict()
    stem, head = _growing_axes(make, len(channels), len(outputs))
    lists: dict[str, list[str]] = {"copied": [], "adapted": [], "misfits": []}
    with torch.no_grad():
        for name, tensor in state.items():
            if name not in weights:
                continue
            old = weights[name]
            axis_in, axis_out = stem.get(name), head.get(name)
            if axis_in is not None and axis_out is not None:
                kind = "misfits"
            elif axis_in is not None:
                kind = _fill(tensor, old, axis_in, channels, mean=True)
            elif axis_out is not None:
                kind = _fill(tensor, old, axis_out, outputs, mean=False)
            elif old.shape == tensor.shape:
                tensor.copy_(old)
                kind = "copied"
            else:
                kind = "misfits"
            lists[kind].append(misfit(name, old, tensor) if kind == "misfits" else name)
    return WeightReport(
        **{kind: tuple(names) for kind, names in lists.items()},
        missing=tuple(name for name in state if name not in weights),
        unused=tuple(name for name in weights if name not in state),
    )


def misfit(name: str, found: Tensor, wanted: Tensor) -> str:
    """How a weight of another shape stands in the report."""
    shapes = ("x".join(map(str, tensor.shape)) or "number" for tensor in (found, wanted))
    return f"{name}: {' for '.join(shapes)}"


def matches(old: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """For each new name the position of the same old name."""
    return [old.index(name) if name in old else None for name in new]


def _growing_axes(
    make: Callable[[int, int], nn.Module], num_channels: int, num_outputs: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Tensors with an axis that has one entry per image channel, and per output channel."""
    with torch.random.fork_rng(devices=[]):  # the start of the network must not depend on this
        shapes = [
            {name: tuple(tensor.shape) for name, tensor in make(*size).state_dict().items()}
            for size in (
                (num_channels, num_outputs),
                (num_channels + 1, num_outputs),
                (num_channels, num_outputs + 1),
            )
        ]
    base, wider, longer = shapes
    return _axes(base, wider), _axes(base, longer)


def _axes(
    base: Mapping[str, tuple[int, ...]], grown: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    axes = {}
    for name, shape in base.items():
        other = grown.get(name, shape)
        if len(other) == len(shape):
            changed = [axis for axis in range(len(shape)) if shape[axis] != other[axis]]
            if len(changed) == 1:
                axes[name] = changed[0]
    return axes


def _fill(tensor: Tensor, old: Tensor, axis: int, found: Matches, *, mean: bool) -> str:
    """Fills a tensor along an axis; returns which of the report's lists it belongs to."""
    rest = [n for n in range(tensor.ndim) if n != axis]
    if old.ndim != tensor.ndim or any(old.shape[n] != tensor.shape[n] for n in rest):
        return "misfits"
    if old.shape == tensor.shape and list(found) == list(range(len(found))):
        tensor.copy_(old)
        return "copied"
    if tensor.shape[axis] != len(found):
        return "misfits"  # one entry for several channels, which nothing is known about
    if all(position is None or position >= old.shape[axis] for position in found):
        return "misfits"
    for n, position in enumerate(found):
        if position is not None:
            tensor.select(axis, n).copy_(old.select(axis, position))
        elif mean:
            tensor.select(axis, n).copy_(old.mean(dim=axis))
    return "copied" if list(found) == list(range(old.shape[axis])) else "adapted"
