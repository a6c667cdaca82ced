"""Logits of one bundle that come in slabs, seen as rows of the result they are interpolated to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.inference.sliding_window import Slab
from medseg.inference.uncertainty import Measure
from medseg.inference.upsample import (
    AxisTable,
    LabelRule,
    axis_tables,
    fill_rows,
    interpolated,
)


class LogitStream:
    """Rows of the result, each as soon as the slabs it needs are there.

    Args:
        slabs: along the first axis.
        old_shape: of all logits, the axis of the slabs first.
        shape: of the result, in the same order.
        measure: probabilities of the logits.
        swaps: whether results are wanted with their other two axes in the other order.
        has_spread: the last channel is the disagreement of passes.
    """

    def __init__(
        self,
        slabs: Iterator[Slab],
        *,
        old_shape: tuple[int, ...],
        shape: tuple[int, ...],
        measure: Measure,
        swaps: bool = False,
        has_spread: bool = False,
    ) -> None:
        self._slabs = slabs
        self._shapes = tuple(old_shape), tuple(shape)
        self._measure = measure
        self._swaps = swaps
        self._has_spread = has_spread
        self._first = 0
        self._stop = 0
        self._planes: Tensor | None = None
        self._tables: list[AxisTable] = []

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result, in the wanted order."""
        rows, p, q = self._shapes[1]
        return (rows, q, p) if self._swaps else (rows, p, q)

    def reach(self, row: int) -> int:
        """The first row after `row` that cannot be made yet, once `row` itself can."""
        while self._stop <= row:
            self._planes = None
            slab = next(self._slabs)
            self._first, self._planes = slab.first, slab.logits
            self._tables = axis_tables(*self._shapes, slab.logits.dtype)
            last = slab.first + slab.logits.shape[1]
            self._stop = int(np.searchsorted(self._tables[0].after, last))
        return self._stop

    def labels(self, rows: slice, rule: LabelRule) -> NDArray[Any]:
        """Class numbers of some rows."""
        result = np.empty((rows.stop - rows.start, *self._shapes[1][1:]), rule.dtype)
        fill_rows(result, rows, self._first, self._logits, self._tables, rule)
        return result.swapaxes(1, 2) if self._swaps else result

    def shares(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Probabilities (rows, C, P, Q) of a few rows, and the disagreement (rows, P, Q)."""
        assert self._planes is not None
        parts = [p for _, p in interpolated(rows, self._first, self._planes, self._tables)]
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._swaps:
            values = values.swapaxes(2, 3)
        if not self._has_spread:
            return self._measure.shares(values), None
        return self._measure.shares(values[:, :-1]), values[:, -1]

    def shares_at(self, places: tuple[NDArray[np.int64], ...]) -> Tensor:
        """Probabilities (C, n) of single voxels, given by their row and their other two numbers."""
        row, p, q = places
        wanted = (row, q, p) if self._swaps else (row, p, q)
        logits = self._logits
        total = torch.zeros(logits.shape[0], len(row), device=logits.device)
        for corner in product((False, True), repeat=3):
            weight = np.ones(len(row), np.float32)
            index = []
            for table, place, is_later in zip(self._tables, wanted, corner, strict=True):
                share = table.share[place].astype(np.float32)
                weight *= share if is_later else 1 - share
                index.append((table.after if is_later else table.before)[place])
            if not weight.any():
                continue
            i, j, k = (torch.from_numpy(part).to(logits.device) for part in index)
            total += logits[:, i - self._first, j, k].float() * torch.from_numpy(weight).to(total)
        return self._measure.shares(total[None])[0]

    @property
    def _logits(self) -> Tensor:
        assert self._planes is not None
        return self._planes[:-1] if self._has_spread else self._planes
