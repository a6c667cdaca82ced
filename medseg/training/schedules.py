"""Learning rate over a training, as a factor on the base rate; progress runs from 0 to 1 in steps
or in time.
"""

from __future__ import annotations

import math


def poly(progress: float, *, power: float = 0.9, warmup: float = 0.0) -> float:
    """(1 - progress) to a power, after a linear rise over the share `warmup` (Chen et al. 2018,
    TPAMI).
    """
    return _rise(progress, warmup) * (1 - min(1.0, progress)) ** power


def cosine(progress: float, *, warmup: float = 0.0, final: float = 0.0) -> float:
    """Half a cosine from 1 to `final`, after a linear rise (Loshchilov and Hutter 2017, ICLR)."""
    half = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return _rise(progress, warmup) * (final + (1 - final) * half)


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def _rise(progress: float, warmup: float) -> float:
    return 1.0 if warmup <= 0 else min(1.0, (progress + 1e-3) / warmup)
