"""The audit trail: who did what to which job and when, each line bound to the one before by a hash.

Events are kept in the ledger, in the same transaction as the change they tell of, and copied to a
file of JSON lines. Neither holds anything of the patient: studies and series appear as hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.core.errors import MedsegError

FIRST = "0" * 64
"""What stands in the place of the hash before the first event."""


def chained(previous: str, event: Mapping[str, Any]) -> tuple[str, str]:
    """The line of an event, and its hash.

    Args:
        previous: hash of the event before.
        event: JSON-compatible values.
    """
    line = json.dumps({**event, "previous": previous}, sort_keys=True, separators=(",", ":"))
    return line, hashlib.sha256(line.encode()).hexdigest()


def check_chain(lines: Iterable[str], *, where: str | Path) -> int:
    """How many lines there are, if none was changed, removed from the middle or put in.

    Lines cut off at the end leave a chain that is whole; compare its length or last hash with a
    copy kept elsewhere.

    Raises:
        MedsegError: E_AUDIT, with the number of the first line that does not fit.
    """
    expected, count = FIRST, 0
    for count, line in enumerate(lines, start=1):
        text = line.rstrip("\n")
        try:
            found = json.loads(text)["previous"]
        except (ValueError, KeyError, TypeError):
            found = None
        if found != expected:
            raise MedsegError(
                where,
                f"line {count} does not follow the one before it: the file was changed",
                "compare it with a backup",
                code="E_AUDIT",
            )
        expected = hashlib.sha256(text.encode()).hexdigest()
    return count


def check_copy(ledger: Iterable[str], copy: Iterable[str], *, where: str | Path) -> int:
    """How many lines a copy of the trail has, if it is how the ledger's begins.

    Raises:
        MedsegError: E_AUDIT, with the number of the first line that the ledger does not have so.
    """
    events, count = iter(ledger), 0
    for count, line in enumerate(copy, start=1):
        if line.rstrip("\n") != next(events, None):
            raise MedsegError(
                where,
                f"line {count} is not in the ledger so: one of the two was changed",
                "compare both with a backup",
                code="E_AUDIT",
            )
    return count


class AuditFile:
    """A file of JSON lines that follows the ledger's events.

    Args:
        path: the file; lines that it has are kept.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def count(self) -> int:
        """Whole lines in the file; half a line that a crash has left is cut off."""
        if not self.path.exists():
            return 0
        with self.path.open("r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                file.truncate(whole)
            return content[:whole].count(b"\n")

    def append(self, lines: Iterable[str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
