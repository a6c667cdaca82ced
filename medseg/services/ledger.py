"""The ledger: what became of every study, in one SQLite file that outlives kill -9 and power cuts.

A worker leases a job for a limited time. The token of the lease grows each time, and every later
step must carry the current one, so that a worker that slept through its lease can change nothing.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.services.audit import FIRST, chained
from medseg.services.jobs import (
    HELD,
    OPEN,
    STATES,
    Job,
    LeaseLostError,
    NewJob,
    Result,
    State,
)
from medseg.services.ledger_file import failure, open_ledger
from medseg.services.ledger_rows import SELECT, in_states, job_of, of_recipes, results_text
from medseg.services.ownership import has_ended


class Ledger:
    """Opens or creates a ledger.

    Args:
        path: file on a disk of this machine; missing folders are made.
        clock: seconds since 1970.

    Raises:
        LedgerError: the disk is a network's, the file is something else, damaged or of a newer
            medseg.
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self.clock = clock
        self._lock = threading.RLock()
        self._connection = open_ledger(self.path)
        self._is_changing = False

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One change that is on the disk when the block ends, or not made at all.

        Raises:
            LedgerError: the disk is full or the file cannot be written; nothing was changed.
        """
        with self._lock:
            if self._is_changing:  # a part of the change that is being made
                yield self._connection
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._is_changing = True
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
                finally:
                    self._is_changing = False
            except sqlite3.Error as error:
                raise failure(self.path, error) from error

    def query(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(text, values).fetchall()
            except sqlite3.Error as error:
                raise failure(self.path, error) from error

    # Receiving and leasing

    def receive(self, job: NewJob, *, not_before: float = 0.0) -> bool:
        """Adds a job; False if its key is known already.

        Args:
            job: what to add; if another has its name, a part of the key is added to it.
            not_before: when work may begin.
        """
        with self.transaction() as connection:
            return self._insert(connection, job, None, not_before) is not None

    def lease(
        self, owner: str, *, lease_s: float, recipes: Sequence[str] | None = None
    ) -> Job | None:
        """The next job to work on, now owned by `owner`; None if there is none at the moment.

        Jobs that were begun before come after fresh ones, so that one that ends its worker holds
        up nobody.

        Args:
            owner: see `ownership.new_owner`.
            lease_s: how long it is the owner's without being renewed.
            recipes: only jobs that are for one of these; None for any.
        """
        now = self.clock()
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT id FROM jobs WHERE state = 'received' AND not_before <= ? "
                f"AND {of_recipes(recipes)} ORDER BY attempts + interruptions, id LIMIT 1",
                (now, *(recipes or ())),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE jobs SET state = 'leased', owner = ?, token = token + 1, "
                "lease_until = ?, updated_at = ? WHERE id = ?",
                (owner, now + lease_s, now, row[0]),
            )
            return job_of(connection.execute(f"{SELECT} WHERE id = ?", row).fetchone())

    def renew(self, job: Job, *, lease_s: float) -> bool:
        """Whether the job is still this worker's; its time is set anew."""
        with self.transaction() as connection:
            changed = connection.execute(
                f"UPDATE jobs SET lease_until = ? WHERE id = ? AND token = ? AND {in_states(HELD)}",
                (self.clock() + lease_s, job.id, job.token),
            )
            return changed.rowcount == 1

    def recover(self) -> int:
        """Takes jobs back whose lease has run out or whose worker is gone; how many.

        What a worker held together with others is no evidence against any of them: each is an
        interruption, after which a job is worked on alone (see `Holding.lease`). A worker that was
        lost over one job alone costs that job an attempt.
        """
        now = self.clock()
        held = self.query(
            f"SELECT id, token, owner, lease_until, key FROM jobs WHERE {in_states(HELD)}"
        )
        together = Counter(row[2] for row in held)
        lost = [row for row in held if row[3] <= now or has_ended(row[2])]
        count = 0
        for number, token, owner, _, key in lost:
            cost = "attempts" if together[owner] == 1 else "interruptions"
            with self.transaction() as connection:
                changed = connection.execute(
                    "UPDATE jobs SET state = 'received', owner = '', token = token + 1, "
                    f"{cost} = {cost} + 1, updated_at = ? "
                    f"WHERE id = ? AND token = ? AND {in_states(HELD)}",
                    (now, number, token),
                ).rowcount
                if changed:
                    self.record(connection, key, "recovered", {})
                count += changed
        return count

    # Steps of a worker that holds the lease

    def predicted(self, job: Job) -> None:
        """Records that the result is known, though not yet written."""
        self._step(job, "state = 'predicted'", (), event="")

    def written(
        self,
        job: Job,
        results: Sequence[Result],
        *,
        deliver: bool,
        note: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Records the files of a job. One without anything to send is done.

        Args:
            job: held by this worker.
            results: its files.
            deliver: those that are DICOM wait to be sent.
            note: for people.
            details: for the audit trail, such as hashes of model and options.
        """
        outgoing = [result for result in results if result.sop_instance_uid] if deliver else []
        with self.transaction() as connection:
            self._step(
                job,
                "state = ?, results = ?, note = ?, owner = ''",
                ("written" if outgoing else "done", results_text(results), note),
                event="written" if outgoing else "done",
                details={
                    **(details or {}),
                    "note": note,
                    "results": [result.sha256 for result in results],
                },
            )
            connection.executemany(
                "INSERT OR IGNORE INTO deliveries (job, path, result, state) "
                "VALUES (?, ?, ?, 'waiting')",
                [(job.id, item.path, json.dumps(asdict(item))) for item in outgoing],
            )

    def split(self, job: Job, children: Sequence[NewJob], *, note: str = "") -> int:
        """Ends a study by adding its series; those whose key is known are not added again.

        Returns:
            How many were added.
        """
        with self.transaction() as connection:
            added = [self._insert(connection, child, job.id, 0.0) for child in children]
            self._step(
                job,
                "state = 'done', owner = '', num_children = ?, note = ?",
                (sum(number is not None for number in added), note),
                event="split",
                details={"series": [child.key for child in children], "note": note},
            )
        return sum(number is not None for number in added)

    def quarantine(self, job: Job, *, code: str, sentence: str, place: str = "") -> None:
        """Sets a job aside for a person, with the reason; its input is left as it is."""
        self._step(
            job,
            "state = 'quarantined', owner = '', code = ?, sentence = ?, place = ?",
            (code, sentence, place),
            event="quarantined",
            details={"code": code},
        )

    def add_quarantined(
        self, parent: Job, child: NewJob, *, code: str, sentence: str, place: str
    ) -> None:
        """Adds a part of a study that cannot be worked on, unless it is known."""
        with self.transaction() as connection:
            number = self._insert(connection, child, parent.id, 0.0)
            if number is not None:
                connection.execute(
                    "UPDATE jobs SET state = 'quarantined', code = ?, sentence = ?, place = ? "
                    "WHERE id = ?",
                    (code, sentence, place, number),
                )
                self.record(connection, child.key, "quarantined", {"code": code})

    def give_back(self, job: Job, *, delay_s: float = 0.0, counts: bool = False) -> None:
        """Puts a job back among those received.

        Args:
            job: held by this worker.
            delay_s: when it may be leased again.
            counts: it was the job's fault, which its attempts count.
        """
        self._step(
            job,
            "state = 'received', owner = '', not_before = ?, attempts = attempts + ?",
            (self.clock() + delay_s, int(counts)),
            event="given back",
        )

    def _step(
        self,
        job: Job,
        change: str,
        values: Sequence[Any],
        *,
        event: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        with self.transaction() as connection:
            changed = connection.execute(
                f"UPDATE jobs SET {change}, updated_at = ? "
                f"WHERE id = ? AND token = ? AND {in_states(HELD)}",
                (*values, self.clock(), job.id, job.token),
            )
            if changed.rowcount != 1:
                raise LeaseLostError(
                    job.name,
                    "is worked on by another, as this lease has run out",
                    "set executor.lease_s to more if a worker may be held up for so long",
                )
            if event:
                self.record(connection, job.key, event, details or {})

    def jobs(self, *, states: Sequence[State] = STATES, name: str = "") -> list[Job]:
        """Jobs in the order they were received.

        Args:
            states: which.
            name: only those of this name or key, or whose key begins with it (8 characters at
                least).
        """
        condition, values = in_states(states), []
        if name:
            condition += " AND (name = ? OR key = ? OR (length(?) >= 8 AND substr(key, 1, ?) = ?))"
            values = [name, name, name, len(name), name]
        rows = self.query(f"{SELECT} WHERE {condition} ORDER BY id", values)
        return [job_of(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """Jobs in each state; studies that were split are counted by their parts."""
        found = dict(
            self.query(
                "SELECT state, count(*) FROM jobs WHERE NOT (kind = 'study' AND num_children > 0) "
                "GROUP BY state"
            )
        )
        return {state: int(found.get(state, 0)) for state in STATES}

    def num_open(
        self, *, states: Sequence[State] = OPEN, recipes: Sequence[str] | None = None
    ) -> int:
        """Jobs that are neither done nor quarantined, or in the given states."""
        text = f"SELECT count(*) FROM jobs WHERE {in_states(states)} AND {of_recipes(recipes)}"
        return int(self.query(text, recipes or ())[0][0])

    def _insert(
        self, connection: sqlite3.Connection, job: NewJob, parent: int | None, not_before: float
    ) -> int | None:
        known = connection.execute("SELECT 1 FROM jobs WHERE key = ?", (job.key,)).fetchone()
        if known is not None:
            return None
        name = job.name
        if connection.execute("SELECT 1 FROM jobs WHERE name = ?", (name,)).fetchone():
            name = f"{name}_{job.key[:12]}"
        now = self.clock()
        added = connection.execute(
            "INSERT INTO jobs (key, kind, name, parent, state, model, recipe, source, not_before, "
            "received_at, updated_at) VALUES (?, ?, ?, ?, 'received', ?, ?, ?, ?, ?, ?)",
            (
                job.key,
                job.kind,
                name,
                parent,
                job.model,
                job.recipe,
                json.dumps(job.source, sort_keys=True),
                not_before,
                now,
                now,
            ),
        )
        self.record(connection, job.key, "received", {"kind": job.kind, "model": job.model})
        return added.lastrowid

    def record(
        self, connection: sqlite3.Connection, key: str, event: str, details: Mapping[str, Any]
    ) -> None:
        """Adds an event to the audit trail, as a part of the change that it tells of."""
        last = connection.execute("SELECT hash FROM events ORDER BY id DESC LIMIT 1").fetchone()
        line, digest = chained(
            FIRST if last is None else last[0],
            {
                "at": round(self.clock(), 3),
                "job": key,
                "event": event,
                "by": f"medseg {__version__}",
                **{name: value for name, value in details.items() if value not in ("", None)},
            },
        )
        connection.execute("INSERT INTO events (line, hash) VALUES (?, ?)", (line, digest))

    def events(self, *, after: int = 0, limit: int = 1000) -> list[str]:
        """Lines of the audit trail behind the first `after`."""
        rows = self.query(
            "SELECT line FROM events WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return [row[0] for row in rows]

    def all_events(self) -> Iterator[str]:
        """Lines of the audit trail, from the first on."""
        count = 0
        while lines := self.events(after=count):
            yield from lines
            count += len(lines)
