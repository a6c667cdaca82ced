"""A service on studies whose patients have telling names: they turn up in nothing that it tells."""

from __future__ import annotations

import logging
import threading
import time
import urllib.request

from command_line import medseg_main
from service_cases import CANARY, Threshold, ct_study, recipe, tiny_bundle

from medseg.services.executors import LocalExecutor
from medseg.services.ledger import Ledger
from medseg.services.reception import Reception
from medseg.services.running import Operation, run_service
from medseg.services.watch_folder import WatchFolder
from medseg.services.workplace import Workplace


class Talkative(Threshold):
    """Fails on one study with a text that names its patient."""

    def predict(self, case):
        if case.key == "study_2":
            raise ValueError(f"cannot segment {CANARY}^NAME002")
        return super().predict(case)


def get(port: int, path: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return str(answer.read(), "utf-8", "replace")


def test_no_patient_is_named_by_anything_that_a_service_tells(tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    model = recipe(tiny_bundle(tmp_path / "bundle"))
    inbox, state, out = tmp_path / "in", tmp_path / "state", tmp_path / "out"
    for number in range(4):
        ct_study(inbox / f"study_{number}", number)
    sorted((inbox / "study_1").rglob("*.dcm"))[4].unlink()
    first = sorted((inbox / "study_3").rglob("*.dcm"))[0]
    first.write_bytes(first.read_bytes()[:700])  # ends within its header
    ledger = Ledger(state / "ledger.sqlite")
    place = Workplace(
        ledger, {"model": model}, out, state / "work",
        build_predictor=lambda made, options: Talkative(),
    )  # fmt: skip
    reception = Reception(ledger, {"model": model}, {}, state / "incoming", disk_reserve_bytes=0)
    stop, ready = threading.Event(), threading.Event()
    ports: list[int] = []

    def on_ready(port):
        ports.append(port)
        ready.set()

    service = threading.Thread(
        target=run_service,
        args=(
            WatchFolder(str(inbox), interval_s=0.2, quiet_s=0.0),
            LocalExecutor(disk_reserve_gb=0),
            None,
        ),
        kwargs={
            "place": place,
            "reception": reception,
            "operation": Operation(health_port=0, audit=state / "audit.jsonl"),
            "stop": stop,
            "on_ready": on_ready,
        },
    )
    service.start()
    names: set[str] = set()
    told: list[str] = []
    try:
        assert ready.wait(120)
        until = time.monotonic() + 240
        while sum(ledger.counts()[s] for s in ("done", "quarantined")) < 4 or ledger.num_open():
            assert time.monotonic() < until
            names |= {path.name for folder in (state, out) for path in folder.rglob("*")}
            time.sleep(0.02)
        told += [get(ports[0], path) for path in ("/", "/metrics", "/healthz", "/readyz")]
    finally:
        stop.set()
        service.join(120)
    ledger.close()
    where = f"paths.ledger={state / 'ledger.sqlite'}"
    assert medseg_main(["jobs", "list", where]) == 0
    assert medseg_main(["jobs", "show", "study_2", where]) == 0
    assert medseg_main(["jobs", "export", where, f"paths.output={state / 'export'}"]) == 0
    said = capsys.readouterr()

    again = Ledger(state / "ledger.sqlite")
    codes = sorted(job.code for job in again.jobs(states=("quarantined",)))
    again.close()
    assert codes == ["E_HEADER", "E_PREDICTION", "E_SLICE_GAP"]
    assert [path.name for path in out.glob("*.dcm")] == ["study_0.dcm"]
    assert "E_SLICE_GAP" in told[1]  # so that there was something to tell
    assert "E_PREDICTION" in said.out
    names |= {path.name for folder in (state, out) for path in folder.rglob("*")}
    assert CANARY not in "".join([*names, *told, said.out, said.err])
    # Debugging adds the errors of libraries with their texts, and is off unless it is asked for.
    lines = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert any("set aside" in record.getMessage() for record in lines)
    assert all(CANARY not in record.getMessage() for record in lines)
    for path in [path for path in state.rglob("*") if path.is_file()]:
        assert CANARY.encode() not in path.read_bytes(), path.name
