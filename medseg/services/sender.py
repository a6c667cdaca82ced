"""Sends what the outbox holds, one result after the other, and asks whether it has arrived."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from medseg.core.errors import MedsegError
from medseg.services.deliveries import (
    Delivery,
    make_again,
    mark_confirmed,
    mark_later,
    mark_refused,
    mark_sent,
    pause_s,
    take,
)
from medseg.services.jobs import LedgerError, Result
from medseg.services.ledger import Ledger
from medseg.services.ownership import has_ended, new_owner
from medseg.services.publish import is_intact

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.2
_CHECKS_BEFORE_SENDING_AGAIN = 4
_FAILURES_THAT_OPEN = 3


class UnavailableError(MedsegError):
    """The destination cannot be reached or is too busy; it is tried again."""

    default_code = "E_DESTINATION"


class RefusedError(MedsegError):
    """The destination will not take the result, however often it is sent."""

    default_code = "E_REFUSED"


class Destination(Protocol):
    """Where results go."""

    def send(self, result: Result) -> None:
        """Hands a result over; one that is there already is no error.

        Raises:
            UnavailableError: not now.
            RefusedError: never.
        """
        ...

    def holds(self, result: Result) -> bool:
        """Whether the destination has the result, asked by another way than `send`.

        Raises:
            UnavailableError: it cannot be asked now.
        """
        ...


class Sender:
    """A thread that empties the outbox of a ledger.

    After several failures in a row the destination is left alone for a while, and then tried with
    one result before the others follow.

    Args:
        ledger: that holds the outbox.
        destination: where results go.
        lease_s: longest time that sending one result may take.
        check_after_s: pause before asking for a result that was sent.
    """

    def __init__(
        self,
        ledger: Ledger,
        destination: Destination,
        *,
        lease_s: float = 600.0,
        check_after_s: float = 0.5,
    ) -> None:
        self.ledger = ledger
        self.destination = destination
        self.lease_s = lease_s
        self.check_after_s = check_after_s
        self.owner = new_owner()
        self.failures = 0
        self._closed_until = 0.0

    def run(self, stop: threading.Event) -> None:
        """Sends until it is stopped."""
        _release_ended(self.ledger)
        while not stop.is_set():
            try:
                if time.monotonic() < self._closed_until or not self.step():
                    stop.wait(_IDLE_SECONDS)
            except LedgerError as error:
                _log.warning("the outbox cannot be used (%s); waiting", error.code)
                stop.wait(1.0)

    def step(self) -> bool:
        """Sends or asks for one result; False if none is due."""
        delivery = take(self.ledger, self.owner, lease_s=self.lease_s)
        if delivery is None:
            return False
        try:
            (self._check if delivery.is_sent else self._send)(delivery)
            self.failures = 0
        except UnavailableError as error:
            self._failed(delivery, error)
        except RefusedError as error:
            _log.warning("a result was refused: %s", error.code)
            mark_refused(self.ledger, delivery, code=error.code, sentence=error.what)
        except LedgerError:
            raise
        except Exception as error:  # its text may hold what the archive says of a patient
            _log.debug("sending failed", exc_info=error)
            kind = type(error).__name__
            self._failed(delivery, UnavailableError("destination", f"failed ({kind})"))
        return True

    def _send(self, delivery: Delivery) -> None:
        if not is_intact(delivery.result):
            _log.warning("a result was changed or removed before it was sent; it is made again")
            make_again(self.ledger, delivery)
            return
        self.destination.send(delivery.result)
        mark_sent(self.ledger, delivery, check_after_s=self.check_after_s)

    def _check(self, delivery: Delivery) -> None:
        if self.destination.holds(delivery.result):
            mark_confirmed(self.ledger, delivery)
        else:
            is_missing = delivery.attempts + 1 >= _CHECKS_BEFORE_SENDING_AGAIN
            mark_later(self.ledger, delivery, reason="E_NOT_FOUND_THERE", is_missing=is_missing)

    def _failed(self, delivery: Delivery, error: MedsegError) -> None:
        self.failures += 1
        mark_later(self.ledger, delivery, reason=error.code)
        if self.failures >= _FAILURES_THAT_OPEN:
            pause = min(30.0, pause_s(self.failures - _FAILURES_THAT_OPEN))
            self._closed_until = time.monotonic() + pause
            _log.warning("the destination cannot be reached (%s); next try in %.0f s", error, pause)


def _release_ended(ledger: Ledger) -> None:
    """Lets results be sent that a sender held whose process has ended."""
    rows = ledger.query("SELECT id, owner, token FROM deliveries WHERE lease_until > 0")
    for number, owner, token in rows:
        if has_ended(owner):
            with ledger.transaction() as connection:
                connection.execute(
                    "UPDATE deliveries SET lease_until = 0, token = token + 1 "
                    "WHERE id = ? AND token = ?",
                    (number, token),
                )


def start_sender(sender: Sender, stop: threading.Event) -> threading.Thread:
    """The running thread of a sender."""
    run: Callable[[threading.Event], None] = sender.run
    thread = threading.Thread(target=run, args=(stop,), name="sender", daemon=True)
    thread.start()
    return thread
