"""Measures batch and services: speed, bad studies among good ones, kills, and many associations.

    PYTHONPATH=.:tests python benchmarks/hospital.py throughput
    PYTHONPATH=.:tests python benchmarks/hospital.py bad
    PYTHONPATH=.:tests python benchmarks/hospital.py associations
    PYTHONPATH=.:tests unshare -n sh -c 'ip link set lo up && python benchmarks/hospital.py kills'

The last needs Orthanc, dcmtk and root; docs/benchmarks.md has the results.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pydicom
from dicom.test_invalid_kinds import REFUSED
from hospital_exchange import Wanted, run
from pynetdicom import AE
from service_cases import ct_study, recipe, tiny_bundle

from medseg.services.desk import listed
from medseg.services.dicom_node import DicomNode
from medseg.services.dimse import pynetdicom
from medseg.services.ledger import Ledger
from medseg.services.reception import Reception

CT = "1.2.840.10008.5.1.4.1.1.2"


def throughput(folder: Path, *, num_studies: int = 30, num_alone: int = 3) -> None:
    """Studies by one batch, and some of them by one `predict` each."""
    bundle = tiny_bundle(folder / "bundle")
    for number in range(num_studies):
        ct_study(folder / "in" / f"study_{number:02d}", number)
    common = [f"bundle={bundle}", "output=[dicom_seg]"]
    batch = ["executor.disk_reserve_gb=0", "device=cpu", f"paths.ledger={folder / 'l.sqlite'}"]
    ways = {
        "batch": [
            ["batch", *common, *batch, f"source.folder={folder / 'in'}", f"paths.output={folder}/b"]
        ],
        "predict, one at a time": [
            ["predict", *common, f"source.folder={study}", f"paths.output={folder}/p/{study.name}"]
            for study in sorted((folder / "in").iterdir())[:num_alone]
        ],
    }
    for name, commands in ways.items():
        began, used = time.monotonic(), os.times()
        for command in commands:
            subprocess.run(
                [sys.executable, "-m", "medseg", *command], capture_output=True, check=True
            )
        seconds, after = time.monotonic() - began, os.times()
        cpu = after.children_user + after.children_system
        cpu -= used.children_user + used.children_system
        count = num_studies if name == "batch" else num_alone
        print(
            f"{name}: {count} studies in {seconds:.1f} s ({3600 * count / seconds:.0f} an hour), "
            f"{cpu:.1f} s of processor time ({3600 * count / cpu:.0f} an hour of it)"
        )


def bad(folder: Path) -> None:
    """60 good studies alone, then 60 good and 80 bad ones in one folder."""
    bundle = tiny_bundle(folder / "bundle")
    kinds = dict(sorted(REFUSED.items())[:80])
    for name, others in (("good", {}), ("mixed", kinds)):
        root = folder / name
        for number in range(60):
            ct_study(root / f"good_{number:02d}", number)
        for kind, (_, build) in others.items():
            (root / f"bad_{kind}").mkdir()
            build(root / f"bad_{kind}")
        command = [
            sys.executable, "-m", "medseg", "batch", f"bundle={bundle}", f"source.folder={root}",
            f"paths.output={folder / name}_out", f"paths.ledger={folder / name}.sqlite",
            "executor.disk_reserve_gb=0", "device=cpu",
        ]  # fmt: skip
        began, used = time.monotonic(), os.times()
        done = subprocess.run(command, capture_output=True, check=False)
        seconds, after = time.monotonic() - began, os.times()
        cpu = after.children_user + after.children_system
        cpu -= used.children_user + used.children_system
        jobs = listed(Ledger(folder / f"{name}.sqlite"))
        results = len(list((folder / f"{name}_out").glob("*.dcm")))
        wrong = []
        aside = Counter()
        for job in jobs:
            study = Path(job.source["path"]).name
            aside[study] += job.state == "quarantined"
            if study.startswith("bad_") and job.code != kinds[study.removeprefix("bad_")][0]:
                wrong.append((study, job.state, job.code))
        print(
            f"{name}: exit code {done.returncode}, {results} results, "
            f"{sum(aside.values())} set aside in {sum(map(bool, aside.values()))} studies, "
            f"{seconds:.1f} s, {cpu:.1f} s of processor time; other codes than expected: {wrong}"
        )


def associations(folder: Path) -> None:
    """500 associations by 8 senders at once, beside 30 idle connections and wrong AE titles."""
    bundle = tiny_bundle(folder / "bundle")
    paths = ct_study(folder / "study", 0)
    images = [pydicom.dcmread(path) for path in paths]
    pynetdicom()
    reception = Reception(
        Ledger(folder / "ledger.sqlite"), {"m": recipe(bundle)}, {}, folder / "in",
        disk_reserve_bytes=0,
    )  # fmt: skip
    node = DicomNode(port=0, quiet_s=3600, speak_within_s=5)
    node.start(reception)
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def send(number: int) -> str:
        entity = AE(ae_title=f"CT{number % 8}")
        entity.add_requested_context(CT)
        called = "WRONG" if number % 25 == 24 else "MEDSEG"
        association = entity.associate("127.0.0.1", node.port, ae_title=called)
        if not association.is_established:
            return f"{called}: rejected" if association.is_rejected else f"{called}: failed"
        status = association.send_c_store(images[number % len(images)]).Status
        association.release()
        return f"{called}: {status:04X}"

    def sender(numbers: range) -> None:
        for number in numbers:
            outcome = send(number)
            with lock:
                counts[outcome] += 1

    for number in range(40):  # what a process takes once
        send(number)
    own = psutil.Process()
    before, began = own.memory_info().rss, time.monotonic()
    idle = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(30)]
    threads = [threading.Thread(target=sender, args=(range(n, 520, 8),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, after = time.monotonic() - began, own.memory_info().rss
    for connection in idle:
        connection.close()
    node.stop()
    print(
        f"{dict(counts)}, {seconds:.1f} s, memory grew by {(after - before) / 1e6:.1f} MB "
        "(senders in the same process), turned away: "
        f"{ {k: v for k, v in node.numbers().items() if k.startswith('refused')} }"
    )


def kills(folder: Path) -> None:
    """60 studies by C-STORE and 60 by DICOMweb while archive and services are killed."""
    wanted = Wanted(
        num_store=60, num_web=60, pacs_kills=15, medseg_kills=50, within_s=3600, pause_s=21
    )
    print(json.dumps(run(folder / "run", tiny_bundle(folder / "bundle"), wanted), indent=1))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        {"throughput": throughput, "bad": bad, "associations": associations, "kills": kills}[
            sys.argv[1]
        ](Path(name))
