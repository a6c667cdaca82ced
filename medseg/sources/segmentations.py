"""Segmentations that any tool drew, DICOM SEG and RTSTRUCT, as label maps on a series' grid.

Voxels are placed by position in the patient, never by frame number, and never resampled but to
follow a gantry tilt that reading the series straightens too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Geometry
from medseg.core.identity import SeriesRef
from medseg.core.labels import Label
from medseg.core.segmentation import LabelMap
from medseg.core.segments import (
    OnOverlap,
    Segment,
    SegmentSet,
    joined,
    segment_of,
    unique_names,
)
from medseg.dicom.colour import rgb_of
from medseg.dicom.contours import fill_contour
from medseg.dicom.headers import FoundVolume, found_volume, index_folder
from medseg.dicom.parse import quiet
from medseg.dicom.rtstruct_file import RT_STRUCTURE_SET, RtStructFile, read_rtstruct_file
from medseg.dicom.seg_file import SegFile, SegFrame, SegmentFacts, read_seg_file
from medseg.dicom.tilt import restore_labels, upright_geometry

# How far a frame's voxels may lie from those of the grid, in voxels. Tools round positions to
# about 0.01 mm; a tenth of a voxel is far below what changes which voxel is meant.
_MAX_OFF_VOXELS = 0.1
# Contours are drawn on slices; one further off than this lies between two of them.
_MAX_OFF_SLICES = 0.25


def read_segmentation(
    path: str | Path,
    *,
    source: SeriesRef | FoundVolume | Geometry | str | Path | None = None,
    on_overlap: OnOverlap = "refuse",
    threshold: float = 0.5,
    trust_positions: bool = False,
) -> LabelMap:
    """A DICOM SEG or RTSTRUCT as a label map.

    Class numbers are the file's segment or region numbers. `read_segments` keeps segments
    that overlap apart.

    Args:
        path: the file.
        source: the series it was drawn on, as a SeriesRef, as found by the index, or as a file or
            folder to look in, or a grid. Without it a SEG comes on its own grid; an RTSTRUCT has
            none, so it needs one.
        on_overlap: what voxels of several segments become: see `SegmentSet.label_map`.
        threshold: share from which a voxel of a FRACTIONAL segment counts, in (0, 1].
        trust_positions: accept a source in another frame of reference.

    Returns:
        On the grid that reading the source gives.

    Raises:
        InputError: the file cannot be read, or does not belong to the source.
        GeometryError: its voxels lie between or outside those of the source.
        LabelError: segments overlap.
    """
    found = read_segments(path, source=source, threshold=threshold, trust_positions=trust_positions)
    return found.label_map(on_overlap=on_overlap)


def read_segments(
    path: str | Path,
    *,
    source: SeriesRef | FoundVolume | Geometry | str | Path | None = None,
    threshold: float = 0.5,
    trust_positions: bool = False,
) -> SegmentSet:
    """All segments of a DICOM SEG or RTSTRUCT, each by itself; see `read_segmentation`."""
    if _is_structure_set(Path(path)):
        structures = read_rtstruct_file(path)
        if source is None:
            raise InputError(
                path,
                "is a structure set, whose contours have no voxels",
                "give the series it was drawn on as source",
                code="E_NEEDS_SOURCE",
            )
        grid = _grid(source, structures.series_uids, str(path))
        if not trust_positions:
            _check_frame(
                grid, structures.frame_of_reference_uids, structures.series_uids, str(path)
            )
        return _on_reading_grid(_fill(structures, grid.geometry, str(path)), grid)
    file = read_seg_file(path)
    if source is None:
        return _place(file, own_grid(file), threshold)
    grid = _grid(source, file.series_uids, str(path))
    if not trust_positions:
        frames = (file.frame_of_reference_uid,) if file.frame_of_reference_uid else ()
        _check_frame(grid, frames, file.series_uids, str(path))
    return _on_reading_grid(_place(file, grid.geometry, threshold), grid)


def own_grid(file: SegFile) -> Geometry:
    """The grid that a segmentation's frames form, with slices for the frames that it omits.

    Raises:
        GeometryError: frames differ in direction, or their positions form no regular stack.
    """
    where = str(file.path)
    affines = [frame.affine for frame in file.frames if frame.affine is not None]
    if not affines:
        flat = np.diag([-1.0, -1.0, 1.0, 1.0])
        return Geometry((*file.shape, 1), flat)
    first = affines[0]
    if any(np.abs(other[:3, :3] - first[:3, :3]).max() > 1e-3 for other in affines):
        raise GeometryError(
            where, "its frames point in several directions", "give the series it was drawn on"
        )
    positions = np.array([affine[:3, 3] for affine in affines])
    along = positions @ first[:3, 2]
    unique = np.unique(np.round(along, 4))
    steps = np.diff(unique)
    stated = file.slice_spacing_mm
    spacing = float(steps.min()) if steps.size else float(stated or file.thickness_mm or 1.0)
    # Where every second frame is omitted, only the stated spacing tells.
    if steps.size and stated and _all_multiples(steps, stated):
        spacing = stated
    if not _all_multiples(steps, spacing):
        raise GeometryError(
            where,
            f"its frames lie {steps.min():.3f} to {steps.max():.3f} mm apart, which is no multiple "
            f"of {spacing:.3f} mm",
            "give the series it was drawn on as source",
        )
    affine = first.copy()
    # The stack may lean, so the step is taken between the two outermost frames.
    low, high = int(along.argmin()), int(along.argmax())
    count = round(float(along[high] - along[low]) / spacing) + 1
    step = first[:3, 2] * spacing
    if count > 1:
        step = (positions[high] - positions[low]) / (count - 1)
    affine[:3, 2] = step
    affine[:3, 3] = positions[low]
    return Geometry((*file.shape, count), affine)


def _all_multiples(steps: NDArray[np.float64], spacing: float) -> bool:
    """True if every step is a whole number of spacings, to a fiftieth."""
    return bool(np.abs(steps / spacing - np.rint(steps / spacing)).max(initial=0.0) < 0.02)


class _Grid:
    """The grid of a source: as acquired, and as reading it gives."""

    def __init__(self, geometry: Geometry, found: FoundVolume | None = None) -> None:
        self.geometry = geometry
        self.frame_of_reference_uid = found.series.frame_of_reference_uid if found else ""
        self.series_uid = found.series.series_uid if found else ""
        self.is_tilted = found is not None and found.lattice.is_tilted


def _grid(
    source: SeriesRef | FoundVolume | Geometry | str | Path, uids: tuple[str, ...], where: str
) -> _Grid:
    if isinstance(source, Geometry):
        return _Grid(source)
    if isinstance(source, FoundVolume):
        return _Grid(source.geometry, source)
    if isinstance(source, SeriesRef):
        found = found_volume(source, on_gap="resample", trust_positions=True)
        return _Grid(found.geometry, found)
    volumes = list(index_folder(source, on_gap="resample", trust_positions=True).volumes)
    referenced = [volume for volume in volumes if volume.series.series_uid in uids]
    chosen = referenced or volumes
    if len(chosen) != 1:
        raise InputError(
            where,
            f"refers to {'one of' if uids else 'no'} series, and {source} holds {len(volumes)} "
            f"volumes, {len(referenced)} of them referenced",
            "give the folder of the one series it was drawn on",
            code="E_SOURCE",
        )
    return _Grid(chosen[0].geometry, chosen[0])


def _check_frame(
    grid: _Grid, frames: tuple[str, ...], series_uids: tuple[str, ...], where: str
) -> None:
    # A file that refers to this very series shares its coordinates, whatever frame it states:
    # some tools make up a frame of reference for every structure set.
    if grid.series_uid in series_uids or not grid.frame_of_reference_uid:
        return
    if frames and grid.frame_of_reference_uid not in frames:
        raise InputError(
            where,
            "was drawn in another frame of reference than that of the source series",
            "give the series it was drawn on, or set trust_positions if both share coordinates",
            code="E_FRAME_OF_REFERENCE",
        )


def _on_reading_grid(found: SegmentSet, grid: _Grid) -> SegmentSet:
    """Segments of a leaning stack moved to the upright grid, as reading the series does."""
    if not grid.is_tilted:
        return found
    upright = upright_geometry(grid.geometry)
    segments = []
    for segment in found.segments:
        whole = np.zeros(grid.geometry.shape, np.uint8)
        whole[segment.box] = segment.mask
        moved = restore_labels(LabelMap(whole, grid.geometry), upright).array > 0
        segments.append(segment_of(segment.label, moved, tracking_uid=segment.tracking_uid))
    notes = (*found.notes, "moved onto the upright grid of a tilted series")
    return SegmentSet(found.where, upright, tuple(segments), notes)


def _place(file: SegFile, geometry: Geometry, threshold: float) -> SegmentSet:
    """Frames to segments on a grid."""
    if not 0 < threshold <= 1:
        raise InputError("threshold", f"is {threshold}", "use a share above 0 and up to 1")
    where = str(file.path)
    facts_of = {facts.number: facts for facts in file.segments}
    names = unique_names([facts.label for facts in file.segments])
    labels = {f.number: _label(f, name) for f, name in zip(file.segments, names, strict=True)}
    pieces: dict[int, list[Segment]] = {number: [] for number in facts_of}
    for index, (frame, plane) in enumerate(zip(file.frames, file.planes(), strict=True)):
        name = f"{where}, frame {index + 1}"
        for number, mask in _masks_of(file, frame, plane, threshold):
            if number not in facts_of:
                raise InputError(
                    name,
                    f"has voxels of segment {number}, which the object does not describe",
                    "export the segmentation again",
                    code="E_SEGMENT",
                )
            if mask.any():
                start, block = _block(mask.T, frame, geometry, name)
                pieces[number].append(Segment(labels[number], start, block))
    segments = tuple(
        joined(labels[number], pieces[number], tracking_uid=facts.tracking_uid)
        for number, facts in facts_of.items()
    )
    return SegmentSet(where, geometry, segments)


def _masks_of(
    file: SegFile, frame: SegFrame, plane: NDArray[Any], threshold: float
) -> list[tuple[int, NDArray[np.bool_]]]:
    if file.kind == "LABELMAP":
        numbers = [int(n) for n in np.unique(plane) if n not in (0, file.background)]
        return [(number, np.asarray(plane == number)) for number in numbers]
    if file.kind == "FRACTIONAL":
        return [(frame.segment, np.asarray(plane >= threshold * file.full))]
    return [(frame.segment, np.asarray(plane > 0))]


def _block(
    mask: NDArray[np.bool_], frame: SegFrame, geometry: Geometry, where: str
) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
    """One frame's voxels, given as (columns, rows), as a box of the grid and its first voxel."""
    if frame.affine is None:
        if geometry.shape != (*mask.shape, 1):
            raise GeometryError(
                where,
                f"has {mask.shape} pixels and no position, the source has {geometry.shape}",
                "give the image it was drawn on",
            )
        return (0, 0, 0), mask[..., None]
    columns, rows = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (c0, c1), (r0, r1) = (columns[0], columns[-1]), (rows[0], rows[-1])
    corners = np.array([(c0, r0), (c1, r0), (c0, r1), (c1, r1)])
    indices = geometry.to_index(corners @ frame.affine[:3, :2].T + frame.affine[:3, 3])
    steps = np.linalg.solve(geometry.affine[:3, :3], frame.affine[:3, :2])
    axes = np.abs(steps).argmax(axis=0)
    off = float(np.abs(indices - np.rint(indices)).max())
    if (
        off > _MAX_OFF_VOXELS
        or axes[0] == axes[1]
        or np.abs(np.abs(steps).max(axis=0) - 1).max() > 0.1
    ):
        raise GeometryError(
            where,
            f"has voxels that are not those of the source ({off:.2f} of a voxel off)",
            "read it without source, on its own grid, and resample it there",
            code="E_GRID",
        )
    low, high = np.rint(indices.min(axis=0)).astype(int), np.rint(indices.max(axis=0)).astype(int)
    if low.min() < 0 or (high >= geometry.shape).any():
        raise GeometryError(
            where,
            "has voxels outside the source series",
            "give the series it was drawn on",
            code="E_OUTSIDE",
        )
    block = mask[c0 : c1 + 1, r0 : r1 + 1]
    backwards = tuple(axis for axis in range(2) if steps[axes[axis], axis] < 0)
    block = np.flip(block, backwards) if backwards else block
    order = [int(axes[0]), int(axes[1]), 3 - int(axes[0]) - int(axes[1])]
    block = block[..., None].transpose(np.argsort(order))
    return (int(low[0]), int(low[1]), int(low[2])), block


def _label(facts: SegmentFacts, name: str) -> Label:
    colour = None if facts.lab is None else rgb_of(facts.lab)
    return Label(name, facts.number, facts.category, facts.type, colour)


def _fill(file: RtStructFile, geometry: Geometry, where: str) -> SegmentSet:
    """Contours to segments: voxels whose centre lies inside, holes by the even-odd rule."""
    names = unique_names([roi.name for roi in file.rois])
    # Region numbers may start at 0 or be huge; class numbers are then given in their order.
    numbers = [roi.number for roi in file.rois]
    is_plain = all(0 < number <= 65535 for number in numbers) and len(set(numbers)) == len(numbers)
    segments, notes = [], []
    for position, (roi, name) in enumerate(zip(file.rois, names, strict=True), start=1):
        mask = np.zeros(geometry.shape, np.bool_)
        for contour in roi.contours:
            points = geometry.to_index(contour)
            k = round(float(points[:, 2].mean()))
            if np.abs(points[:, 2] - k).max() > _MAX_OFF_SLICES:
                raise GeometryError(
                    f"{where}, region '{name}'",
                    f"has a contour {np.abs(points[:, 2] - k).max():.2f} of a slice off the slices",
                    "give the series it was drawn on",
                    code="E_CONTOUR_PLANE",
                )
            if not 0 <= k < geometry.shape[2]:
                raise GeometryError(
                    f"{where}, region '{name}'",
                    "has a contour outside the source series",
                    "give the series it was drawn on",
                    code="E_OUTSIDE",
                )
            mask[:, :, k] ^= fill_contour(points[:, :2], geometry.shape[:2])
        if roi.num_skipped:
            notes.append(f"{name}: {roi.num_skipped} points and open contours left out")
        label = Label(name, roi.number if is_plain else position, colour=roi.rgb)
        segments.append(segment_of(label, mask))
    if not is_plain:
        notes.append("regions numbered anew in their order")
    return SegmentSet(where, geometry, tuple(segments), tuple(notes))


def _is_structure_set(path: Path) -> bool:
    try:
        with quiet():
            header = dcmread(path, specific_tags=["SOPClassUID"], force=True)
            return str(header.get("SOPClassUID", "")) == RT_STRUCTURE_SET
    except OSError as error:
        raise InputError(
            path, f"cannot be read ({error.strerror})", "check the path", code="E_HEADER"
        ) from error
    except Exception:  # pydicom raises many types on corrupt bytes; the SEG reader says which
        return False
