"""Files to series to volumes, by headers alone: what is there, what is left out and why.

`index_folder` looks at everything below a path, refuses what cannot be read rightly and keeps the
rest. Pixels are read later, by `medseg.dicom.volumes`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.identity import SeriesRef
from medseg.dicom.cut_header import CutHeaderError
from medseg.dicom.files import Files, find_files
from medseg.dicom.frames import (
    Frame,
    frames_of,
    is_cross_sectional,
    is_localizer,
    projection_frame,
)
from medseg.dicom.lattice import Lattice, build_lattice
from medseg.dicom.parse import (
    Header,
    NotDicomError,
    looks_like_dataset,
    quiet,
    read_header,
)
from medseg.dicom.partition import partition
from medseg.dicom.pixels import check_pixels
from medseg.dicom.selection import LeftOut, select_images, without_duplicates
from medseg.dicom.syntaxes import SEGMENTATIONS
from medseg.dicom.values import missing

_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_SLICE_SUFFIXES = frozenset({".dcm", ".ima", ".dicom", ".dic"})


@dataclass(frozen=True, eq=False)
class FoundVolume:
    """One volume, or one 2D image, whose headers are in order.

    Args:
        series: files (and frames) in the order of k.
        lattice: its frames and grid as acquired.
        name: what sets it apart within its series, such as "phase 3 of 20"; "" if nothing does.
        folder: deepest folder that holds all its files; of an archive's members, the archive and
            the folder in it.
        patient: hash of the PatientID, the same for all volumes of a patient; "" if there is none.
        identifying_words: words of the patient's name and identifiers, in lower case; for
            keeping them out of names, never to be shown.
    """

    series: SeriesRef
    lattice: Lattice
    name: str
    folder: Path
    patient: str
    identifying_words: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def geometry(self) -> Geometry:
        """Grid of the frames as acquired."""
        return self.lattice.geometry


@dataclass(frozen=True, eq=False)
class DicomIndex:
    """What lies below a path.

    Args:
        root: the path looked at.
        volumes: those that can be read, sorted by first file.
        refused: one error per series that cannot be read rightly.
        left_out: files that are no images, with the reason.
        segmentations: files among those left out that are DICOM SEG or RTSTRUCT objects.
        files: keeps unpacked archives alive.
    """

    root: Path
    volumes: tuple[FoundVolume, ...]
    refused: tuple[InputError, ...]
    left_out: tuple[LeftOut, ...]
    files: Files = field(repr=False)
    segmentations: tuple[Path, ...] = ()


def index_folder(
    path: str | Path, *, on_gap: str = "refuse", trust_positions: bool = False
) -> DicomIndex:
    """All DICOM volumes at or below `path`: a file, folder, ZIP archive or DICOMDIR.

    Args:
        path: what to look at; folders are searched to any depth, names and extensions do not
            matter.
        on_gap: "refuse" series with missing slices, or "resample" to interpolate whole missing
            slices.
        trust_positions: take positions as comparable although FrameOfReferenceUID differs within a
            series.

    Returns:
        The index; reading a volume's pixels may still refuse it.

    Raises:
        InputError: the path cannot be opened, or is a broken or hostile archive.
    """
    return index_files(
        find_files(Path(path)), Path(path), on_gap=on_gap, trust_positions=trust_positions
    )


@quiet()
def index_files(
    files: Files, path: Path, *, on_gap: str = "refuse", trust_positions: bool = False
) -> DicomIndex:
    """As `index_folder`, of files that were found below a path."""
    if on_gap not in ("refuse", "resample"):
        raise InputError("on_gap", f"is '{on_gap}'", "use 'refuse' or 'resample'", code="E_OPTION")
    headers, broken, left_out = _read_all(files)
    left_out += [LeftOut(skipped, reason) for skipped, reason in files.skipped]
    images, others = select_images(headers)
    left_out += others
    groups: dict[str, list[Header]] = {}
    refused: list[InputError] = list(files.refused)
    for header in images:
        uid = header.text("SeriesInstanceUID")
        if uid:
            groups.setdefault(uid, []).append(header)
        else:
            refused.append(missing(header.name, "SeriesInstanceUID"))
    crossed = _studies_of_two_patients(images)
    volumes: list[FoundVolume] = []
    for members in groups.values():
        try:
            _refuse_broken(members, broken)
            _check_patient(members, crossed)
            found, dropped = _series_volumes(
                members, allow_gaps=on_gap == "resample", trust_positions=trust_positions
            )
        except InputError as error:
            refused.append(error)
            continue
        volumes += found
        left_out += dropped
    claimed = {error.where for error in refused}
    refused += [error for error in broken.values() if error.where not in claimed]
    volumes.sort(key=lambda volume: (volume.series.paths[0], volume.series.frames))
    drawn = sorted(h.path for h in headers if h.text("SOPClassUID") in SEGMENTATIONS)
    left_out = [LeftOut(Path(files.names.get(o.path, o.path)), o.reason) for o in left_out]
    left_out.sort(key=lambda item: item.path)
    return DicomIndex(path, tuple(volumes), tuple(refused), tuple(left_out), files, tuple(drawn))


@quiet()
def found_volume(
    series: SeriesRef, *, on_gap: str = "refuse", trust_positions: bool = False
) -> FoundVolume:
    """The volume that a SeriesRef names, its headers read anew.

    Raises:
        InputError: a file cannot be read, or the files do not form one volume.
    """
    where = _label([path.parent for path in series.paths], series.modality)
    headers = []
    for path in dict.fromkeys(series.paths):
        try:
            headers.append(read_header(path))
        except NotDicomError:
            raise InputError(
                path, "is not a DICOM file", "give DICOM files", code="E_NOT_DICOM"
            ) from None
    _check_patient(headers, set())
    frames = [frame for header in headers for frame in _frames(header)]
    if series.frames:
        wanted = set(series.frames)
        frames = [frame for frame in frames if frame.number + 1 in wanted]
    parts = partition(frames, where=where, trust_positions=trust_positions)
    if len(parts) != 1:
        raise InputError(
            where,
            f"holds {len(parts)} volumes ({parts[0].name} and others), not one",
            "use index_folder to tell them apart",
            code="E_MULTI_VOLUME",
        )
    lattice = build_lattice(parts[0].frames, where=where, allow_gaps=on_gap == "resample")
    return _found(lattice, parts[0].name)


def _read_all(files: Files) -> tuple[list[Header], dict[Path, InputError], list[LeftOut]]:
    """Headers, files that are (or should be) DICOM but broken, and files of another kind."""
    headers: list[Header] = []
    broken: dict[Path, InputError] = {}
    left_out: list[LeftOut] = []
    strangers: list[Path] = []
    for path in files.paths:
        try:
            headers.append(read_header(path, name=files.names.get(path)))
        except NotDicomError:
            strangers.append(path)
        except InputError as error:
            broken[path] = error
    suffixes = {(header.path.parent, header.path.suffix.lower()) for header in headers}
    for path in strangers:
        if _is_lost_slice(path, suffixes):
            broken[path] = InputError(
                files.names.get(path, str(path)),
                f"should be a slice like its neighbours but is not DICOM ({path.stat().st_size} "
                "bytes)",
                "send it again, or remove it if it is no image",
                code="E_HEADER",
            )
        else:
            left_out.append(LeftOut(path, "is not a DICOM file"))
    return headers, broken, left_out


def _is_lost_slice(path: Path, suffixes: set[tuple[Path, str]]) -> bool:
    """True if a file that is not DICOM must be taken for a damaged slice.

    That is a file with a slice's suffix, and among slices of its own suffix an empty one or one of
    zeros. The companions that macOS leaves beside copied files (AppleDouble) are none.
    """
    if path.name.startswith("._"):
        with path.open("rb") as file:
            if file.read(4) == _APPLE_DOUBLE:
                return False
    suffix = path.suffix.lower()
    if suffix in _SLICE_SUFFIXES:
        return True
    if (path.parent, suffix) not in suffixes:
        return False
    with path.open("rb") as file:
        head = file.read(256)
    return not head.strip(b"\0") or looks_like_dataset(head)


def _studies_of_two_patients(headers: Sequence[Header]) -> set[str]:
    patients: dict[str, set[str]] = {}
    for header in headers:
        study = header.text("StudyInstanceUID")
        if study:
            patients.setdefault(study, set()).add(header.text("PatientID"))
    return {study for study, names in patients.items() if len(names) > 1}


def _refuse_broken(members: list[Header], broken: dict[Path, InputError]) -> None:
    """A damaged file refuses the series it belongs to; if it cannot say which, all series of its
    folder, or those of its SOP class if it can say that.
    """
    uid = members[0].text("SeriesInstanceUID")
    folders = {header.path.parent for header in members}
    classes = {header.text("SOPClassUID") for header in members} | {""}
    for path, error in broken.items():
        own, sop_class = "", ""
        if isinstance(error, CutHeaderError):
            own, sop_class = error.series_uid, error.sop_class
        if own == uid or (not own and path.parent in folders and sop_class in classes):
            raise error


def _check_patient(members: list[Header], crossed: set[str]) -> None:
    where = _label([Path(header.name).parent for header in members], members[0].text("Modality"))
    identifiers = {header.text("PatientID") for header in members}
    names = {re.sub(r"[\W_]+", "", header.text("PatientName")).casefold() for header in members}
    studies = {header.text("StudyInstanceUID") for header in members}
    if len(identifiers) > 1 or len(names) > 1 or studies & crossed:
        raise InputError(
            where,
            "holds images of more than one patient under one series or study",
            "find out which image belongs to whom before anything else",
            code="E_TWO_PATIENTS",
        )
    if len(studies) > 1:
        raise InputError(
            where,
            f"one series claims {len(studies)} studies",
            "separate the studies",
            code="E_MIXED_STUDY",
        )


def _series_volumes(
    members: list[Header], *, allow_gaps: bool, trust_positions: bool
) -> tuple[list[FoundVolume], list[LeftOut]]:
    where = _label([Path(header.name).parent for header in members], members[0].text("Modality"))
    members, left_out = without_duplicates(members, where)
    scouts = [header for header in members if is_localizer(header)]
    left_out += [LeftOut(header.path, "is a localizer") for header in scouts]
    members = [header for header in members if not is_localizer(header)]
    for header in members:
        check_pixels(header)
    projections = [header for header in members if not is_cross_sectional(header)]
    volumes = [_found(build_lattice([projection_frame(h)], where=h.name), "") for h in projections]
    frames = [frame for h in members if is_cross_sectional(h) for frame in _frames(h)]
    if frames and projections:
        raise missing(projections[0].name, "ImagePositionPatient")
    if frames:
        for part in partition(frames, where=where, trust_positions=trust_positions):
            volumes.append(
                _found(build_lattice(part.frames, where=where, allow_gaps=allow_gaps), part.name)
            )
    return volumes, left_out


def _frames(header: Header) -> list[Frame]:
    """Frames of a header; whatever pydicom raises on its nested values leaves as an InputError."""
    try:
        return frames_of(header) if is_cross_sectional(header) else [projection_frame(header)]
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            header.name,
            f"has functional groups that cannot be read ({type(error).__name__})",
            "export the object again",
            code="E_HEADER",
        ) from None


def _found(lattice: Lattice, name: str) -> FoundVolume:
    header = lattice.frames[0].header
    is_multiframe = len({id(frame.header) for frame in lattice.frames}) == 1 and (
        header.integer("NumberOfFrames", 1) > 1
    )
    paths = [frame.header.path for frame in lattice.frames]
    named = [Path(frame.header.name) for frame in lattice.frames]
    series = SeriesRef(
        study_uid=header.text("StudyInstanceUID"),
        series_uid=header.text("SeriesInstanceUID"),
        frame_of_reference_uid=header.text("FrameOfReferenceUID"),
        modality=header.text("Modality") or "OT",
        paths=(paths[0],) if is_multiframe else tuple(paths),
        frames=tuple(frame.number + 1 for frame in lattice.frames) if is_multiframe else (),
    )
    identifier = header.text("PatientID")
    patient = hashlib.sha256(identifier.encode()).hexdigest()[:12] if identifier else ""
    return FoundVolume(
        series, lattice, name, _common_folder(named), patient, _identifying_words(header)
    )


def _identifying_words(header: Header) -> frozenset[str]:
    """Words of at least three characters, so that initials and small numbers do not count."""
    keywords = ("PatientName", "PatientID")
    text = " ".join(header.text(keyword) for keyword in keywords).lower()
    return frozenset(word for word in re.split(r"[\W_]+", text) if len(word) >= 3)


def _common_folder(paths: Sequence[Path]) -> Path:
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder


def _label(folders: Sequence[Path], modality: str) -> str:
    """What messages call a series: its folder and modality, never its UID or description."""
    folder = _common_folder([path / "x" for path in folders])
    return f"{folder} ({modality or 'unknown modality'} series)"
