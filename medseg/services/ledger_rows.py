"""The words in which the ledger asks SQLite for jobs, and what it makes of the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from medseg.services.jobs import Job, Result, State

_COLUMNS = (
    "id, key, kind, name, parent, state, model, token, attempts, interruptions, source, results, "
    "code, sentence, place, note, received_at, updated_at, num_children"
)
SELECT = f"SELECT {_COLUMNS} FROM jobs"


def in_states(states: Sequence[State]) -> str:
    return f"state IN ({', '.join(repr(str(state)) for state in states)})"


def of_recipes(recipes: Sequence[str] | None) -> str:
    return "true" if recipes is None else f"recipe IN ({', '.join('?' * len(recipes))})"


def job_of(row: Sequence[Any]) -> Job:
    """The job of a row of `SELECT`."""
    values = dict(zip(_COLUMNS.replace(" ", "").split(","), row, strict=True))
    values["source"] = json.loads(values["source"])
    values["results"] = tuple(Result(**item) for item in json.loads(values["results"]))
    return Job(**values)


def results_text(results: Sequence[Result]) -> str:
    plain: list[Mapping[str, str]] = [asdict(result) for result in results]
    return json.dumps(plain)
