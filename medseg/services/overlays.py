"""Pictures of the last results for the status page: outlines over three planes, without names."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from medseg.core.identity import Case
from medseg.core.segmentation import class_map
from medseg.inference.cases import Segmented
from medseg.services.jobs import Job
from medseg.writers.names import PREVIEW
from medseg.writers.preview import PreviewWriter

_log = logging.getLogger(__name__)
_NAME = re.compile(rf"\d{{12}}{PREVIEW}\.png")


class Overlays:
    """Keeps pictures of the last results in a folder.

    Args:
        folder: of the pictures, named by the jobs' numbers.
        count: how many are kept; 0 draws none.
    """

    def __init__(self, folder: Path, *, count: int = 8) -> None:
        self.folder = folder
        self.count = count
        self._writer = PreviewWriter(height=192)

    def draw(self, job: Job, segmented: Segmented, case: Case) -> None:
        """Draws one result; a picture that cannot be drawn is left out."""
        if not self.count:
            return
        try:
            named = Case(f"{job.id:012d}", case.read_image)
            self._writer.write(class_map(segmented.result), named, folder=self.folder)
            for old in self.names()[self.count :]:
                (self.folder / old).unlink(missing_ok=True)
        except Exception as error:
            _log.debug("no picture of %s", job.name, exc_info=error)

    def names(self) -> list[str]:
        """File names, the latest first."""
        if not self.folder.is_dir():
            return []
        found = [path.name for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, reverse=True)

    def content(self, name: str) -> bytes | None:
        """A picture's bytes; None if there is none of this name."""
        if not _NAME.fullmatch(name):
            return None
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None
