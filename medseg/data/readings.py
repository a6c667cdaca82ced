"""Images that were read to be measured, kept until they are prepared, as far as memory allows."""

from __future__ import annotations

import threading

from medseg.core.free_memory import free_memory
from medseg.core.segmentation import LabelMap, PanopticMap, Reference, instances_of
from medseg.core.volume import Volume

MEMORY_SHARE = 0.2
"""Share of the free memory for images that wait; the others are read a second time."""


class Readings:
    """Images and references by case key; each is handed out once.

    Args:
        share: of the free memory that they may fill.
    """

    def __init__(self, share: float = MEMORY_SHARE) -> None:
        self._free = free_memory() * share
        self._kept: dict[str, tuple[Volume, Reference]] = {}
        self._lock = threading.Lock()

    def keep(self, key: str, volume: Volume, reference: Reference) -> None:
        """Keeps what was read if there is room."""
        size = volume.array.nbytes + num_bytes(reference)
        with self._lock:
            if size <= self._free:
                self._free -= size
                self._kept[key] = (volume, reference)

    def take(self, key: str) -> tuple[Volume, Reference] | None:
        """What was kept, which is then forgotten; None if the case must be read."""
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is not None:
                self._free += kept[0].array.nbytes + num_bytes(kept[1])
            return kept


def num_bytes(reference: Reference) -> int:
    """Size of a reference's arrays."""
    if isinstance(reference, LabelMap):
        return int(reference.array.nbytes)
    classes = reference.label_map.array.nbytes if isinstance(reference, PanopticMap) else 0
    return int(instances_of(reference).layers.nbytes + classes)
