"""Image files of every supported format: found, named and read through one door."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.sources.metaimage_io import read_metaimage, read_metaimage_geometry
from medseg.sources.nifti_io import read_nifti, read_nifti_geometry
from medseg.sources.nrrd_io import read_nrrd, read_nrrd_geometry
from medseg.sources.picture_io import read_picture, read_picture_geometry
from medseg.sources.read_rules import ReadRules

# The longer of two endings comes first. The .img of a pair is read through its .hdr, the .raw of a
# detached header through the header.
_FORMATS = {
    ".nii.gz": "nifti", ".hdr.gz": "nifti", ".nii": "nifti", ".hdr": "nifti", ".nrrd": "nrrd",
    ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage", ".png": "picture",
    ".tiff": "picture", ".tif": "picture", ".jpeg": "picture", ".jpg": "picture", ".bmp": "picture",
}  # fmt: skip
_VOXELS_OF_PAIRS = (".img.gz", ".img")
_DICOM_PREAMBLE = 128


def file_key(path: Path) -> str:
    """The file's name without its image extensions: the key of its case."""
    name = path.name
    for suffix in (*_FORMATS, *_VOXELS_OF_PAIRS):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def is_image_file(path: Path) -> bool:
    """True if the name ends like an image that `read_image` reads, and it is no DICOM file."""
    return image_format(path) is not None


def image_format(path: Path) -> str | None:
    """ "nifti", "nrrd", "metaimage" or "picture" by the file's name; None for other files."""
    name = path.name.lower()
    for suffix, kind in _FORMATS.items():
        if name.endswith(suffix):
            return kind
    # Scanners name DICOM files .img too.
    return "nifti" if name.endswith(_VOXELS_OF_PAIRS) and not has_dicom_prefix(path) else None


def has_dicom_prefix(path: Path) -> bool:
    """True for a file with DICOM's preamble and prefix (PS3.10 section 7.1)."""
    try:
        with path.open("rb") as stream:
            return stream.read(_DICOM_PREAMBLE + 4)[_DICOM_PREAMBLE:] == b"DICM"
    except OSError:
        return False


def find_files(folder: Path) -> list[Path]:
    """Every regular file below a folder, sorted; hidden ones and linked folders are left out.

    Raises:
        InputError: the folder cannot be listed.
    """
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise InputError(
            error.filename or folder,
            f"the folder cannot be listed ({error.strerror})",
            "check the permissions",
            code="E_UNREADABLE",
        )

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found.extend(path for path in paths if path.is_file())
    return sorted(found)


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Those of the files that hold an image; a .hdr and .img pair counts once, as its .hdr."""
    images = [path for path in paths if is_image_file(path)]
    headers = {path.with_name(file_key(path)) for path in images if _is_header(path)}
    return [
        path
        for path in images
        if not (_is_voxels(path) and path.with_name(file_key(path)) in headers)
    ]


def read_image(path: Path, *, rules: ReadRules | None = None, as_labels: bool = False) -> Volume:
    """The volume in an image file.

    Args:
        path: file in one of the supported formats.
        rules: what to accept.
        as_labels: give the palette's indices of a 2D picture instead of its colours.

    Raises:
        InputError: the file cannot be read rightly.
    """
    kind = image_format(path)
    if kind == "nifti":
        return read_nifti(path, rules=rules)
    if kind == "nrrd":
        return read_nrrd(path, rules=rules)
    if kind == "metaimage":
        return read_metaimage(path, rules=rules)
    if kind == "picture":
        return read_picture(path, rules=rules, as_labels=as_labels)
    raise _unknown_format(path)


def read_geometry(path: Path, *, rules: ReadRules | None = None) -> Geometry:
    """The grid of an image file, from its header alone."""
    kind = image_format(path)
    if kind == "nifti":
        return read_nifti_geometry(path, rules=rules)
    if kind == "nrrd":
        return read_nrrd_geometry(path, rules=rules)
    if kind == "metaimage":
        return read_metaimage_geometry(path, rules=rules)
    if kind == "picture":
        return read_picture_geometry(path, rules=rules)
    raise _unknown_format(path)


def _unknown_format(path: Path) -> InputError:
    return InputError(
        path,
        "is not an image file that medseg knows by its name",
        f"use one of {', '.join(_FORMATS)}",
        code="E_FORMAT",
    )


def _is_header(path: Path) -> bool:
    return path.name.lower().endswith((".hdr", ".hdr.gz"))


def _is_voxels(path: Path) -> bool:
    return path.name.lower().endswith(_VOXELS_OF_PAIRS)
