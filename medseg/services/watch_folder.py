"""A folder as the inbox: a study is received once it has stopped growing; its files stay there."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from medseg.core.errors import InputError, MedsegError
from medseg.services.intake import find_studies
from medseg.services.ranges import require_above_zero, require_not_negative
from medseg.services.reception import Reception

_log = logging.getLogger(__name__)


class WatchFolder:
    """Looks into a folder again and again.

    Args:
        folder: whose folders and archives are one study each; links are not followed.
        interval_s: between two looks.
        quiet_s: a study whose files have not changed for so long is complete.
    """

    def __init__(self, folder: str, *, interval_s: float = 5.0, quiet_s: float = 30.0) -> None:
        require_above_zero("service", interval_s=interval_s)
        require_not_negative("service", quiet_s=quiet_s)
        self.folder = Path(folder)
        self.interval_s = interval_s
        self.quiet_s = quiet_s
        self.received = 0
        self._seen: dict[Path, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, reception: Reception) -> None:
        """Watches from now on.

        Raises:
            InputError: there is no such folder.
        """
        if not self.folder.is_dir():
            raise InputError(
                self.folder, "is no folder", "set service.folder=<folder>", code="E_NO_FOLDER"
            )
        self._thread = threading.Thread(target=self._watch, args=(reception,), daemon=True)
        self._thread.start()
        _log.info("watching the inbox")

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self.interval_s + 5)

    def numbers(self) -> dict[str, float]:
        """For the metrics: studies received and studies that still grow."""
        return {"studies_received": self.received, "studies_growing": len(self._seen)}

    def look(self, reception: Reception) -> int:
        """Receives the studies that are complete; how many were new."""
        now, count = time.monotonic(), 0
        growing: dict[Path, tuple[str, float]] = {}
        for study in find_studies(self.folder):
            if study.is_empty:  # its files may be on their way
                continue
            before, since = self._seen.get(study.path, ("", now))
            if study.fingerprint != before:
                since = now
            if now - since >= self.quiet_s:
                count += reception.receive(study)
            growing[study.path] = (study.fingerprint, since)
        self._seen = growing
        self.received += count
        return count

    def _watch(self, reception: Reception) -> None:
        while not self._stop.is_set():
            try:
                if reception.has_room():
                    self.look(reception)
            except MedsegError as error:
                _log.warning("the inbox cannot be looked at: %s", error.code)
            self._stop.wait(self.interval_s)
