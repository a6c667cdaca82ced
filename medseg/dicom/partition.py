"""One SeriesInstanceUID to volumes: refuse mixtures, separate phases, echoes, b-values, stacks.

Only what headers state tells volumes apart. Where positions repeat and nothing stated explains it,
the series is refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from medseg.core.errors import GeometryError, InputError
from medseg.dicom.frame_keys import EXACT_KEYS, ORDER_KEYS, PHASE_KEYS
from medseg.dicom.frames import Frame
from medseg.dicom.lattice import same_position_mm, sorted_along_normal, tolerance_mm

# Orientation and spacing of frames of one volume agree to these: rounding of decimal strings, no
# more.
_ORIENTATION_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3
# Images at one position whose SliceLocation differs by more have lost their true positions.
_SAME_LOCATION_MM = 0.1

# Elements by which evenly interleaving volumes are told apart although no position repeats.
_INTERLEAVING_KEYS = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber", "EchoNumbers",
    "DiffusionBValue", "NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase",
)  # fmt: skip

_NAMES = {
    "TemporalPositionIdentifier": "time",
    "TemporalPositionIndex": "time",
    "AcquisitionNumber": "acquisition",
    "EchoNumbers": "echo",
    "EchoTime": "echo time",
    "EffectiveEchoTime": "echo time",
    "DiffusionBValue": "b-value",
    "InversionTime": "inversion time",
    "InversionTimes": "inversion time",
    "RepetitionTime": "repetition time",
    "NominalPercentageOfCardiacPhase": "phase",
    "NominalPercentageOfRespiratoryPhase": "respiratory phase",
    "KVP": "tube voltage",
    "ConvolutionKernel": "kernel",
    "DiffusionGradientOrientation": "gradient",
    "FlipAngle": "flip angle",
    "ImageType": "image type",
    "ComplexImageComponent": "component",
    "StackID": "stack",
    "TriggerTime": "phase",
    "NominalCardiacTriggerDelayTime": "phase",
    "NominalRespiratoryTriggerDelayTime": "respiratory phase",
    "ImageTriggerDelay": "phase",
    "TemporalPositionTimeOffset": "time",
    "FrameReferenceTime": "time",
    "AcquisitionDateTime": "time",
    "FrameReferenceDateTime": "time",
    "AcquisitionTime": "time",
    "ContentTime": "time",
    "SeriesTime": "time",
    "DimensionIndexValues": "dimension",
}


@dataclass(frozen=True, eq=False)
class Part:
    """Frames of one volume and what sets it apart, such as "phase 3 of 20"; "" if it is the only
    one.
    """

    frames: tuple[Frame, ...]
    name: str = ""


def partition(frames: Sequence[Frame], *, where: str, trust_positions: bool = False) -> list[Part]:
    """The volumes of a series.

    Args:
        frames: all frames of the series that are cross-sectional images.
        where: what messages call the series.
        trust_positions: accept several frames of reference as one.

    Raises:
        InputError: patients, frames of reference, matrices, spacings or orientations are mixed, or
            positions repeat without an explanation.
    """
    stacks = _split_exact(frames, "StackID") if any(f.keys.get("StackID") for f in frames) else None
    parts: list[Part] = []
    groups = stacks or [list(frames)]
    for n, group in enumerate(groups):
        check_uniform(group, where=where, trust_positions=trust_positions)
        prefix = f"stack {n + 1} of {len(groups)}" if len(groups) > 1 else ""
        for part in _phases(group, where):
            name = ", ".join(text for text in (prefix, part.name) if text)
            parts.append(Part(part.frames, name))
    return parts


def check_uniform(frames: Sequence[Frame], *, where: str, trust_positions: bool = False) -> None:
    """Refuses frames that cannot belong to one volume."""
    first = frames[0]
    headers = list({id(frame.header): frame.header for frame in frames}.values())

    def same(values: Sequence[Hashable], code: str, what: str) -> None:
        kinds = sorted({str(value) for value in values})
        if len(kinds) > 1:
            shown = " and ".join(kinds[:3])
            raise GeometryError(
                where,
                f"{what}: {shown}",
                "separate them into series of their own, or leave the odd ones out",
                code=code,
            )

    references = {header.text("FrameOfReferenceUID") for header in headers}
    if len(references) > 1 and not trust_positions:
        raise _no_common_frame(where, len(references), len(headers))
    same(
        [(header.integer("Columns"), header.integer("Rows")) for header in headers],
        "E_MIXED_MATRIX",
        "matrix size (columns, rows) changes within the series",
    )
    same(
        [header.integer("SamplesPerPixel", 1) for header in headers],
        "E_MIXED_MATRIX",
        "samples per pixel change within the series",
    )
    same(
        [header.text("PhotometricInterpretation").startswith("MONOCHROME1") for header in headers],
        "E_MIXED_MATRIX",
        "MONOCHROME1 and other images are mixed within the series",
    )
    same(
        [frame.has_rescale for frame in frames],
        "E_RESCALE",
        "some images have RescaleSlope and RescaleIntercept, others do not",
    )
    same(
        [header.text("Units") for header in headers],
        "E_MIXED_UNITS",
        "units change within the series",
    )
    for frame in frames:
        turned = max(
            np.abs(frame.row_lps - first.row_lps).max(),
            np.abs(frame.column_lps - first.column_lps).max(),
        )
        if turned > _ORIENTATION_TOLERANCE:
            raise GeometryError(
                where,
                f"{first.header.path.name} and {frame.header.path.name} have different "
                "ImageOrientationPatient",
                "separate the orientations into series of their own",
                code="E_MIXED_ORIENTATION",
            )
        if np.abs(np.subtract(frame.spacing_mm, first.spacing_mm)).max() > (
            _SPACING_TOLERANCE * min(first.spacing_mm)
        ):
            raise GeometryError(
                where,
                f"PixelSpacing is {first.spacing_mm} mm in {first.header.path.name} and "
                f"{frame.spacing_mm} mm in {frame.header.path.name} (columns, rows)",
                "separate them into series of their own",
                code="E_MIXED_SPACING",
            )


def _no_common_frame(where: str, references: int, images: int) -> InputError:
    if references == images:
        what = (
            f"gives each of its {images} images a frame of reference of its own, as some "
            "anonymisers do, so nothing says that their positions can be compared"
        )
    else:
        what = (
            f"holds images of {references} frames of reference, whose positions cannot be compared"
        )
    return GeometryError(
        where,
        what,
        "separate them into series of their own; set trust_positions=true only if they are known "
        "to come from one scan whose anonymiser has renumbered them",
        code="E_MIXED_FRAME_OF_REFERENCE",
    )


def _phases(frames: list[Frame], where: str) -> list[Part]:
    columns = _positions(frames)
    most = max(len(column) for column in columns)
    if most == 1:
        return _interleaved(frames) or [Part(tuple(frames))]
    if min(len(column) for column in columns) != most:
        single = next(column for column in columns if len(column) != most)
        raise _unexplained(
            where,
            f"{len(columns)} positions hold between {min(map(len, columns))} and {most} images "
            f"({single[0].header.path.name} has a position with {len(single)})",
        )
    for column in columns:
        locations = [
            f.keys["SliceLocation"] for f in column if f.keys.get("SliceLocation") is not None
        ]
        if locations and max(locations) - min(locations) > _SAME_LOCATION_MM:
            raise _unexplained(
                where,
                f"{most} images claim one position while their SliceLocation runs from "
                f"{min(locations):g} to {max(locations):g} mm",
            )
    groups = _by_exact_keys(frames, columns) or _by_order(columns)
    if groups is None:
        raise _unexplained(where, f"each of {len(columns)} positions holds {most} images")
    names, parts = groups
    return [Part(tuple(part), f"{names} {n + 1} of {len(parts)}") for n, part in enumerate(parts)]


def _positions(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames grouped by position along the normal, in order.

    Frames at one position along the normal but shifted sideways count as one position; the grid
    refuses them.
    """
    ordered, along = sorted_along_normal(frames)
    if len(ordered) == 1:
        return [ordered]
    gaps = np.diff(along)
    limit = same_position_mm(gaps)
    columns = [[ordered[0]]]
    for frame, gap in zip(ordered[1:], gaps, strict=True):
        if gap <= limit:
            columns[-1].append(frame)
        else:
            columns.append([frame])
    return columns


def _by_exact_keys(
    frames: Sequence[Frame], columns: list[list[Frame]]
) -> tuple[str, list[list[Frame]]] | None:
    """Splits by one stated element, or by a few together, so that each position occurs once per
    group.
    """
    most = len(columns[0])
    varying = [key for key in (*EXACT_KEYS, "DimensionIndexValues") if _varies(columns[0], key)]
    useful: list[str] = []
    reached = 1
    for key in varying:
        # An element that differs everywhere orders the files but separates no volumes.
        trial = [*useful, key]
        groups = _groups(frames, trial)
        if len(groups) > most or any(len(group) % len(columns) for group in groups.values()):
            continue
        if len(groups) > reached:
            useful, reached = trial, len(groups)
        if reached == most and all(len(_positions(g)) == len(columns) for g in groups.values()):
            ordered = [groups[value] for value in sorted(groups, key=_sort_key)]
            return " and ".join(dict.fromkeys(_NAMES[k] for k in useful)), ordered
    return None


def _by_order(columns: list[list[Frame]]) -> tuple[str, list[list[Frame]]] | None:
    """The n-th volume is the n-th in time at every position."""
    for key in ORDER_KEYS:
        # Slices whose positions were lost have clock times of their own too; a phase they have not.
        if len(columns) == 1 and key not in PHASE_KEYS:
            continue
        values = [[frame.keys.get(key) for frame in column] for column in columns]
        if any(value is None for row in values for value in row):
            continue
        if any(len(set(row)) != len(row) for row in values):
            continue
        ranked = [sorted(column, key=lambda frame: float(frame.keys[key])) for column in columns]
        return _NAMES[key], [list(group) for group in zip(*ranked, strict=True)]
    return None


def _interleaved(frames: list[Frame]) -> list[Part] | None:
    """Volumes whose equal lattices interleave, told apart by an element of `_INTERLEAVING_KEYS`.

    Groups that lie one behind the other, as in a step-and-shoot scan, are one volume.
    """
    for key in _INTERLEAVING_KEYS:
        groups = list(_groups(frames, [key]).items())
        sizes = {len(group) for _, group in groups}
        if len(groups) < 2 or len(sizes) != 1 or min(sizes) < 2:
            continue
        stacks = []
        for _, group in groups:
            _, along = sorted_along_normal(group)
            gaps = np.diff(along)
            spacing = float(np.median(gaps))
            stacks.append((along[0], along[-1], spacing, float(np.abs(gaps - spacing).max())))
        spacing = stacks[0][2]
        even = all(
            abs(s[2] - spacing) <= tolerance_mm(spacing) and s[3] <= 2 * tolerance_mm(spacing)
            for s in stacks
        )
        spans = sorted((s[0], s[1]) for s in stacks)
        overlap = all(later[0] < earlier[1] for earlier, later in pairwise(spans))
        if even and overlap:
            ordered = [group for _, group in sorted(groups, key=lambda item: _sort_key(item[0]))]
            return [
                Part(tuple(group), f"{_NAMES[key]} {n + 1} of {len(ordered)}")
                for n, group in enumerate(ordered)
            ]
    return None


def _split_exact(frames: Sequence[Frame], key: str) -> list[list[Frame]]:
    groups = _groups(frames, [key])
    return [groups[value] for value in sorted(groups, key=_sort_key)]


def _groups(frames: Sequence[Frame], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Frame]]:
    groups: dict[tuple[Any, ...], list[Frame]] = {}
    for frame in frames:
        groups.setdefault(tuple(frame.keys.get(key, "") for key in keys), []).append(frame)
    return groups


def _varies(frames: Sequence[Frame], key: str) -> bool:
    return len({frame.keys.get(key) for frame in frames}) > 1


def _sort_key(values: tuple[Any, ...]) -> tuple[tuple[int, float, str], ...]:
    """Numbers in order of size before other text."""
    parts: list[tuple[int, float, str]] = []
    for value in values:
        try:
            parts.append((0, float(value), ""))
        except (TypeError, ValueError):
            parts.append((1, 0.0, str(value)))
    return tuple(parts)


def _unexplained(where: str, what: str) -> InputError:
    return GeometryError(
        where,
        f"{what}, and no time, acquisition, echo or b-value in the headers separates them into "
        "volumes",
        "send one volume per series, or remove what was sent twice",
        code="E_DUPLICATE_POSITION",
    )
