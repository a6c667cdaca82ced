"""Memory in tensors while something runs, counted on any device; what libraries take besides is
not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class OverLimit(Exception):  # noqa: N818 - an answer, not a fault
    """More bytes in tensors than `LiveBytes` allows."""


class LiveBytes(TorchDispatchMode):
    """Bytes in tensors made since it began and not yet freed.

    Args:
        limit: bytes from which OverLimit is raised, so that trying costs no more memory than
            allowed; None only counts.
    """

    def __init__(self, *, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.now = 0
        self.most = 0
        self._known: set[int] = set()

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Counts tensors that were made before."""
        for tensor in tensors:
            self._add(tensor.untyped_storage())

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled while it counts; else PyTorch would load its compiler first, which
        takes 4 s of processor time.
        """
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = _without_content(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        if self.limit is not None and self.now > self.limit:
            raise OverLimit(f"{self.now} bytes")
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _without_content(func: Any, args: Any) -> Any:
    """What three kinds of operators give of tensors that have a shape alone; None for all else.

    Without that PyTorch finds it out step by step, with tensors in between that computing it does
    not need, and loads its compiler, which takes 4 s of processor time.
    """
    first: Any = args[0] if args else None
    if func is torch.ops.aten.cat.default and all(part.is_meta for part in first):
        axis = args[1] if len(args) > 1 else 0
        shape = list(first[0].shape)
        shape[axis] = sum(part.shape[axis] for part in first)
        return first[0].new_empty(shape)
    if not isinstance(first, Tensor) or not first.is_meta:
        return None
    if func is torch.ops.aten.native_group_norm.default:
        size = (first.shape[0], args[6])
        return torch.empty_like(first), first.new_empty(size), first.new_empty(size)
    is_in_place = func._schema.name.endswith("_")
    return first if is_in_place and torch.Tag.pointwise in func.tags else None
