"""`medseg serve`: studies as they come, from a folder, by C-STORE or from a DICOMweb archive."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from omegaconf import DictConfig

from medseg.cli.serving import leave, open_ledger, recipes_of, stopping, work_folder
from medseg.config.build import build
from medseg.services.reception import Reception
from medseg.services.running import Operation, run_service
from medseg.services.workplace import Workplace

_log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> int:
    """Returns 0 once it was stopped by SIGTERM or Ctrl-C."""
    recipes = recipes_of(cfg)
    ledger = open_ledger(cfg)
    work = work_folder(cfg)
    executor = build(cfg.executor)
    reading = {"on_gap": cfg.on_gap, "trust_positions": cfg.trust_positions}
    place = Workplace(ledger, recipes, Path(cfg.paths.output), work, reading=reading)
    reception = Reception(
        ledger,
        recipes,
        reading,
        work / "incoming",
        disk_reserve_bytes=executor.disk_reserve_gb * 1e9,
        max_open=cfg.max_open,
    )
    audit = Path(cfg.paths.ledger).with_suffix(".audit.jsonl")
    operation = Operation(
        cfg.health_host,
        cfg.health_port,
        audit,
        float(cfg.keep_days),
        cfg.num_overlays,
        list(cfg.health_names),
    )
    intake = build(cfg.service)
    destination = build(cfg.destination)
    stop = threading.Event()
    with stopping(stop):
        is_over = run_service(
            intake,
            executor,
            destination,
            place=place,
            reception=reception,
            operation=operation,
            stop=stop,
            on_ready=_say,
        )
    _log.info("stopped")
    if not is_over:
        leave(0)
    return 0


def _say(port: int | None) -> None:
    _log.info("serving%s", f"; status at http://127.0.0.1:{port}/" if port else "")
