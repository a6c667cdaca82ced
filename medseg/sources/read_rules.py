"""What a file reader may accept; sources take the same options as plain values."""

from __future__ import annotations

from dataclasses import dataclass

# Two gigabytes hold a 512 x 512 x 2000 CT as int16 twice over; a header asking for more is more
# often damaged than right, and is refused before any memory is taken.
MAX_BYTES = 2_000_000_000


@dataclass(frozen=True)
class ReadRules:
    """Choices that change what is refused.

    Args:
        allow_unknown_orientation: read a file without orientation as if its axes were R, A, S.
        max_bytes: largest decoded array in bytes.
    """

    allow_unknown_orientation: bool = False
    max_bytes: int = MAX_BYTES
