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
from contextlib import suppress
from functools import cache
from pathlib import Path
from subprocess import DEVNULL

import psutil
import pydicom
from dicom.test_invalid_kinds import REFUSED
from hospital_exchange import Wanted, run
from learning_cases import block
from pynetdicom import AE
from service_cases import ct_study, recipe, tiny_bundle

from medseg.bundle import ModelBundle
from medseg.core.identity import Case
from medseg.inference.predictor import NetworkPredictor
from medseg.services.desk import listed
from medseg.services.dicom_node import DicomNode
from medseg.services.dimse import pynetdicom
from medseg.services.ledger import Ledger
from medseg.services.reception import Reception

CT = "1.2.840.10008.5.1.4.1.1.2"


def throughput(folder: Path, *, num_studies: int = 30, num_alone: int = 2) -> None:
    """Studies by one batch, here and in two workers of Ray, some by one `predict` each, and what
    the network alone takes; for a network that is quick and one that is not.
    """
    for number in range(num_studies):
        ct_study(folder / "in" / f"study_{number:02d}", number)
    for channels in (4, 128):
        bundle = tiny_bundle(folder / f"bundle_{channels}", base_channels=channels)
        print(f"{channels} channels:")
        began, used = time.monotonic(), time.process_time()
        for number in range(num_studies):
            network(bundle).predict(Case(f"{number}", lambda n=number: block(n, modality="CT")[0]))
        _tell("network alone", num_studies, time.monotonic() - began, time.process_time() - used)
        common = [f"bundle={bundle}", "output=[dicom_seg]"]
        for executor in ("local", "ray"):
            out = folder / f"{executor}_{channels}"
            _commands(f"batch, executor={executor}", num_studies, [
                ["batch", *common, f"executor={executor}", f"source.folder={folder / 'in'}",
                 f"paths.output={out}", f"paths.ledger={out}.sqlite", "executor.disk_reserve_gb=0",
                 "device=cpu"]
            ])  # fmt: skip
        _commands("predict, one at a time", num_alone, [
            ["predict", *common, f"source.folder={study}", f"paths.output={folder}/p/{study.name}"]
            for study in sorted((folder / "in").iterdir())[:num_alone]
        ])  # fmt: skip


@cache
def network(bundle: Path) -> NetworkPredictor:
    return NetworkPredictor(ModelBundle.load(bundle), device="cpu")


def _commands(name: str, count: int, commands: list[list[str]]) -> None:
    """Runs one after the other; the time of all their processes is looked at twice a second."""
    began, cpu = time.monotonic(), {}
    for command in commands:
        running = psutil.Popen(
            [sys.executable, "-m", "medseg", *command], stdout=DEVNULL, stderr=DEVNULL
        )
        while running.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for one in (running, *running.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        cpu[one.pid] = sum(one.cpu_times()[:2])
            time.sleep(0.5)
        assert running.returncode == 0, (command, running.returncode)
    _tell(name, count, time.monotonic() - began, sum(cpu.values()))


def _tell(name: str, count: int, seconds: float, cpu: float) -> None:
    print(
        f"{name}: {count} studies in {seconds:.1f} s ({3600 * count / seconds:.0f} an hour), "
        f"{cpu:.1f} s of processor time ({3600 * count / cpu:.0f} an hour of it)", flush=True,
    )  # fmt: skip


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


def associations(folder: Path, *, num_rounds: int = 3) -> None:
    """500 associations by 8 senders at once, beside 30 idle connections and wrong AE titles; again
    and again, the senders in a process of their own.
    """
    bundle = tiny_bundle(folder / "bundle")
    study = folder / "study"
    ct_study(study, 0)
    pynetdicom()
    reception = Reception(
        Ledger(folder / "ledger.sqlite"), {"m": recipe(bundle)}, {}, folder / "in",
        disk_reserve_bytes=0,
    )  # fmt: skip
    node = DicomNode(port=0, quiet_s=3600, speak_within_s=5)
    node.start(reception)
    own = psutil.Process()
    command = [sys.executable, __file__, "senders", str(node.port), str(study)]
    subprocess.run([*command, "40"], capture_output=True, check=True)  # what is taken once
    for _ in range(num_rounds):
        before, used, began = own.memory_info().rss, own.cpu_times(), time.monotonic()
        idle = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(30)]
        done = subprocess.run([*command, "520"], capture_output=True, check=True, text=True)
        seconds, cpu = time.monotonic() - began, own.cpu_times()
        for connection in idle:
            connection.close()
        print(
            f"{done.stdout.strip()}, {seconds:.1f} s, the node: "
            f"{cpu.user + cpu.system - used.user - used.system:.1f} s of processor time, memory "
            f"grew by {(own.memory_info().rss - before) / 1e6:.1f} MB; turned away so far: "
            f"{ {k: v for k, v in node.numbers().items() if k.startswith('refused')} }"
        )
    node.stop()


def senders(port: int, study: Path, count: int) -> None:
    """So many associations by 8 senders at once, one of 25 to a wrong AE title."""
    images = [pydicom.dcmread(path) for path in sorted(study.iterdir())]
    counts: Counter[str] = Counter()
    longest, lock = 0.0, threading.Lock()

    def send(number: int) -> str:
        entity = AE(ae_title=f"CT{number % 8}")
        entity.add_requested_context(CT)
        called = "WRONG" if number % 25 == 24 else "MEDSEG"
        association = entity.associate("127.0.0.1", port, ae_title=called)
        if not association.is_established:
            return f"{called}: rejected" if association.is_rejected else f"{called}: failed"
        status = association.send_c_store(images[number % len(images)])
        association.release()
        return f"{called}: {status.Status:04X}" if "Status" in status else f"{called}: broken off"

    def sender(numbers: range) -> None:
        nonlocal longest
        for number in numbers:
            began = time.monotonic()
            outcome = send(number)
            with lock:
                counts[outcome] += 1
                longest = max(longest, time.monotonic() - began)

    threads = [threading.Thread(target=sender, args=(range(n, count, 8),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{dict(counts)}, the longest took {longest:.1f} s")


def kills(folder: Path) -> None:
    """60 studies by C-STORE and 60 by DICOMweb while archive and services are killed."""
    wanted = Wanted(
        num_store=60, num_web=60, pacs_kills=15, medseg_kills=50, within_s=5400, pause_s=28
    )
    print(json.dumps(run(folder / "run", tiny_bundle(folder / "bundle"), wanted), indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "senders":  # started by associations
        senders(int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        sys.exit()
    with tempfile.TemporaryDirectory() as name:
        {"throughput": throughput, "bad": bad, "associations": associations, "kills": kills}[
            sys.argv[1]
        ](Path(name))
