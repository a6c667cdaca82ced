"""What people do with the ledger: look something up, try again, take the records elsewhere."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.services.jobs import STATES, Job, LedgerError, State
from medseg.services.ledger import Ledger


def find_job(ledger: Ledger, name: str) -> Job:
    """The job of a name, a key, or the beginning of a key.

    Raises:
        LedgerError: there is none, or several.
    """
    found = ledger.jobs(name=name)
    if len(found) != 1:
        what = f"holds {len(found)} jobs called '{name}'"
        raise LedgerError(ledger.path, what, "see python -m medseg jobs list", code="E_NO_JOB")
    return found[0]


def retry(ledger: Ledger, names: Sequence[str] | None = None, *, code: str = "") -> list[str]:
    """Lets quarantined jobs be tried again; those whose results wait only to be sent, sent again.

    Args:
        ledger: that holds them.
        names: which; None for all.
        code: only those quarantined for this reason; "" for any.

    Returns:
        Names of the jobs put back.
    """
    chosen = [
        job
        for job in ledger.jobs(states=("quarantined",))
        if (names is None or job.name in names or job.key in names)
        and (not code or job.code == code)
    ]
    with ledger.transaction() as connection:
        for job in chosen:
            sent = connection.execute(
                "UPDATE deliveries SET state = 'waiting', attempts = 0, not_before = 0, "
                "reason = '' WHERE job = ? AND state = 'refused'",
                (job.id,),
            ).rowcount
            connection.execute(
                "UPDATE jobs SET state = ?, code = '', sentence = '', place = '', "
                "attempts = 0, interruptions = 0, not_before = 0, updated_at = ? "
                "WHERE id = ? AND state = 'quarantined'",
                ("written" if sent else "received", ledger.clock(), job.id),
            )
            ledger.record(connection, job.key, "retried", {})
    return [job.name for job in chosen]


def listed(ledger: Ledger, *, states: Sequence[State] = STATES) -> list[Job]:
    """Jobs that people ask about: a study that was split is told of by its parts."""
    return [
        job
        for job in ledger.jobs(states=states)
        if not (job.kind == "study" and job.num_children > 0)
    ]


def of_studies(ledger: Ledger, keys: Sequence[str]) -> list[Job]:
    """What became of some studies: they themselves, or the parts they were split into."""
    wanted = set(keys)
    ids: set[int] = set()
    chosen = []
    for job in ledger.jobs():  # parents come before their parts
        if job.key in wanted or job.parent in ids:
            ids.add(job.id)
            if not (job.kind == "study" and job.num_children > 0):
                chosen.append(job)
    return chosen


def as_mapping(job: Job) -> dict[str, Any]:
    """A job as JSON-compatible values, in the format that docs/hospital.md describes."""
    return {
        "name": job.name,
        "key": job.key,
        "kind": job.kind,
        "state": job.state,
        "model": job.model,
        "code": job.code,
        "sentence": job.sentence,
        "note": job.note,
        "attempts": job.attempts,
        "interruptions": job.interruptions,
        "source": str(job.source.get("path", "")),
        "results": [
            {"path": result.path, "sha256": result.sha256, "sop_instance": result.sop_instance_uid}
            for result in job.results
        ],
        "received_at": _time(job.received_at),
        "updated_at": _time(job.updated_at),
    }


def as_json(jobs: Sequence[Job]) -> str:
    return json.dumps([as_mapping(job) for job in jobs], indent=1)


def as_csv(jobs: Sequence[Job]) -> str:
    """One line per job; several results are separated by spaces."""
    text = io.StringIO()
    rows: list[Mapping[str, Any]] = [
        {**as_mapping(job), "results": " ".join(result.path for result in job.results)}
        for job in jobs
    ]
    names = [
        "name",
        "state",
        "code",
        "sentence",
        "model",
        "source",
        "results",
        "attempts",
        "interruptions",
    ]
    names += ["note", "kind", "key", "received_at", "updated_at"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain_cell(row[name]) for name in names} for row in rows)
    return text.getvalue()


def copy_ledger(ledger: Ledger, target: Path) -> None:
    """A copy of the ledger as it is at one moment, while others work on it."""
    with ledger.transaction():
        pass  # so that a ledger that cannot be written is told of here
    ledger.query("VACUUM INTO ?", (str(target),))


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


def _plain_cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
