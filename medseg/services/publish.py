"""Results on their way to the output folder: written aside, then moved in together.

Nobody who looks into the folder sees half a file, or one of two files that belong together while
the disk has no room for the other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydicom import dcmread

from medseg.core.errors import OutputError
from medseg.core.identity import Case
from medseg.core.protocols import Writer
from medseg.dicom.deidentify import BasicProfile
from medseg.inference.cases import Segmented, write_segmented
from medseg.services.jobs import Job, Result
from medseg.services.local_disk import flush_folder

_ASIDE = ".medseg-unfinished"


def publish(
    segmented: Segmented,
    case: Case,
    *,
    job: Job,
    writers: Sequence[Writer],
    folder: Path,
    deidentify: BasicProfile | None = None,
) -> list[Result]:
    """Writes the results of a job into a folder; the files, durable when this returns.

    The same job gives the same names and bytes, so that a repetition changes nothing. With
    `deidentify` no file says who the patient is, by its name or its content.

    Raises:
        MedsegError: a writer refused the result, or a file cannot be written; then there is none.
    """
    aside = folder / _ASIDE / f"{job.id}-{job.token}"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        if deidentify is not None:
            case = replace(case, key=deidentify.name(case.key))
        paths = write_segmented(segmented, case, writers=writers, folder=aside)
        if deidentify is not None:
            for path in paths:
                _deidentify(path, deidentify)
        results = [_described(path, folder / path.relative_to(aside)) for path in paths]
        for path, result in zip(paths, results, strict=True):
            target = Path(result.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        for parent in {Path(result.path).parent for result in results}:
            flush_folder(parent)
        return results
    except OSError as error:
        raise OutputError(
            folder,
            f"cannot be written ({error.strerror or type(error).__name__})",
            "check the folder's permissions and its free space",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what workers that were killed have left unfinished; only while none is at work."""
    shutil.rmtree(folder / _ASIDE, ignore_errors=True)


def is_intact(result: Result) -> bool:
    """Whether the file of a result is there as it was written."""
    try:
        with Path(result.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == result.sha256
    except OSError:
        return False


def _deidentify(path: Path, profile: BasicProfile) -> None:
    if path.suffix != ".dcm":
        return
    dataset = dcmread(path)
    profile.apply(dataset)
    with path.open("wb") as file:
        dataset.save_as(file, enforce_file_format=True)
        file.flush()
        os.fsync(file.fileno())


def _described(path: Path, target: Path) -> Result:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    place = os.path.abspath(target)  # noqa: PTH100  (links stay as they were given)
    if path.suffix != ".dcm":
        return Result(place, sha256)
    header = dcmread(
        path,
        stop_before_pixels=True,
        specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"],
    )
    return Result(
        place,
        sha256,
        str(header.SOPClassUID),
        str(header.SOPInstanceUID),
        str(header.StudyInstanceUID),
        str(header.SeriesInstanceUID),
    )
