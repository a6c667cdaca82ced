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

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
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
