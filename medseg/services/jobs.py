"""What the ledger holds: a job, its states, and the errors of losing one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from medseg.core.errors import MedsegError

Kind = Literal["study", "series"]
State = Literal["received", "leased", "predicted", "written", "sent", "done", "quarantined"]
STATES: tuple[State, ...] = (
    "received", "leased", "predicted", "written", "sent", "done", "quarantined",
)  # fmt: skip
OPEN: tuple[State, ...] = ("received", "leased", "predicted", "written", "sent")
HELD: tuple[State, ...] = ("leased", "predicted")
"""States in which a worker owns the job; without it they fall back to received."""


@dataclass(frozen=True)
class Result:
    """A file that a job has written.

    Args:
        path: where it lies.
        sha256: of its content.
        sop_class_uid, sop_instance_uid: of a DICOM object; "" for other files.
        study_uid, series_uid: of a DICOM object, for asking an archive for it.
    """

    path: str
    sha256: str
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""


@dataclass(frozen=True)
class Job:
    """One row of the ledger: a study to be looked at, or a series to be segmented by one model.

    Args:
        id: number in this ledger.
        key: the same for the same input, model and options, however often it arrives.
        kind: "study" (files whose series are not known yet) or "series".
        name: what logs and file names call it; holds no patient identifier.
        parent: number of the study that a series came from; None for a study.
        state: see `STATES`.
        model: name of the model; "" for a study.
        token: grows with each lease; a commit that carries an older one is refused.
        attempts: leases that ended by the loss of a worker that held this job alone.
        interruptions: leases that ended by the loss of a worker that held others too.
        source: where the input lies, as JSON-compatible values.
        results: files written.
        code, sentence, place: why it was quarantined, for programs and for people, and where.
        note: what else a person should know, such as a fall-back that was used.
        received_at, updated_at: seconds since 1970.
        num_children: series that a study was split into.
    """

    id: int
    key: str
    kind: Kind
    name: str
    parent: int | None
    state: State
    model: str
    token: int
    attempts: int
    interruptions: int
    source: Mapping[str, Any]
    results: tuple[Result, ...]
    code: str
    sentence: str
    place: str
    note: str
    received_at: float
    updated_at: float
    num_children: int


@dataclass(frozen=True)
class NewJob:
    """A job to be received; see `Job`.

    Args:
        recipe: hash of the models and options that it is for; only workers that have them lease it.
    """

    kind: Kind
    key: str
    name: str
    source: Mapping[str, Any]
    model: str = ""
    recipe: str = ""


class LedgerError(MedsegError):
    """The ledger cannot be opened or written."""

    default_code = "E_LEDGER"


class LeaseLostError(MedsegError):
    """Another worker has taken over the job; what this one found is dropped."""

    default_code = "E_LEASE_LOST"


def job_key(*parts: object) -> str:
    """SHA-256 in hexadecimal of the parts as JSON, so that ("ab", "c") and ("a", "bc") differ."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
