"""A name for what is made from a case: it changes with the case's files and with how it is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError
from medseg.core.identity import Case


def source_hash(case: Case, rules: Mapping[str, Any]) -> str:
    """Hash of a case's files (path, size, time), of what else decides how they are read, and of
    `rules`.

    Raises:
        InputError: a file is gone.
    """
    facts: dict[str, Any] = {**rules, "files": [_identity(path) for path in case.paths]}
    if case.reading:
        facts["reading"] = case.reading
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _identity(path: Path) -> tuple[str, int, int]:
    """What changes when a file does."""
    try:
        facts = path.stat()
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}", "check the folder") from error
    return str(path.resolve()), facts.st_size, facts.st_mtime_ns
