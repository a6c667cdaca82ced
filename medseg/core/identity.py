"""Who and when: the case, and the DICOM series it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medseg.core.segmentation import Reference
from medseg.core.volume import Volume


@dataclass(frozen=True)
class SeriesRef:
    """A DICOM series as found on disk.

    Args:
        study_uid, series_uid, frame_of_reference_uid: as in the headers.
        modality: DICOM modality.
        paths: one file per slice in the order of k, or one multi-frame file.
        frames: numbers (from 1) of the multi-frame file's frames in the order of k; empty for
            single-frame files.
    """

    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    paths: tuple[Path, ...]
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """One subject at one time: images, and a reference if there is one, read on demand.

    Args:
        key: short name used in logs, file names and reports; never a patient identifier.
        read_image: reads all channels as one Volume on one grid.
        read_reference: reads the reference, a label map or objects; None if the case has none.
        group: cases of one patient share it, so that splits keep them together.
        series: the DICOM series of the image, if it is one.
        paths: the files that the image and reference are read from, for hashing and messages.
        reading: what else decides what is read from `paths`, such as options of the source.
        is_held_out: True for a case that the data set sets aside for testing; it is never
            trained on.
    """

    key: str
    read_image: Callable[[], Volume]
    read_reference: Callable[[], Reference] | None = None
    group: str = ""
    series: SeriesRef | None = None
    paths: tuple[Path, ...] = ()
    is_held_out: bool = False
    reading: str = ""

    @property
    def patient(self) -> str:
        """Splitting key: the group, or the case's own key where no group is known."""
        return self.group or self.key
