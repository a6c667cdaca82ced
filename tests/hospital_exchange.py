"""A small hospital on loopback: an Orthanc as the PACS, scanners that send, and medseg in between.

Run in a network namespace that has nothing but loopback, as
`python hospital_exchange.py FOLDER BUNDLE JSON`, JSON being values of `Wanted`. Some studies are
sent to medseg by C-STORE (storescu), others lie in the PACS and are fetched by DICOMweb; all
results go back to the PACS. On the way the PACS and the medseg services may be killed with SIGKILL
at random. Prints what was found in the PACS as JSON.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from orthanc_needed import find_program
from service_cases import CANARY, ct_study

import medseg
from medseg.services.ledger import Ledger
from medseg.services.publish import is_intact

HTTP, DIMSE, NODE, COMMITTED = 8042, 4242, 11112, 11113
BASE = f"http://127.0.0.1:{HTTP}"
_COMMITMENT = ["destination.check=commitment", f"destination.commitment_port={COMMITTED}"]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class Wanted:
    """How much is sent and how often what is killed."""

    num_store: int = 2
    num_web: int = 2
    pacs_kills: int = 0
    medseg_kills: int = 0
    seed: int = 1
    within_s: float = 600.0
    pause_s: float = 3.0
    """Mean time between two kills."""
    quiet_s: float = 10.0
    """After which the node takes a study for complete. On a busy machine two instances may come
    seconds apart, and a part of a study that is segmented gives a second result."""
    executor: Sequence[str] = ()
    """Further options of medseg."""
    commitment: bool = False
    """The node asks the PACS for storage commitment."""


@dataclass
class Hospital:
    folder: Path
    bundle: Path
    wanted: Wanted
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            self._command(name),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(Path(medseg.__file__).parents[1])},
        )

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def stop(self, name: str, *, within_s: float = 180.0) -> int:
        process = self.processes[name]
        process.terminate()
        try:
            return process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -9

    def _command(self, name: str) -> list[str]:
        if name == "pacs":
            program = find_program("Orthanc")
            return [str(program), str(self._pacs_settings())]
        ways = {
            "node": [
                "service=dicom_node",
                f"service.port={NODE}",
                f"service.quiet_s={self.wanted.quiet_s}",
                "destination=dicom",
                "destination.ae_title=ORTHANC",
                "destination.host=127.0.0.1",
                f"destination.port={DIMSE}",
                "health_port=8081",
                *(_COMMITMENT if self.wanted.commitment else []),
            ],
            "web": [
                "service=dicomweb",
                f"service.url={BASE}/dicom-web",
                "service.quiet_s=1",
                "service.interval_s=1",
                "destination=dicomweb",
                f"destination.url={BASE}/dicom-web",
                "health_port=8082",
            ],
        }
        return [
            sys.executable, "-m", "medseg", "serve", *ways[name],
            f"bundle={self.bundle}",
            f"paths.output={self.folder / name / 'out'}",
            f"paths.ledger={self.folder / name / 'ledger.sqlite'}",
            "executor.disk_reserve_gb=0",
            "device=cpu",
            *self.wanted.executor,
        ]  # fmt: skip

    def _pacs_settings(self) -> Path:
        path = self.folder / "orthanc.json"
        settings = {
            "StorageDirectory": str(self.folder / "pacs"),
            "IndexDirectory": str(self.folder / "pacs"),
            "HttpPort": HTTP,
            "DicomPort": DIMSE,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "DicomModalities": {
                "medseg": {"AET": "MEDSEG", "Host": "127.0.0.1", "Port": COMMITTED}
            },
            "SyncStorageArea": True,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        path.write_text(json.dumps(settings))
        return path


def run(folder: Path, bundle: Path, wanted: Wanted) -> dict[str, Any]:
    """Sends, kills and waits; what the PACS holds in the end."""
    hospital = Hospital(folder, bundle, wanted)
    for name in ("node", "web"):
        (folder / name).mkdir(parents=True)
    studies = [ct_study(folder / "studies" / f"{n}", n) for n in range(_count(wanted))]
    names = ["pacs", *(["node"] if wanted.num_store else []), *(["web"] if wanted.num_web else [])]
    began = time.monotonic()
    for name in names:
        hospital.start(name)
    try:
        answer(f"{BASE}/system")
        for paths in studies[wanted.num_store :]:
            for path in paths:
                answer(f"{BASE}/instances", body=path.read_bytes())
        sender = threading.Thread(target=_scan, args=(studies[: wanted.num_store],), daemon=True)
        sender.start()
        kills = _kill_at_random(hospital, names, studies)
        expected = {study_of(paths[0]): paths for paths in studies}
        until = began + wanted.within_s
        while time.monotonic() < until and (
            sender.is_alive() or _open_jobs(folder) or set(results_in_pacs()) < set(expected)
        ):
            time.sleep(1.0)
        seconds = time.monotonic() - began
        found = results_in_pacs()
        report = {
            "wanted": len(studies),
            "lost": sum(study not in found for study in expected),
            "duplicated": sum(len(uids) > 1 for uids in found.values()),
            "torn": sum(not _is_whole(uid) for uids in found.values() for uid in uids),
            "strange": sum(study not in expected for study in found),
            "kills": kills,
            "seconds": round(seconds, 1),
            "ledgers": {name: _ledger(folder / name) for name in names if name != "pacs"},
            "leaks": _leaks(folder),
            "exit_codes": {name: hospital.stop(name) for name in names if name != "pacs"},
        }
    finally:
        for name in names:
            hospital.stop(name, within_s=5)
    return report


def _count(wanted: Wanted) -> int:
    return wanted.num_store + wanted.num_web


def _scan(studies: Sequence[Sequence[Path]]) -> None:
    """Sends each study until every instance was taken, as a scanner does."""
    for paths in studies:
        program = str(find_program("storescu"))
        command = [program, "-to", "10", "-aet", "CT1", "-aec", "MEDSEG", "127.0.0.1", str(NODE)]
        while subprocess.run(
            [*command, *map(str, paths)], capture_output=True, check=False
        ).returncode:
            time.sleep(1.0)


def _kill_at_random(
    hospital: Hospital, names: list[str], studies: Sequence[Sequence[Path]]
) -> dict[str, int]:
    """Kills from the first job on, as often as wanted; how often it did."""
    wanted, choice = hospital.wanted, random.Random(hospital.wanted.seed)
    victims = ["pacs"] * wanted.pacs_kills + ["medseg"] * wanted.medseg_kills
    choice.shuffle(victims)
    counts = {"pacs": 0, "medseg": 0}
    until = time.monotonic() + wanted.within_s
    while victims and not _open_jobs(hospital.folder) and time.monotonic() < until:
        time.sleep(0.5)
    for victim in victims:
        time.sleep(choice.uniform(0, 2 * wanted.pause_s))
        if time.monotonic() > until:
            break
        name = "pacs" if victim == "pacs" else choice.choice(names[1:])
        hospital.kill(name)
        counts[victim] += 1
        hospital.start(name)
    return counts


def _open_jobs(folder: Path) -> int:
    paths = [folder / name / "ledger.sqlite" for name in ("node", "web")]
    total = 0
    for path in paths:
        if path.exists():
            ledger = Ledger(path)
            total += ledger.num_open()
            ledger.close()
    return total


def _ledger(folder: Path) -> dict[str, Any]:
    ledger = Ledger(folder / "ledger.sqlite")
    try:
        return {
            "series": dict(
                ledger.query(
                    "SELECT state, count(*) FROM jobs WHERE kind = 'series' GROUP BY state"
                )
            ),
            "codes": dict(
                ledger.query("SELECT code, count(*) FROM jobs WHERE code <> '' GROUP BY 1")
            ),
            "attempts": ledger.query("SELECT sum(attempts), max(attempts) FROM jobs")[0],
            "interruptions": ledger.query("SELECT sum(interruptions) FROM jobs")[0][0],
            "integrity": ledger.query("PRAGMA integrity_check")[0][0],
            "files_torn": sum(
                not is_intact(result) for job in ledger.jobs() for result in job.results
            ),
        }
    finally:
        ledger.close()


def _leaks(folder: Path) -> list[str]:
    """Files of medseg's own in which a patient's name turns up; images and results hold it."""
    found = []
    for name in ("node", "web"):
        for path in [folder / f"{name}.log", *(folder / name).rglob("*")]:
            if CANARY in path.name:
                found.append(str(path))
            if path.is_file() and path.suffix != ".dcm" and CANARY.encode() in path.read_bytes():
                found.append(str(path))
    return found


def results_in_pacs() -> dict[str, list[str]]:
    """Orthanc's names of the segmentations in each study."""
    found: dict[str, list[str]] = {}
    query = {"Level": "Instance", "Query": {"Modality": "SEG"}, "Expand": True}
    try:
        items = json.loads(answer(f"{BASE}/tools/find", body=json.dumps(query).encode(), tries=3))
    except OSError:
        return found
    for item in items:
        tags = json.loads(answer(f"{BASE}/instances/{item['ID']}/simplified-tags"))
        found.setdefault(tags["StudyInstanceUID"], []).append(item["ID"])
    return found


def _is_whole(instance: str) -> bool:
    """Whether a segmentation in the PACS can be read to its last frame."""
    content = answer(f"{BASE}/instances/{instance}/file")
    found = pydicom.dcmread(io.BytesIO(content))
    return bool(found.pixel_array.shape[0] == int(found.NumberOfFrames))


def study_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def answer(url: str, *, body: bytes | None = None, tries: int = 240) -> bytes:
    """The server's answer, asked for again while it is away."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for number in range(tries):
        try:
            with opener.open(urllib.request.Request(url, data=body), timeout=30) as response:
                content: bytes = response.read()
                return content
        except OSError:
            if number == tries - 1:
                raise
            time.sleep(1.0)
    raise AssertionError("unreachable")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    options = Wanted(**json.loads(sys.argv[3]))
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), options), indent=1))
