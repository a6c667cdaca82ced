"""Strides of encoders whose paper fixes their number: taken from the plan, turned into dilation
beyond an output stride; and the widths of papers' networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.core.errors import ConfigError

Strides = Sequence[int | Sequence[int]]
Rows = list[tuple[int, ...]]


def encoder_strides(strides: Strides | None, spatial_dims: int, *, num_steps: int = 5) -> Rows:
    """What each of an encoder's steps divides the axes by.

    Args:
        strides: as for the U-Net: per stage one number or one per axis, the first 1. Steps that it
            does not name divide by 1, so that small patches and thin axes are not halved away;
            what it names beyond the encoder's steps is left out. None halves every axis in every
            step, as the papers do.
        spatial_dims: 2 or 3.
        num_steps: steps of the encoder.
    """
    if spatial_dims not in (2, 3):
        raise ConfigError("model.spatial_dims", f"is {spatial_dims}", "set it to 2 or 3")
    if strides is None:
        return [(2,) * spatial_dims] * num_steps
    rows = per_stage(strides, 2, spatial_dims, len(strides), name="model.strides")
    if not rows or any(step != 1 for step in rows[0]):
        raise ConfigError("model.strides", "must begin with 1", "put the first stride last")
    if any(step not in (1, 2) for row in rows for step in row):
        raise ConfigError("model.strides", f"is {rows}", "use 1 and 2 only")
    return (rows[1:] + [(1,) * spatial_dims] * num_steps)[:num_steps]


def per_stage(
    values: Sequence[int | Sequence[int]] | None,
    default: int,
    spatial_dims: int,
    num_stages: int,
    *,
    name: str,
) -> list[tuple[int, ...]]:
    """One tuple of `spatial_dims` numbers per stage; a single number serves every axis.

    Raises:
        ConfigError: not one entry per stage, or an entry with another number of axes.
    """
    given = [default] * num_stages if values is None else list(values)
    if len(given) != num_stages:
        raise ConfigError(
            name, f"has {len(given)} entries for {num_stages} stages", "give one per stage"
        )
    rows = []
    for value in given:
        row = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
        if len(row) != spatial_dims:
            raise ConfigError(name, f"has {len(row)} axes in {list(row)}", f"give {spatial_dims}")
        rows.append(row)
    return rows


def dilate_beyond(rows: Rows, output_stride: int | None) -> tuple[Rows, Rows]:
    """Strides per step that keep every axis at or below `output_stride`, and the dilation of each
    step that makes up for the strides taken away (Chen et al. 2017).

    Raises:
        ConfigError: the output stride is no power of two.
    """
    if output_stride is not None and output_stride not in (1, 2, 4, 8, 16, 32):
        raise ConfigError(
            "model.output_stride", f"is {output_stride}", "use 8 or 16; 4 and 32 work as well"
        )
    limit = math.inf if output_stride is None else output_stride
    total, dilation = [1] * len(rows[0]), [1] * len(rows[0])
    kept, dilations = [], []
    for row in rows:
        step = list(row)
        for axis, factor in enumerate(row):
            if total[axis] * factor > limit:
                step[axis] = 1
                dilation[axis] *= factor
            total[axis] *= step[axis]
        kept.append(tuple(step))
        dilations.append(tuple(dilation))
    return kept, dilations


def product(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Product of the strides along each axis."""
    return tuple(math.prod(row[axis] for row in rows) for axis in range(len(rows[0])))


def scaled(channels: int, base_channels: int) -> int:
    """A width of a paper's network at another base width; 32 is the paper's own."""
    if base_channels < 1:
        raise ConfigError("model.base_channels", f"is {base_channels}", "use 1 or more")
    return max(1, channels * base_channels // PAPER_BASE_CHANNELS)


PAPER_BASE_CHANNELS = 32
"""`base_channels` at which a network has its paper's widths (docs/decisions/0011)."""
