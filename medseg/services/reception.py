"""Where studies arrive: kept on disk before they are acknowledged, and handed to the ledger.

Folders and files are named by hashes of UIDs, so that nothing a sender writes becomes a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError
from medseg.services.intake import StudyFolder, recipes_of, study_job
from medseg.services.jobs import NewJob, job_key
from medseg.services.ledger import Ledger
from medseg.services.local_disk import flush_folder, free_bytes
from medseg.services.models import ModelRecipe

_UNFINISHED = ".receiving"


@dataclass(frozen=True)
class Reception:
    """What services that take studies in have in common.

    Args:
        ledger: that gets the jobs.
        models: that studies are for.
        reading: options of reading.
        folder: of the studies that arrive over a network.
        disk_reserve_bytes: with less room nothing is taken.
        max_open: with more open jobs nothing is taken.
    """

    ledger: Ledger
    models: Mapping[str, ModelRecipe]
    reading: Mapping[str, Any]
    folder: Path
    disk_reserve_bytes: float = 1e9
    max_open: int = 10_000
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _expected: dict[str, float] = field(default_factory=dict, repr=False)

    def open(self) -> None:
        """Makes the folder, and removes what a program that was killed had not finished there."""
        shutil.rmtree(self.folder / _UNFINISHED, ignore_errors=True)
        (self.folder / _UNFINISHED).mkdir(parents=True)

    def has_room(self) -> bool:
        """Whether more may be taken; else a sender is to try again later."""
        return (
            min(free_bytes(self.folder), free_bytes(self.ledger.path.parent))
            >= self.disk_reserve_bytes
            and self.ledger.num_open() < self.max_open
        )

    def keep(self, content: bytes, *, study_uid: str, sop_uid: str) -> bool:
        """Puts an instance on the disk; when this returns, a power cut cannot take it away.

        Returns:
            False if it was there already.

        Raises:
            InputError: E_DUPLICATE, there is another of this UID with other content; the first
                stays.
            OSError: the disk is full or broken; nothing is left.
        """
        target = self.study_folder(study_uid) / f"{_hash(sop_uid)}.dcm"
        with self._lock:
            if not target.parent.is_dir():
                target.parent.mkdir(parents=True)
                flush_folder(self.folder)
        if target.exists():
            return self._same(target, content)
        # Beside the studies, so that no half file is ever taken for one of a study's.
        waiting = self.folder / _UNFINISHED
        waiting.mkdir(parents=True, exist_ok=True)
        unfinished = waiting / secrets.token_hex(8)
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
            flush_folder(target.parent)
        finally:
            unfinished.unlink(missing_ok=True)
        return True

    def _same(self, path: Path, content: bytes) -> bool:
        if _data_set(path.read_bytes()) == _data_set(content):
            return False
        raise InputError(
            path.name,
            "came twice under one SOPInstanceUID with different content",
            "find out which one is right",
            code="E_DUPLICATE",
        )

    def expect(self, study_uid: str, *, quiet_s: float) -> None:
        """Has a study looked at once nothing more has come for a while.

        To be called before and after each instance is kept, so that none can be on the disk
        without the ledger knowing that its study is to be looked at. While the study waits there
        is nothing to write for most instances.
        """
        folder = self.study_folder(study_uid)
        now = time.monotonic()
        with self._lock:
            last = self._expected.get(folder.name)
            if last is not None and now - last < quiet_s / 4:
                return
            for name, since in list(self._expected.items()):
                if now - since > quiet_s:
                    del self._expected[name]
        self.announce(folder, quiet_s=quiet_s)
        with self._lock:
            self._expected[folder.name] = now

    def announce(self, folder: Path, *, quiet_s: float) -> None:
        """Has a folder looked at after a while, also one that has been looked at before: what is
        known of it is not done twice.
        """
        until = self.ledger.clock() + quiet_s
        source = _source(folder, self.folder)
        with self.ledger.transaction() as connection:
            waiting = connection.execute(
                "UPDATE jobs SET not_before = max(not_before, ?) "
                "WHERE state = 'received' AND kind = 'study' AND source = ?",
                (until, json.dumps(source, sort_keys=True)),
            )
            if waiting.rowcount == 0:
                key = job_key("arrival", source["path"], secrets.token_hex(16))
                recipe = recipes_of(self.models, self.reading)[0]
                job = NewJob("study", key, f"study_{key[:12]}", source, recipe=recipe)
                self.ledger.receive(job, not_before=until)

    def announce_orphans(self, *, quiet_s: float) -> int:
        """Announces studies on the disk that the ledger knows nothing of; how many."""
        known = {
            str(json.loads(source)["path"])
            for (source,) in self.ledger.query("SELECT source FROM jobs WHERE kind = 'study'")
        }
        orphans = [folder for folder in self.studies() if str(folder.absolute()) not in known]
        for folder in orphans:
            self.announce(folder, quiet_s=quiet_s)
        return len(orphans)

    def hold_back(self, *, quiet_s: float) -> None:
        """Lets senders that the end of the last run has cut off go on before their studies, of
        which a part is there, are looked at.
        """
        until = self.ledger.clock() + quiet_s
        with self.ledger.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET not_before = max(not_before, ?) WHERE state = 'received' "
                "AND kind = 'study' AND json_extract(source, '$.root') = ?",
                (until, str(self.folder.absolute())),
            )

    def receive(self, study: StudyFolder) -> bool:
        """Adds a study of files that stay where they are; False if it is known."""
        return self.ledger.receive(study_job(study, list(self.models.values()), self.reading))

    def study_folder(self, study_uid: str) -> Path:
        return self.folder / _hash(study_uid)

    def studies(self) -> Iterator[Path]:
        """Folders of the studies that have arrived."""
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    yield path

    def holds(self, sop_uid: str) -> bool:
        """Whether an instance has been kept."""
        name = f"{_hash(sop_uid)}.dcm"
        return any((folder / name).exists() for folder in self.studies())

    def adopt(self) -> int:
        """Has open studies looked at anew that were received for other models; how many."""
        recipes = recipes_of(self.models, self.reading)
        adopted = 0
        with self.ledger.transaction() as connection:
            rows = connection.execute(
                "SELECT id, key, kind, parent, source FROM jobs WHERE state = 'received' "
                f"AND recipe NOT IN ({', '.join('?' * len(recipes))})",
                recipes,
            ).fetchall()
            for number, key, kind, parent, source in rows:
                if kind == "series":
                    (source,) = connection.execute(
                        "SELECT source FROM jobs WHERE id = ?", (parent,)
                    ).fetchone() or (source,)
                place = json.loads(source)
                new = job_key("adopted", place, recipes[0])
                job = NewJob("study", new, f"study_{new[:12]}", place, recipe=recipes[0])
                self.ledger.receive(job)
                connection.execute(
                    "UPDATE jobs SET state = 'done', note = ?, updated_at = ? WHERE id = ?",
                    (
                        f"replaced by {job.name}: the models have changed",
                        self.ledger.clock(),
                        number,
                    ),
                )
                self.ledger.record(connection, key, "replaced", {})
                adopted += 1
        return adopted


def _source(folder: Path, root: Path) -> dict[str, Any]:
    return {"path": str(folder.absolute()), "root": str(root.absolute()), "is_loose": False}


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _data_set(content: bytes) -> bytes:
    """The bytes behind the file meta information, which each receiver writes its own way."""
    if content[128:132] != b"DICM":
        return content
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]
