"""The child process in which studies are parsed, so that a hostile one ends nothing but the child.

It is started once and asked many times, over pipes: what series does a study hold, and what are the
voxels of a series. It imports no network. Texts it returns hold no words of the patient's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom import dcmread

from medseg.core.errors import InputError, MedsegError
from medseg.core.identity import SeriesRef
from medseg.dicom.files import Files, find_files
from medseg.dicom.headers import FoundVolume, found_volume, index_files
from medseg.dicom.parse import quiet
from medseg.dicom.volumes import read_found
from medseg.services.local_disk import is_full
from medseg.sources.dicom_folder import case_keys
from medseg.sources.image_files import file_key, read_geometry, read_image
from medseg.sources.read_rules import ReadRules

_IDENTIFYING = (
    "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName",
    "AccessionNumber", "StudyID", "PatientBirthDate", "ReferringPhysicianName",
    "InstitutionName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
    "PatientAddress", "PatientMotherBirthName", "OperatorsName", "PerformingPhysicianName",
)  # fmt: skip
_MAX_LOOKED_AT = 200
DETACHED = (".hdr", ".hdr.gz", ".img", ".img.gz", ".nhdr", ".mhd")
"""Endings of image files that are not all there is of an image."""
_DESCRIBING = ("SeriesDescription", "ProtocolName", "ContrastBolusAgent", "BodyPartExamined")


def serve(requests: BinaryIO, answers: BinaryIO, *, memory_bytes: int) -> None:
    """Answers requests until the input ends.

    Args:
        requests: one JSON object per line.
        answers: for each the length of a JSON object, the object, and the bytes that it announces.
        memory_bytes: address space that this process may take.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    answer_each(requests, answers)


def answer_each(requests: Iterable[bytes], answers: BinaryIO) -> None:
    """As `serve`, without limits of its own."""
    for line in requests:
        request = json.loads(line)
        body: Any = b""
        try:
            if request["do"] == "index":
                answer = _index(request)
            elif request["do"] == "read":
                answer, body = _read(request)
            else:
                answer = {}
        except (MedsegError, OSError) as error:
            if is_full(error):
                answer = {"error": {"code": "E_DISK_FULL"}}
            elif isinstance(error, MedsegError):
                answer = {"error": _told(error, _words(_paths_of(request)))}
            else:
                answer = {"error": {"code": "E_READER_CRASH", "what": type(error).__name__}}
        except (MemoryError, RecursionError):
            answer = {"error": {"code": "E_READER_MEMORY"}}
        except Exception as error:  # its text may hold a patient's name
            answer = {"error": {"code": "E_READER_CRASH", "what": type(error).__name__}}
        head = json.dumps({**answer, "bytes": memoryview(body).nbytes}).encode()
        answers.write(struct.pack("<I", len(head)) + head)
        answers.write(body)
        answers.flush()


def _index(request: Mapping[str, Any]) -> dict[str, Any]:
    if request.get("images"):
        return _index_image(request)
    root, path = Path(request["root"]), Path(request["path"])
    files = loose_files(path) if request.get("is_loose") else find_files(path)
    options = {key: request[key] for key in ("on_gap", "trust_positions")}
    index = index_files(files, path, **options)
    words = _words(files.paths)
    # Names come from the folders below the root that all studies share.
    keys = case_keys(replace(index, files=replace(index.files, root=root)))
    keep = Path(request["keep"]) if index.files.unpacked else None
    volumes = [
        _volume(found, key, None if keep is None else keep / f"{number:03d}", index.files)
        for number, (found, key) in enumerate(zip(index.volumes, keys, strict=True))
    ]
    refused = [_told(error, words) for error in index.refused]
    if not volumes and not refused:
        reasons = sorted({item.reason.removeprefix("is ") for item in index.left_out})
        is_closed = any("cannot be" in reason for reason in reasons)
        error = InputError(
            path,
            "holds no DICOM image" + (f" (found: {'; '.join(reasons[:5])})" if reasons else ""),
            "check the permissions"
            if is_closed
            else "send images; other objects need no segmentation",
            code="E_UNREADABLE" if is_closed else "E_NO_IMAGES",
        )
        refused = [_told(error, words)]
    return {"volumes": volumes, "refused": refused}


def _index_image(request: Mapping[str, Any]) -> dict[str, Any]:
    """As `_index`, of one image file that is no DICOM."""
    path, root = Path(request["path"]), Path(request["root"])
    geometry = read_geometry(path, rules=_rules(request))
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    volume = {
        "key": "_".join([*folders, file_key(path)]),
        "series": plain_series(SeriesRef("", "", "", "", (path,))),
        "identity": ["image", _image_digest(path, _rules(request))],
        "facts": {
            "modality": "", "description": "", "body_part": "", "has_contrast": False,
            "slice_thickness_mm": geometry.spacing_mm[2], "num_slices": geometry.shape[2],
        },
    }  # fmt: skip
    return {"volumes": [volume], "refused": []}


def _image_digest(path: Path, rules: ReadRules) -> str:
    """Of the file; of the voxels, if the file is a header whose voxels lie in another."""
    if not path.name.lower().endswith(DETACHED):
        return _digest([path])
    array = np.ascontiguousarray(read_image(path, rules=rules).array)
    head = path.read_bytes() + array.dtype.str.encode()
    return hashlib.sha256(head + hashlib.sha256(array.data).digest()).hexdigest()


def _rules(request: Mapping[str, Any]) -> ReadRules:
    return ReadRules(bool(request.get("allow_unknown_orientation")))


def loose_files(folder: Path) -> Files:
    """The regular files that lie in a folder itself."""
    found = find_files(folder)
    return replace(found, paths=tuple(path for path in found.paths if path.parent == folder))


def _volume(found: FoundVolume, key: str, keep: Path | None, files: Files) -> dict[str, Any]:
    series = found.series
    if keep is not None and series.paths[0] in files.names:
        series = _kept(series, keep)
    uids = sorted({frame.header.text("SOPInstanceUID") for frame in found.lattice.frames})
    return {
        "key": key,
        "series": plain_series(series),
        "identity": [series.series_uid, uids, list(series.frames), _digest(series.paths)],
        "facts": _facts(found, series.paths[0]),
    }


def _kept(series: SeriesRef, folder: Path) -> SeriesRef:
    """The series with its files, which an archive was unpacked to, moved where they stay."""
    folder.mkdir(parents=True, exist_ok=True)
    moved: dict[Path, Path] = {}
    for path in dict.fromkeys(series.paths):
        moved[path] = folder / f"{len(moved):05d}.dcm"
        path.replace(moved[path])
        with moved[path].open("rb") as file:
            os.fsync(file.fileno())
    return replace(series, paths=tuple(moved[path] for path in series.paths))


def _facts(found: FoundVolume, first: Path) -> dict[str, Any]:
    """What rules may ask of a series."""
    with quiet():
        try:
            header = dcmread(first, stop_before_pixels=True, specific_tags=list(_DESCRIBING))
            texts = {name: str(header.get(name) or "") for name in _DESCRIBING}
        except Exception:
            texts = dict.fromkeys(_DESCRIBING, "")
    return {
        "modality": found.series.modality,
        "description": f"{texts['SeriesDescription']} {texts['ProtocolName']}".strip(),
        "body_part": texts["BodyPartExamined"],
        "has_contrast": bool(texts["ContrastBolusAgent"].strip()),
        "slice_thickness_mm": found.geometry.spacing_mm[2],
        "num_slices": found.geometry.shape[2],
    }


def _read(request: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    series = series_of(request["series"])
    if request.get("images"):
        volume = read_image(series.paths[0], rules=_rules(request))
    else:
        found = found_volume(
            series, on_gap=request["on_gap"], trust_positions=request["trust_positions"]
        )
        volume = read_found(found, on_tilt=request.get("on_tilt", "resample"))
    array = volume.array
    if not array.flags.c_contiguous:
        array = array.copy()
    words = () if request.get("images") else _words(series.paths)
    answer = {
        "shape": array.shape,
        "dtype": array.dtype.str,
        "affine": volume.geometry.affine.tolist(),
        "modality": volume.modality,
        "notes": [_without(note, words) for note in volume.notes],
    }
    return answer, array.data.cast("B") if array.size else b""


def plain_series(series: SeriesRef) -> dict[str, Any]:
    """A series as JSON-compatible values."""
    return {
        "study_uid": series.study_uid,
        "series_uid": series.series_uid,
        "frame_of_reference_uid": series.frame_of_reference_uid,
        "modality": series.modality,
        "paths": [str(path) for path in series.paths],
        "frames": list(series.frames),
    }


def series_of(values: Mapping[str, Any]) -> SeriesRef:
    """The reverse of `plain_series`."""
    return SeriesRef(
        values["study_uid"],
        values["series_uid"],
        values["frame_of_reference_uid"],
        values["modality"],
        tuple(Path(path) for path in values["paths"]),
        tuple(values["frames"]),
    )


def _digest(paths: Iterable[Path]) -> str:
    """Of the content of all files, whatever their names and order."""
    digests = []
    for path in dict.fromkeys(paths):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _paths_of(request: Mapping[str, Any]) -> list[Path]:
    if request.get("images"):
        return []
    if "series" in request:
        return [Path(path) for path in request["series"]["paths"]]
    try:
        return list(find_files(Path(request["path"])).paths)
    except InputError:
        return []


def _words(paths: Iterable[Path]) -> tuple[str, ...]:
    """What identifies the patients of some files: words of three letters at least, and UIDs."""
    words: set[str] = set()
    several = list(dict.fromkeys(paths))
    step = max(1, len(several) // _MAX_LOOKED_AT)
    with quiet():
        for path in several[::step]:
            with contextlib.suppress(Exception):
                header = dcmread(
                    path, stop_before_pixels=True, specific_tags=list(_IDENTIFYING), force=True
                )
                for keyword in _IDENTIFYING:
                    text = str(header.get(keyword) or "")
                    words |= {text} if keyword.endswith("UID") else set(_split(text))
    return tuple(sorted((word for word in words if len(word) >= 3), key=len, reverse=True))


def _split(text: str) -> list[str]:
    return [text, *re.split(r"[\W_]+", text)]


def _told(error: MedsegError, words: tuple[str, ...]) -> dict[str, str]:
    return {
        "code": error.code,
        "what": _without(error.what, words),
        "remedy": _without(error.remedy, words),
        "where": _text(error.where),
    }


def _without(text: str, words: tuple[str, ...]) -> str:
    """A text with each word of the patient's left out."""
    for word in words:
        text = re.sub(
            rf"(?<![0-9A-Za-z]){re.escape(word)}(?![0-9A-Za-z])", "[removed]", text, flags=re.I
        )
    return _text(text)


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def main() -> None:
    """Serves the process that started this one; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    serve(sys.stdin.buffer, answers, memory_bytes=int(sys.argv[1]))
