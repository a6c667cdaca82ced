"""`medseg batch`: all studies or images below a folder once; what became of each is in a ledger."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from medseg.cli.console import Count, console, counting
from medseg.cli.exit_codes import STOPPED, TERMINATED
from medseg.cli.serving import leave, open_ledger, recipes_of, stopping, work_folder
from medseg.config.build import build
from medseg.core.errors import ConfigError, InputError, printable
from medseg.services.audit import AuditFile
from medseg.services.desk import of_studies
from medseg.services.executors import LocalExecutor
from medseg.services.intake import receive_studies, require_apart
from medseg.services.jobs import Job
from medseg.services.ledger import Ledger
from medseg.services.workplace import Workplace
from medseg.sources.input_folder import existing_folder

_MAX_SHOWN = 20


def run(cfg: DictConfig) -> int:
    """Returns 0 if every study is done, 3 if some were set aside, 130 or 143 if it was stopped."""
    reading = _reading(cfg)
    root = existing_folder(cfg.source.folder)
    recipes = recipes_of(cfg)
    output, work = Path(cfg.paths.output), work_folder(cfg)
    require_apart(root, (output, work, Path(cfg.paths.ledger)))
    executor: LocalExecutor = build(cfg.executor)
    ledger = open_ledger(cfg)
    models = list(recipes.values())
    keys = receive_studies(root, ledger=ledger, models=models, reading=reading)
    if not keys:
        raise InputError("source.folder", f"{root} holds no files", "give a folder of studies")
    place = Workplace(ledger, recipes, output, work, reading=reading)
    began = time.monotonic()
    old = [job for job in of_studies(ledger, keys) if job.state == "done"]
    before = {job.key for job in old}
    is_over, came = _work(executor, place, keys)
    jobs = of_studies(ledger, keys)
    _copy_events(ledger, cfg)
    fresh = sum(job.state == "done" and job.key not in before for job in jobs)
    _report(jobs, output, seconds=time.monotonic() - began, fresh=fresh, before=len(before))
    _tell_of_earlier(old, output)
    if came:
        code = TERMINATED if came[0] == signal.SIGTERM else STOPPED
        if not is_over:
            leave(code)
        return code
    return 3 if any(job.state == "quarantined" for job in jobs) else 0


def _reading(cfg: DictConfig) -> dict[str, Any]:
    """Options of reading; image files that are no DICOM are studies of one file each."""
    if "on_gap" in cfg.source:
        return {"on_gap": cfg.source.on_gap, "trust_positions": cfg.source.trust_positions}
    if not str(cfg.source.get("_target_", "")).endswith(".NiftiFiles"):
        raise ConfigError(
            "source",
            "is none that batch reads",
            "set source=dicom_folder for studies, or source=nifti_files for image files",
        )
    if (cfg.source.num_channels or 1) > 1:
        raise ConfigError(
            "source.num_channels",
            f"is {cfg.source.num_channels}, and batch takes every file for an image by itself",
            "use predict",
        )
    wrong = sorted(set(cfg.output) & {"dicom_seg", "dicom_sr", "rtstruct"})
    if wrong:
        raise ConfigError(
            "output",
            f"names {', '.join(wrong)}, which need DICOM series to refer to",
            "set output=[nifti]",
        )
    return {
        "images": True,
        "allow_unknown_orientation": bool(cfg.source.allow_unknown_orientation),
    }


def _work(executor: LocalExecutor, place: Workplace, keys: list[str]) -> tuple[bool, list[int]]:
    """Runs the executor in a thread of its own while this one shows how far it is."""
    stop = threading.Event()
    outcome: list[bool | BaseException] = []

    def target() -> None:
        try:
            outcome.append(executor.run(place, stop=stop, until_empty=True))
        except BaseException as error:
            outcome.append(error)

    worker = threading.Thread(target=target, name="executor", daemon=True)
    with stopping(stop) as came, counting("segmenting", len(keys)) as count:
        worker.start()
        shown = 0
        while worker.is_alive():
            worker.join(0.5)
            shown = _advance(count, shown, of_studies(place.ledger, keys))
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result, came


def _advance(count: Count, shown: int, jobs: list[Job]) -> int:
    """Brings the bar to the number of jobs that are over; how many that are."""
    count.start(len(jobs))
    over = sum(job.state in ("done", "quarantined") for job in jobs)
    for _ in range(over - shown):
        count()
    return max(over, shown)


def _report(jobs: list[Job], output: Path, *, seconds: float, fresh: int, before: int) -> None:
    states = Counter(job.state for job in jobs)
    table = Table("state", "jobs")
    for state, number in states.items():
        table.add_row(state, str(number))
    console.print(table)
    hourly = f", {fresh / seconds * 3600:.0f} an hour" if fresh and seconds > 0 else ""
    earlier = f"; {before} were done before" if before else ""
    console.print(
        f"{fresh} of {len(jobs)} segmented in {seconds:.1f} s{hourly}{earlier}; "
        f"results in {output}",
        soft_wrap=True,
        markup=False,
    )
    aside = [job for job in jobs if job.state == "quarantined"]
    for job in aside[:_MAX_SHOWN]:
        line = printable(f"set aside: {job.name}: {job.code}: {job.sentence}")
        console.print(line, style="red", soft_wrap=True, markup=False)
    if len(aside) > _MAX_SHOWN:
        console.print(f"and {len(aside) - _MAX_SHOWN} more; see: python -m medseg jobs list")


def _tell_of_earlier(done: list[Job], output: Path) -> None:
    """Where the results are of what was done before, if not in the output folder."""
    paths = [Path(result.path) for job in done for result in job.results]
    gone = sum(not path.exists() for path in paths)
    if gone:
        console.print(
            f"{gone} results of earlier runs are no longer where they were written; to have them "
            "made again, set paths.ledger to a new file",
            soft_wrap=True,
            markup=False,
        )
    elsewhere = Counter(
        path.parent for path in paths if path.exists() and path.parent != output.absolute()
    )
    for folder, count in elsewhere.items():
        console.print(
            f"{count} results of earlier runs are in {folder}", soft_wrap=True, markup=False
        )


def _copy_events(ledger: Ledger, cfg: DictConfig) -> None:
    file = AuditFile(Path(cfg.paths.ledger).with_suffix(".audit.jsonl"))
    while lines := ledger.events(after=file.count()):
        file.append(lines)
