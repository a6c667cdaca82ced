"""Runs a service: a way in, an executor, a way out, and what they tell of themselves.

Each is a thread of its own and knows the others only through the ledger.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from medseg.core.errors import MedsegError
from medseg.services.audit import AuditFile
from medseg.services.health import HealthServer
from medseg.services.ledger import Ledger
from medseg.services.overlays import Overlays
from medseg.services.reception import Reception
from medseg.services.sender import Destination, Sender, start_sender
from medseg.services.workplace import Workplace

_log = logging.getLogger(__name__)

_COPY_SECONDS, _TIDY_SECONDS = 1.0, 60.0


class Intake(Protocol):
    """A way in."""

    def start(self, reception: Reception) -> None: ...

    def stop(self) -> None: ...

    def numbers(self) -> Mapping[str, float]: ...


class Executor(Protocol):
    """Works through a ledger."""

    def run(self, place: Workplace, *, stop: threading.Event, until_empty: bool) -> bool: ...


@dataclass(frozen=True)
class Operation:
    """How a service is watched and tidied.

    Args:
        health_host, health_port: where it tells of itself; port None for nowhere.
        health_names: by which others may ask there, beside addresses and localhost.
        audit: file of the audit trail; None keeps it in the ledger alone.
        keep_days: how long studies that came over the network stay after they are done.
        num_overlays: pictures of the last results on the status page.
    """

    health_host: str = "127.0.0.1"
    health_port: int | None = 8080
    audit: Path | None = None
    keep_days: float = 7.0
    num_overlays: int = 8
    health_names: Sequence[str] = ()


def run_service(
    intake: Intake,
    executor: Executor,
    destination: Destination | None,
    *,
    place: Workplace,
    reception: Reception,
    operation: Operation,
    stop: threading.Event,
    on_ready: Callable[[int | None], None] | None = None,
) -> bool:
    """Serves until it is stopped.

    Args:
        intake: where studies come from.
        executor: segments them.
        destination: where results are sent; None leaves them in the output folder.
        place: what the executor works on.
        reception: what the way in hands studies to.
        operation: how it is watched.
        stop: set to end it: nothing more is taken, what is being done is finished or given back.
        on_ready: called with the port of the health server once everything runs.

    Returns:
        False if a step was not finished in time; the process should end without waiting.
    """
    ledger = place.ledger
    ledger.recover()
    reception.folder.mkdir(parents=True, exist_ok=True)
    reception.adopt()
    overlays = Overlays(place.work / "overlays", count=operation.num_overlays)
    place = replace(place, deliver=destination is not None, on_written=overlays.draw)
    outcome: list[bool | BaseException] = []

    def work() -> None:
        try:
            outcome.append(executor.run(place, stop=stop, until_empty=False))
        except BaseException as error:
            outcome.append(error)
            stop.set()

    worker = threading.Thread(target=work, name="executor", daemon=True)

    def reason_not_ready() -> str:
        if not worker.is_alive():
            return "the executor has ended"
        return "" if reception.has_room() else "the disk or the queue is full"

    health = None
    if operation.health_port is not None:
        health = HealthServer(
            ledger,
            host=operation.health_host,
            port=operation.health_port,
            reason_not_ready=reason_not_ready,
            numbers=intake.numbers,
            overlays=overlays,
            names=operation.health_names,
        )
        health.start()
    try:
        intake.start(reception)  # first, so that it can say what is not to be worked on yet
        worker.start()
        outbox = None
        if destination is not None:
            outbox = start_sender(Sender(ledger, destination), stop)
        tidier = threading.Thread(
            target=_tidy_loop, args=(ledger, reception, operation, stop), daemon=True
        )
        tidier.start()
        if on_ready is not None:
            on_ready(health.port if health else None)
        stop.wait()
    finally:
        stop.set()
        intake.stop()
        if worker.ident is not None:
            worker.join()
        if health is not None:
            health.stop()
    if outbox is not None:
        outbox.join(5.0)
    _copy_events(ledger, operation)
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def tidy(ledger: Ledger, reception: Reception, *, keep_days: float) -> int:
    """Removes studies that came over the network and whose jobs are all done long ago; how many."""
    count = 0
    before = ledger.clock() - keep_days * 86400
    for folder in reception.studies():
        rows = ledger.query(
            "SELECT state, updated_at FROM jobs WHERE json_extract(source, '$.path') = ?",
            (str(folder.absolute()),),
        )
        if rows and all(state == "done" and updated < before for state, updated in rows):
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count


def _tidy_loop(
    ledger: Ledger, reception: Reception, operation: Operation, stop: threading.Event
) -> None:
    left = 0.0
    while not stop.wait(_COPY_SECONDS):
        try:
            _copy_events(ledger, operation)
            left -= _COPY_SECONDS
            if left <= 0:
                tidy(ledger, reception, keep_days=operation.keep_days)
                left = _TIDY_SECONDS
        except (MedsegError, OSError, json.JSONDecodeError) as error:
            _log.warning("tidying up failed (%s)", type(error).__name__)


def _copy_events(ledger: Ledger, operation: Operation) -> None:
    if operation.audit is None:
        return
    file = AuditFile(operation.audit)
    while lines := ledger.events(after=file.count()):
        file.append(lines)
