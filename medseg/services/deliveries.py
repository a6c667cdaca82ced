"""The outbox: which results are still to be sent, and which an archive is known to have.

A result is sent until the destination takes it, with growing pauses, and then asked for; a job is
done when each of its results was found there.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from medseg.services.jobs import Result
from medseg.services.ledger import Ledger

_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True)
class Delivery:
    """A result on its way.

    Args:
        id: number in this ledger.
        job: number of its job.
        result: the file.
        is_sent: the destination took it, and is to be asked for it.
        attempts: how often it was tried since it last went forward.
        token: of the lease.
    """

    id: int
    job: int
    result: Result
    is_sent: bool
    attempts: int
    token: int


def take(ledger: Ledger, owner: str, *, lease_s: float) -> Delivery | None:
    """The next result to be sent or asked for; None if none is due."""
    now = ledger.clock()
    with ledger.transaction() as connection:
        row = connection.execute(
            "SELECT id FROM deliveries WHERE state IN ('waiting', 'sent') AND not_before <= ? "
            "AND lease_until <= ? ORDER BY state = 'sent' DESC, attempts, id LIMIT 1",
            (now, now),
        ).fetchone()
        if row is None:
            return None
        connection.execute(
            "UPDATE deliveries SET owner = ?, token = token + 1, lease_until = ? WHERE id = ?",
            (owner, now + lease_s, row[0]),
        )
        found = connection.execute(
            "SELECT id, job, result, state, attempts, token FROM deliveries WHERE id = ?", row
        ).fetchone()
    return Delivery(
        found[0],
        found[1],
        Result(**json.loads(found[2])),
        found[3] == "sent",
        found[4],
        found[5],
    )


def mark_sent(ledger: Ledger, delivery: Delivery, *, check_after_s: float) -> None:
    """The destination said that it has taken the result."""
    _change(ledger, delivery, state="sent", attempts=0, delay_s=check_after_s)


def mark_confirmed(ledger: Ledger, delivery: Delivery) -> None:
    """The destination has been found to hold the result."""
    _change(ledger, delivery, state="confirmed", attempts=0, delay_s=0.0)


def mark_later(
    ledger: Ledger, delivery: Delivery, *, reason: str, is_missing: bool = False
) -> None:
    """It did not work this time.

    Args:
        ledger: that holds it.
        delivery: what was tried.
        reason: a code, for `jobs show` and the metrics.
        is_missing: the destination took the result, but does not have it: it is sent again.
    """
    attempts = delivery.attempts + 1
    state = "sent" if delivery.is_sent and not is_missing else "waiting"
    _change(
        ledger,
        delivery,
        state=state,
        attempts=0 if is_missing else attempts,
        delay_s=pause_s(attempts),
        reason=reason,
    )


def mark_refused(ledger: Ledger, delivery: Delivery, *, code: str, sentence: str) -> None:
    """The destination will never take it; the job waits for a person."""
    with ledger.transaction() as connection:
        _change(ledger, delivery, state="refused", attempts=delivery.attempts, delay_s=0.0)
        key = _key(ledger, delivery)
        connection.execute(
            "UPDATE jobs SET state = 'quarantined', code = ?, sentence = ?, updated_at = ? "
            "WHERE id = ? AND state IN ('written', 'sent')",
            (code, sentence, ledger.clock(), delivery.job),
        )
        ledger.record(connection, key, "quarantined", {"code": code})


def make_again(ledger: Ledger, delivery: Delivery) -> None:
    """The file is not as it was written: the job is done anew."""
    with ledger.transaction() as connection:
        connection.execute("DELETE FROM deliveries WHERE job = ?", (delivery.job,))
        connection.execute(
            "UPDATE jobs SET state = 'received', results = '[]', updated_at = ? "
            "WHERE id = ? AND state IN ('written', 'sent')",
            (ledger.clock(), delivery.job),
        )
        ledger.record(connection, _key(ledger, delivery), "result lost", {})


def pause_s(attempts: int) -> float:
    """Growing pauses, each of random length so that many senders do not come at once."""
    longest = min(_LONGEST_PAUSE_S, 2.0 ** min(attempts, 20))
    return longest * random.uniform(0.5, 1.0)


def backlog(ledger: Ledger) -> dict[str, int]:
    """Results in each state of delivery."""
    rows = ledger.query("SELECT state, count(*) FROM deliveries GROUP BY state")
    return {str(state): int(count) for state, count in rows}


def _change(
    ledger: Ledger,
    delivery: Delivery,
    *,
    state: str,
    attempts: int,
    delay_s: float,
    reason: str = "",
) -> None:
    now = ledger.clock()
    with ledger.transaction() as connection:
        changed = connection.execute(
            "UPDATE deliveries SET state = ?, attempts = ?, not_before = ?, reason = ?, "
            "lease_until = 0 WHERE id = ? AND token = ?",
            (state, attempts, now + delay_s, reason, delivery.id, delivery.token),
        )
        if changed.rowcount != 1 or state not in ("sent", "confirmed"):
            return
        left = {
            found
            for (found,) in connection.execute(
                "SELECT state FROM deliveries WHERE job = ?", (delivery.job,)
            )
        }
        step = "done" if left == {"confirmed"} else "sent" if left <= {"sent", "confirmed"} else ""
        if step:
            moved = connection.execute(
                "UPDATE jobs SET state = ?, updated_at = ? "
                "WHERE id = ? AND state IN ('written', 'sent') AND state <> ?",
                (step, now, delivery.job, step),
            )
            if moved.rowcount:
                ledger.record(connection, _key(ledger, delivery), step, {})


def _key(ledger: Ledger, delivery: Delivery) -> str:
    return str(ledger.query("SELECT key FROM jobs WHERE id = ?", (delivery.job,))[0][0])
