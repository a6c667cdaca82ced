"""`medseg jobs`: what the ledger knows, letting quarantined jobs be tried again, and whether the
audit trail is whole.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from medseg.cli.console import console
from medseg.cli.serving import open_ledger
from medseg.core.errors import ConfigError, InputError, printable
from medseg.services.audit import check_chain, check_copy
from medseg.services.desk import (
    as_csv,
    as_json,
    as_mapping,
    copy_ledger,
    find_job,
    listed,
    retry,
)
from medseg.services.jobs import STATES, Job
from medseg.services.ledger import Ledger


def run(cfg: DictConfig) -> int:
    """Returns 0."""
    if not Path(cfg.paths.ledger).is_file():
        raise InputError(
            cfg.paths.ledger,
            "there is no such ledger",
            "set paths.ledger to the file that batch or serve was given",
            code="E_NO_FILE",
        )
    ledger = open_ledger(cfg)
    try:
        actions = {
            "list": _list,
            "show": _show,
            "retry": _retry,
            "export": _export,
            "verify": _verify,
        }
        actions[cfg.action](cfg, ledger)
    finally:
        ledger.close()
    return 0


def _list(cfg: DictConfig, ledger: Ledger) -> None:
    jobs = listed(ledger, states=cfg.states or STATES)
    if cfg.format == "json":
        _write(as_json(jobs))
    elif cfg.format == "csv":
        _write(as_csv(jobs), end="")
    else:
        _print_table(jobs)


def _show(cfg: DictConfig, ledger: Ledger) -> None:
    if not cfg.job:
        raise ConfigError("job", "names no job", "set job=<name>")
    job = find_job(ledger, str(cfg.job))
    values = {**as_mapping(job), "place": job.place}
    if cfg.format == "json":
        _write(json.dumps(values, indent=1))
        return
    for name, value in values.items():
        shown = json.dumps(value, indent=1) if isinstance(value, list) else value
        console.print(printable(f"{name:12} {shown}"), soft_wrap=True, markup=False)


def _retry(cfg: DictConfig, ledger: Ledger) -> None:
    if not (cfg.job or cfg.all or cfg.code):
        raise ConfigError("job", "names no job", "set job=<name>, code=<code> or all=true")
    names = None
    if cfg.job:
        chosen = [cfg.job] if isinstance(cfg.job, str) else list(cfg.job)
        names = [find_job(ledger, str(name)).name for name in chosen]
    back = retry(ledger, names, code=str(cfg.code or ""))
    console.print(f"{len(back)} jobs will be tried again", markup=False)
    for name in back:
        console.print(name, markup=False)


def _export(cfg: DictConfig, ledger: Ledger) -> None:
    """The list as CSV and JSON, the audit trail, and a copy of the ledger, in `paths.output`."""
    folder = Path(cfg.paths.output)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = listed(ledger, states=cfg.states or STATES)
    (folder / "jobs.json").write_text(as_json(jobs), encoding="utf-8")
    (folder / "jobs.csv").write_text(as_csv(jobs), encoding="utf-8")
    with (folder / "audit.jsonl").open("w", encoding="utf-8") as file:
        count = 0
        for line in ledger.all_events():
            file.write(f"{line}\n")
            count += 1
    copy = folder / "ledger.sqlite"
    copy.unlink(missing_ok=True)
    copy_ledger(ledger, copy)
    console.print(f"{len(jobs)} jobs and {count} events in {folder}", markup=False)


def _verify(cfg: DictConfig, ledger: Ledger) -> None:
    """The chain of the ledger's events, and that the copy of it in a file is how it begins."""
    count = check_chain(ledger.all_events(), where=ledger.path)
    console.print(f"{count} events in {ledger.path}: none is changed or missing", markup=False)
    own = Path(cfg.paths.ledger).with_suffix(".audit.jsonl")
    copy = Path(cfg.audit) if cfg.audit else own
    if not copy.is_file():
        if cfg.audit:
            raise InputError(copy, "there is no such file", "set audit=<file>", code="E_NO_FILE")
        return
    with copy.open(encoding="utf-8", errors="replace") as file:
        same = check_copy(ledger.all_events(), file, where=copy)
    console.print(f"{same} of them in {copy}, the same", markup=False)


def _print_table(jobs: list[Job]) -> None:
    table = Table("name", "state", "model", "code", "sentence", "source")
    for job in jobs:
        cells = (job.name, job.state, job.model, job.code, job.sentence, job.source.get("path", ""))
        table.add_row(*(printable(str(cell)).replace("[", "\\[") for cell in cells))
    console.print(table)


def _write(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
