"""Names for running workers, by which another can tell whether one has ended."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_PROC = Path("/proc")


def new_owner() -> str:
    """A name for a worker of this process, unlike any other now or before."""
    pid = os.getpid()
    return f"{_place()}:{pid}:{_started(pid)}:{secrets.token_hex(6)}"


def has_ended(owner: str) -> bool:
    """True if the worker's process is known to be gone; False if it runs or cannot be seen."""
    place, _, rest = owner.partition(":")
    number, _, rest = rest.partition(":")
    started = rest.partition(":")[0]
    if place.split("/")[0] != _place().split("/")[0]:
        # The machine has been started anew (or it is another machine, which only the lease's
        # time can tell of).
        return False
    if place != _place() or not number.isdigit():
        return False
    return _started(int(number)) != started


def _place() -> str:
    """Start of this machine and its set of process numbers, which differs between containers."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        numbers = str((_PROC / "self/ns/pid").stat().st_ino)
    except OSError:
        return "unknown"
    return f"{boot[:13]}/{numbers}"


def _started(pid: int) -> str:
    """When a process was started, in clock ticks; "" if there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return ""
    # Field 22; the second field, the command's name in brackets, may hold spaces. State Z: ended.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]
