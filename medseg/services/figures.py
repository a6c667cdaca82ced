"""Figures of a running service, as numbers and in the text format of Prometheus."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

from medseg.services.deliveries import backlog
from medseg.services.jobs import OPEN
from medseg.services.ledger import Ledger
from medseg.services.local_disk import free_bytes

_LAST = 500


def figures(ledger: Ledger) -> dict[str, Any]:
    """What the ledger says of the queue: states, codes, oldest open job, times of the last jobs."""
    states = ", ".join(repr(state) for state in OPEN)
    (oldest,) = ledger.query(f"SELECT min(received_at) FROM jobs WHERE state IN ({states})")[0]
    codes = dict(
        ledger.query("SELECT code, count(*) FROM jobs WHERE state = 'quarantined' GROUP BY code")
    )
    now = ledger.clock()
    seconds, ended = [], []
    for (line,) in ledger.query("SELECT line FROM events ORDER BY id DESC LIMIT ?", (4 * _LAST,)):
        event = json.loads(line)
        if "seconds" in event and event["event"] in ("written", "done"):
            seconds.append(float(event["seconds"]))
            ended.append(float(event["at"]))
    return {
        "states": ledger.counts(),
        "codes": {str(code): int(count) for code, count in codes.items()},
        "deliveries": backlog(ledger),
        "oldest_open_s": 0.0 if oldest is None else max(0.0, now - float(oldest)),
        "seconds_p50": statistics.median(seconds) if seconds else 0.0,
        "seconds_p95": _share(sorted(seconds), 0.95),
        "last_hour": sum(time > now - 3600 for time in ended),
        "disk_free_bytes": free_bytes(ledger.path.parent),
    }


def prometheus(values: Mapping[str, Any], service: Mapping[str, float]) -> str:
    """The figures as text for Prometheus (exposition format 0.0.4).

    Args:
        values: from `figures`.
        service: numbers of the way in, by name.
    """
    lines: list[str] = []

    def add(name: str, kind: str, about: str, samples: Mapping[str, float]) -> None:
        lines.append(f"# HELP medseg_{name} {about}")
        lines.append(f"# TYPE medseg_{name} {kind}")
        lines.extend(f"medseg_{name}{label} {value:g}" for label, value in samples.items())

    def labelled(name: str, counts: Mapping[str, float]) -> dict[str, float]:
        return {f'{{{name}="{_plain(key)}"}}': value for key, value in counts.items()}

    add("jobs", "gauge", "Jobs in each state.", labelled("state", values["states"]))
    add("quarantined", "gauge", "Jobs set aside, by code.", labelled("code", values["codes"]))
    add("deliveries", "gauge", "Results by delivery.", labelled("state", values["deliveries"]))
    add(
        "oldest_open_seconds",
        "gauge",
        "Age of the oldest job that is neither done nor set aside.",
        {"": values["oldest_open_s"]},
    )
    add(
        "job_seconds",
        "gauge",
        "Time from reading to writing of the last jobs.",
        {'{quantile="0.5"}': values["seconds_p50"], '{quantile="0.95"}': values["seconds_p95"]},
    )
    add("disk_free_bytes", "gauge", "Room on the ledger's disk.", {"": values["disk_free_bytes"]})
    for name, value in sorted(service.items()):
        add(f"intake_{_plain(name)}", "gauge", "A figure of the way in.", {"": value})
    return "\n".join(lines) + "\n"


def _share(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in text)
