"""Label maps and other results from logits on another grid, without ever holding all logits at full
size: planes of logits come in one slab after the other and leave as rows of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SLAB_BYTES = 256 * 2**20
"""Interpolated logits held at once where all of them are."""
CHUNK_BYTES = 64 * 2**20
"""Logits that a thread converts at once, where they are not single precision already."""
MIN_PLANES = 8
"""Coarse planes that a thread takes at once: each chunk looks at one plane that the next looks at
again.
"""


def upsample_labels(
    logits: NDArray[Any] | Tensor,
    shape: tuple[int, ...],
    *,
    paints: Sequence[int] | None = None,
    offsets: Sequence[float] | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    num_classes: int | None = None,
) -> NDArray[Any]:
    """Class number at each voxel of trilinearly interpolated logits.

    The result is that of the full computation. On the CPU logits are interpolated only where the
    corners of a coarse cell disagree; elsewhere the corners decide.

    Args:
        logits: (C, i, j, k) or (C, i, j); on a GPU all are interpolated there.
        shape: wanted spatial shape; voxel edges coincide (`align_corners=False`).
        paints: for overlapping regions: the class number that each channel paints where its logit
            is positive, over the ones before it. None takes the class of the largest logit, the
            lowest on ties.
        offsets: added to each channel.
        decode: any other rule: class numbers (n, *S) from logits (n, C, *S).
        num_classes: that class numbers stay below; by default C.

    Returns:
        uint8 array of that shape, uint16 from 257 classes on.
    """
    values = torch.as_tensor(logits)
    result = LabelResult(
        tuple(values.shape[1:]),
        shape,
        rule=LabelRule(int(values.shape[0]), paints, offsets, decode, num_classes),
    )
    result.add(0, values)
    return result.array


def upsample_probabilities(
    logits: NDArray[Any] | Tensor,
    shape: tuple[int, ...],
    *,
    activation: Callable[[Tensor], Tensor],
    num_maps: int | None = None,
) -> NDArray[np.float32]:
    """Probabilities (num_maps, *shape), float32, of trilinearly interpolated logits.

    Args:
        logits: (C, i, j, k) or (C, i, j).
        shape: wanted spatial shape; voxel edges coincide (`align_corners=False`).
        activation: probabilities (n, num_maps, *S) from logits (n, C, *S).
        num_maps: by default C.
    """
    values = torch.as_tensor(logits)
    result = MapResult(
        tuple(values.shape[1:]),
        shape,
        num_maps=num_maps or int(values.shape[0]),
        measure=activation,
    )
    result.add(0, values)
    return result.array


@dataclass(frozen=True)
class LabelRule:
    """How logits become class numbers; the arguments are those of `upsample_labels`."""

    num_channels: int
    paints: Sequence[int] | None = None
    offsets: Sequence[float] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    num_classes: int | None = None

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest that holds the class numbers."""
        highest = max(self.num_classes or self.num_channels, max(self.paints or (0,)) + 1)
        return np.uint8 if highest <= 256 else np.uint16

    def __call__(self, logits: Tensor) -> Tensor:
        """Class numbers (n, *S) of logits (n, C, *S)."""
        if self.offsets is not None:
            more = logits.new_tensor(list(self.offsets))
            logits = logits + more.view(-1, *[1] * (logits.ndim - 2))
        if self.decode is not None:
            return self.decode(logits)
        if self.paints is None:
            return logits.argmax(1)
        painted = torch.zeros_like(logits[:, 0], dtype=torch.long)
        for channel, number in enumerate(self.paints):
            painted[logits[:, channel] > 0] = number
        return painted


@dataclass(frozen=True, eq=False)
class AxisTable:
    """Where the new voxels of an axis lie among the old ones.

    Args:
        before, after: earlier and later old voxel of each new one, int64.
        share: weight of the later; 0 where both are the same.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    share: NDArray[Any]


def axis_table(old: int, new: int, dtype: type[np.floating[Any]] = np.float32) -> AxisTable:
    """Positions and weights, to the last bit those of `torch.nn.functional.interpolate` with
    `align_corners=False` for tensors of that type.
    """
    if old == new:
        here = np.arange(new, dtype=np.int64)
        return AxisTable(here, here, np.zeros(new, dtype))
    # The product is not rounded before the subtraction: PyTorch's kernels fuse the two.
    scale = np.float64(dtype(old) / dtype(new))
    position = np.maximum((scale * (np.arange(new) + 0.5) - 0.5).astype(dtype), dtype(0))
    before = np.minimum(np.floor(position).astype(np.int64), old - 1)
    share = np.clip(position - before.astype(dtype), dtype(0), dtype(1))
    after = np.where(share > 0, np.minimum(before + 1, old - 1), before)
    return AxisTable(before, after, np.where(after == before, dtype(0), share).astype(dtype))


def axis_tables(
    old_shape: Sequence[int], shape: Sequence[int], dtype: torch.dtype
) -> list[AxisTable]:
    """The table of each axis, for logits of a type."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    return [axis_table(old, new, kind) for old, new in zip(old_shape, shape, strict=True)]


@dataclass(eq=False)
class _Rows:
    """Which rows of a result can be made from the planes that have come so far."""

    old_shape: tuple[int, ...]
    shape: tuple[int, ...]
    done: int = field(default=0, init=False)

    def tables(self, dtype: torch.dtype) -> list[AxisTable]:
        return axis_tables(self.old_shape, self.shape, dtype)

    def take(self, table: AxisTable, stop: int) -> slice:
        """The next rows that need no plane from `stop` on."""
        last = int(np.searchsorted(table.after, stop))
        rows = slice(self.done, last)
        self.done = last
        return rows


class LabelResult:
    """A label map that is made while slabs of logits come in.

    Args:
        old_shape: spatial shape of all logits.
        shape: wanted spatial shape, 2 or 3 numbers as in `old_shape`.
        rule: how logits become class numbers.
    """

    def __init__(
        self, old_shape: tuple[int, ...], shape: tuple[int, ...], *, rule: LabelRule
    ) -> None:
        self.array: NDArray[Any] = np.empty(shape, rule.dtype)
        self.num_interpolated = 0
        self._rows = _Rows(tuple(old_shape), tuple(shape))
        self._rule = rule

    def add(self, first: int, planes: Tensor) -> None:
        """Takes the next planes along the first axis.

        Args:
            first: number of the first plane. Beginning with the last plane of the slab before, so
                that each row finds both its neighbours in one slab.
            planes: (C, n, ...), not kept.
        """
        tables = self._rows.tables(planes.dtype)
        rows = self._rows.take(tables[0], first + planes.shape[1])
        part = self.array[rows]
        self.num_interpolated += fill_rows(part, rows, first, planes, tables, self._rule)


class MapResult:
    """Numbers computed from all interpolated logits of a voxel, while slabs of logits come in.

    Args:
        old_shape: spatial shape of all logits.
        shape: wanted spatial shape.
        num_maps: numbers for each voxel.
        measure: (n, num_maps, *S) from logits (n, C, *S).
    """

    def __init__(
        self,
        old_shape: tuple[int, ...],
        shape: tuple[int, ...],
        *,
        num_maps: int,
        measure: Callable[[Tensor], Tensor],
    ) -> None:
        self.array: NDArray[np.float32] = np.empty((num_maps, *shape), np.float32)
        self._rows = _Rows(tuple(old_shape), tuple(shape))
        self._measure = measure

    def add(self, first: int, planes: Tensor) -> None:
        """Takes the next planes, as `LabelResult.add` does."""
        tables = self._rows.tables(planes.dtype)
        rows = self._rows.take(tables[0], first + planes.shape[1])
        for part, logits in interpolated(rows, first, planes, tables):
            self.array[:, part] = self._measure(logits).movedim(1, 0).float().cpu().numpy()


def fill_rows(
    labels: NDArray[Any],
    rows: slice,
    first: int,
    planes: Tensor,
    tables: Sequence[AxisTable],
    rule: LabelRule,
) -> int:
    """Writes the class numbers of some rows; returns how many voxels were interpolated on the CPU.

    Args:
        labels: of those rows alone.
        rows, first, planes, tables: as for `interpolated`.
        rule: how logits become class numbers.
    """
    if rule.decode is not None or planes.device.type != "cpu":
        for part, logits in interpolated(rows, first, planes, tables):
            found = rule(logits).cpu().numpy().astype(labels.dtype)
            labels[part.start - rows.start : part.stop - rows.start] = found
        return 0
    threads = torch.get_num_threads()
    chunks = list(_chunks(rows, planes, tables[0], threads))

    def fill(chunk: slice) -> int:
        part = labels[chunk.start - rows.start : chunk.stop - rows.start]
        return _fill_chunk(part, chunk, first, planes, tables, rule)

    if len(chunks) < 2 or threads < 2:
        return sum(fill(chunk) for chunk in chunks)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(fill, chunks))


def interpolated(
    rows: slice, first: int, planes: Tensor, tables: Sequence[AxisTable]
) -> Iterator[tuple[slice, Tensor]]:
    """Interpolated logits (rows, C, ...) of some rows of the result, a few at a time.

    Args:
        rows: wanted rows.
        first: number of the first plane.
        planes: (C, n, ...), all that the rows need.
        tables: of all axes.
    """
    shape = tuple(len(table.before) for table in tables[1:])
    step = max(1, SLAB_BYTES // (4 * planes.shape[0] * int(np.prod(shape))))
    mode = {1: "linear", 2: "bilinear"}[len(shape)]
    is_same = tuple(planes.shape[2:]) == shape
    before, after, share = tables[0].before, tables[0].after, tables[0].share
    for start in range(rows.start, rows.stop, step):
        stop = min(rows.stop, start + step)
        low, high = int(before[start]), int(after[stop - 1])
        part = planes[:, low - first : high + 1 - first].movedim(1, 0)
        if not is_same:
            # One axis is interpolated by hand, so that a slab needs only the planes around it.
            part = F.interpolate(
                part.to(torch.promote_types(part.dtype, torch.float32)), shape, mode=mode
            )
        elif part.dtype in (torch.float16, torch.bfloat16):
            part = part.float()
        weight = torch.as_tensor(share[start:stop], device=planes.device)
        if not weight.any():
            yield slice(start, stop), part[torch.as_tensor(before[start:stop] - low)]
            continue
        a = torch.as_tensor(before[start:stop] - low, device=planes.device)
        b = torch.as_tensor(after[start:stop] - low, device=planes.device)
        w = weight.view(-1, *[1] * (part.ndim - 1))
        yield slice(start, stop), part[a] * (1 - w) + part[b] * w


def _chunks(rows: slice, planes: Tensor, table: AxisTable, threads: int) -> Iterator[slice]:
    """Rows in parts of a few planes each, small enough to be converted at once."""
    if rows.stop <= rows.start:
        return
    low, high = int(table.before[rows.start]), int(table.after[rows.stop - 1])
    plane_bytes = 4 * planes.shape[0] * int(np.prod(planes.shape[2:]))
    wanted = max(MIN_PLANES, (high + 1 - low) // (4 * threads))
    if not _is_flat(planes):
        wanted = max(2, min(wanted, CHUNK_BYTES // plane_bytes))
    start = rows.start
    while start < rows.stop:
        limit = int(table.before[start]) + wanted
        stop = max(start + 1, int(np.searchsorted(table.after, limit)))
        yield slice(start, min(stop, rows.stop))
        start = min(stop, rows.stop)


def _is_flat(planes: Tensor) -> bool:
    return planes.dtype == torch.float32 and planes[0].is_contiguous() and planes.stride(0) >= 0


def _fill_chunk(
    labels: NDArray[Any],
    rows: slice,
    first: int,
    planes: Tensor,
    tables: Sequence[AxisTable],
    rule: LabelRule,
) -> int:
    """Writes the labels of some rows; returns how many voxels were interpolated."""
    from medseg.inference.label_kernels import fill_labels, find_winners  # compiles on first use

    table = tables[0]
    low, high = int(table.before[rows.start]), int(table.after[rows.stop - 1])
    part = planes[:, low - first : high + 1 - first]
    if not _is_flat(planes):
        part = part.to(torch.float32).contiguous()
    num_channels = int(part.shape[0])
    voxels = int(np.prod(part.shape[1:]))
    span = (num_channels - 1) * part.stride(0) + voxels
    flat = part.detach().as_strided((span,), (1,)).numpy()
    offsets = np.zeros(num_channels, np.float32)
    if rule.offsets is not None:
        offsets[:] = rule.offsets
    numbers = range(num_channels) if rule.paints is None else (0, *rule.paints)
    names = np.array(numbers, np.int32)
    winners = np.empty(voxels, np.int32)
    runners_up = np.empty(voxels if rule.paints is None else 1, np.float32)
    is_painted = rule.paints is not None
    common = (flat, int(part.stride(0)), offsets, is_painted, winners, runners_up)
    find_winners(*common)
    # An image of two axes is one of three, the middle one a single voxel.
    inner = list(tables[1:]) if len(tables) == 3 else [axis_table(1, 1), tables[1]]
    before = (table.before[rows] - low, *(t.before for t in inner))
    after = (table.after[rows] - low, *(t.after for t in inner))
    share = tuple(s.astype(np.float64) for s in (table.share[rows], *(t.share for t in inner)))
    extents = (int(part.shape[2]) if part.ndim == 4 else 1, int(part.shape[-1]))
    # One compiled function for results of both widths.
    filled = np.empty(labels.size, np.int32)
    count = fill_labels(*common, extents, before, after, share, names, filled)
    labels[...] = filled.reshape(labels.shape)
    return int(count)
