"""Every volume at or below a path, whatever the format: the public `medseg.read_volumes`."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from medseg.core.errors import InputError, raise_all
from medseg.core.volume import Volume
from medseg.sources.byte_stream import ByteStream, unreadable
from medseg.sources.dicom_files import may_be_dicom
from medseg.sources.image_files import find_files, image_files, is_image_file, read_image
from medseg.sources.nifti_header import looks_like_nifti
from medseg.sources.nifti_io import read_nifti
from medseg.sources.read_rules import MAX_BYTES, ReadRules

_log = logging.getLogger(__name__)


def read_volumes(
    path: str | Path,
    *,
    allow_unknown_orientation: bool = False,
    max_bytes: int = MAX_BYTES,
    on_gap: str = "refuse",
    on_tilt: str = "resample",
    trust_positions: bool = False,
) -> list[Volume]:
    """Every volume in a file or below a folder: NIfTI, NRRD, MetaImage, pictures and DICOM.

    Image files come first, in the order of their paths, then DICOM volumes. Files that are refused
    while others can be read are logged as warnings.

    Args:
        path: file, folder, ZIP archive or DICOMDIR.
        allow_unknown_orientation: read files without orientation as if their axes were R, A, S.
        max_bytes: largest decoded image in bytes.
        on_gap: "refuse" a DICOM series with missing slices, or "resample" to interpolate them.
        on_tilt: "resample" leaning DICOM stacks (gantry tilt) onto an orthogonal grid, "keep" or
            "refuse" them.
        trust_positions: take DICOM positions as comparable although FrameOfReferenceUID differs
            within a series.

    Returns:
        Volumes of shape (C, I, J, K), at least one.

    Raises:
        InputError: nothing at or below the path can be read rightly; says why for each file.
    """
    found = Path(path).expanduser()
    try:
        is_folder = stat.S_ISDIR(found.stat().st_mode)
    except (OSError, ValueError) as error:
        raise unreadable(found, error) from error
    rules = ReadRules(allow_unknown_orientation, max_bytes)
    if is_folder:
        files = find_files(found)
        images = image_files(files)
        has_dicom = not images or any(may_be_dicom(file) for file in files)
    else:
        has_dicom = not (is_image_file(found) or _is_unnamed_nifti(found))
        images = [] if has_dicom else [found]
    volumes: list[Volume] = []
    refused: list[InputError] = []
    for image in images:
        try:
            volumes.append(_read(image, rules=rules))
        except InputError as error:
            refused.append(error)
    if has_dicom:
        try:
            from medseg.dicom.volumes import read_dicom_volumes

            volumes += read_dicom_volumes(
                found, on_gap=on_gap, on_tilt=on_tilt, trust_positions=trust_positions
            )
        except InputError as error:
            refused.append(error)
    if not volumes:
        raise_all(refused, where=str(found), what="images cannot be read")
    for refusal in refused:
        _log.warning("left out, %s: %s", refusal.code, refusal)
    return volumes


def _read(path: Path, *, rules: ReadRules) -> Volume:
    return read_image(path, rules=rules) if is_image_file(path) else read_nifti(path, rules=rules)


def _is_unnamed_nifti(path: Path) -> bool:
    """True for a NIfTI file whose name does not say so."""
    try:
        with ByteStream(path) as stream:
            return looks_like_nifti(stream.read_up_to(348))
    except InputError:
        return False
