"""Memory that is free, in the machine and within the limit of a container."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that nobody uses, as far as the container that the process is in may have them."""
    free = int(psutil.virtual_memory().available)
    limit = _limit()
    return free if limit is None else max(0, min(free, limit - _used()))


def total_memory() -> int:
    """Bytes of the machine, or of the container that the process is in."""
    total = int(psutil.virtual_memory().total)
    limit = _limit()
    return total if limit is None else min(total, limit)


def _limit() -> int | None:
    """Bytes that the container may have; None where there is none, or no limit (version 2)."""
    try:
        return int((CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # no control group, or "max"
        return None


def _used() -> int:
    """Bytes that the container holds; files that were read and can be forgotten do not count."""
    try:
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        facts = dict(line.split(maxsplit=1) for line in lines)
        return used - int(facts.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0
