"""What a second process does with a ledger, where a spawned process can import it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from medseg.services.jobs import LeaseLostError, Result
from medseg.services.ledger import Ledger
from medseg.services.ownership import new_owner

RESULT = Result("out/a.dcm", "ab" * 32, "1.2", "2.25.1", "2.25.2", "2.25.3")


def work_until_empty(path: Path, done: Path) -> None:
    """Takes jobs until none is open; each commit that succeeds leaves a line."""
    ledger = Ledger(path)
    owner = new_owner()
    while ledger.num_open():
        ledger.recover()
        job = ledger.lease(owner, lease_s=0.2)
        if job is None:
            time.sleep(0.01)
            continue
        try:
            ledger.predicted(job)
            time.sleep(0.002)
            ledger.written(job, [RESULT], deliver=False, note="")
        except LeaseLostError:
            continue
        with (done / str(os.getpid())).open("a") as lines:
            lines.write(f"{job.name}\n")
