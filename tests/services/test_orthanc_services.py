"""Services between a scanner and a real PACS: Orthanc, in a network namespace of its own.

`benchmarks/hospital.py kills` is the same with 120 studies and 65 kills.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hospital_exchange
import pytest
from orthanc_needed import require_orthanc
from service_cases import tiny_bundle

import medseg

pytestmark = pytest.mark.network

NEEDED = {"Orthanc": "orthanc", "storescu": "dcmtk", "unshare": "util-linux", "ip": "iproute2"}


@pytest.fixture
def exchange(tmp_path):
    """Runs the exchange and gives its report."""
    require_orthanc(NEEDED, plugin=hospital_exchange.PLUGIN)

    def run(**wanted):
        bundle = tiny_bundle(tmp_path / "bundle")
        program = [sys.executable, str(Path(hospital_exchange.__file__)), str(tmp_path / "run")]
        command = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *program]
        done = subprocess.run(
            [*command, str(bundle), json.dumps(wanted)],
            capture_output=True,
            text=True,
            check=False,
            timeout=1500,
            env=_environment(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


def test_nothing_is_lost_or_doubled_while_the_archive_and_a_service_are_killed(exchange):
    report = exchange(num_store=2, num_web=2, pacs_kills=1, medseg_kills=1, within_s=1200)

    assert report["kills"] == {"pacs": 1, "medseg": 1}
    assert sound(report), report
    assert report["exit_codes"] == {"node": 0, "web": 0}


def test_a_real_archive_commits_itself_to_each_result(exchange):
    report = exchange(num_store=1, num_web=0, commitment=True, within_s=1200)

    assert sound(report), report
    assert report["ledgers"]["node"]["series"] == {"done": 1}
    assert report["exit_codes"] == {"node": 0}


def sound(report: dict) -> bool:
    faults = [report[name] for name in ("lost", "duplicated", "torn", "strange")]
    ledgers = report["ledgers"].values()
    return (
        faults == [0, 0, 0, 0]
        and report["leaks"] == []
        # A study may be looked at once more at any time, so that not all jobs need be done.
        and all(set(ledger["series"]) == {"done"} and not ledger["codes"] for ledger in ledgers)
        and all(ledger["integrity"] == "ok" and not ledger["files_torn"] for ledger in ledgers)
    )


def _environment() -> dict[str, str]:
    tests = Path(hospital_exchange.__file__).parent
    paths = [str(Path(medseg.__file__).parents[1]), str(tests)]
    return {**os.environ, "PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1"}
