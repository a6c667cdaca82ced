"""Series to Volume: pixels of an indexed series streamed into one array, on one grid in RAS
millimetres.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError, raise_all
from medseg.core.identity import SeriesRef
from medseg.core.volume import Volume
from medseg.dicom.frames import Frame, projection_spacing
from medseg.dicom.headers import FoundVolume, found_volume, index_folder
from medseg.dicom.intensity import (
    Intensity,
    apply_intensity,
    choose_dtype,
    intensity_of,
    suv_factor,
)
from medseg.dicom.lattice import Lattice
from medseg.dicom.parse import Header, quiet
from medseg.dicom.pixels import PixelFormat, check_pixels, read_frames
from medseg.dicom.tilt import straighten, upright_geometry

_log = logging.getLogger(__name__)

# 512 x 512 x 3800 voxels of int16; a larger series is refused before anything is allocated.
MAX_VOLUME_BYTES = 2_000_000_000


def read_dicom_volumes(
    path: str | Path,
    *,
    on_gap: str = "refuse",
    on_tilt: str = "resample",
    trust_positions: bool = False,
) -> list[Volume]:
    """Every DICOM volume at or below a file, folder, ZIP archive or DICOMDIR.

    Series that are refused while others can be read are logged as warnings.

    Args:
        path: where to look.
        on_gap: "refuse" a series with missing slices, or "resample" to interpolate them.
        on_tilt: "resample" a leaning stack onto an orthogonal grid, "keep" it, or "refuse".
        trust_positions: take positions as comparable although FrameOfReferenceUID differs within a
            series.

    Raises:
        InputError: nothing can be read rightly; says why for each series.
    """
    index = index_folder(path, on_gap=on_gap, trust_positions=trust_positions)
    volumes: list[Volume] = []
    refused = list(index.refused)
    for found in index.volumes:
        try:
            volumes.append(read_found(found, on_tilt=on_tilt))
        except InputError as error:
            refused.append(error)
    if volumes:
        for refusal in refused:
            _log.warning("left out, %s: %s", refusal.code, refusal)
        return volumes
    raise_all(refused, where=str(path), what="series cannot be read")
    reasons = sorted({item.reason.removeprefix("is ") for item in index.left_out})
    raise InputError(
        path,
        "holds no DICOM image" + (f" (found: {'; '.join(reasons[:5])})" if reasons else ""),
        "give a folder, file, ZIP archive or DICOMDIR with DICOM images",
        code="E_NO_IMAGES",
    )


def read_series(
    series: SeriesRef,
    *,
    on_gap: str = "refuse",
    on_tilt: str = "resample",
    suv: bool = False,
    trust_positions: bool = False,
) -> Volume:
    """One series as a volume.

    Args:
        series: its files, in any order; all must belong to one volume.
        on_gap: "refuse" a series with missing slices, or "resample" to interpolate them.
        on_tilt: "resample" a leaning stack onto an orthogonal grid, "keep" it, or "refuse".
        suv: for PET in Bq/ml, give standardised uptake values by body weight.
        trust_positions: take positions as comparable although FrameOfReferenceUID differs within
            the series.

    Raises:
        InputError: a file is missing, broken or contradicts the others.
    """
    return read_found(
        found_volume(series, on_gap=on_gap, trust_positions=trust_positions),
        on_tilt=on_tilt,
        suv=suv,
    )


@quiet()
def read_found(found: FoundVolume, *, on_tilt: str = "resample", suv: bool = False) -> Volume:
    """The pixels of an indexed volume; arguments as in `read_series`."""
    if on_tilt not in ("resample", "keep", "refuse"):
        raise InputError(
            "on_tilt", f"is '{on_tilt}'", "use 'resample', 'keep' or 'refuse'", code="E_OPTION"
        )
    lattice = found.lattice
    where = str(lattice.frames[0].header.name)
    if lattice.is_tilted and on_tilt == "refuse":
        raise GeometryError(
            where,
            f"slices lean by {lattice.tilt_degrees:.1f} degrees (gantry tilt)",
            "set on_tilt=resample to read it on an orthogonal grid",
            code="E_TILT",
        )
    try:
        array, notes = _read_stack(lattice, where, suv=suv)
        geometry = lattice.geometry
        if lattice.is_tilted and on_tilt == "resample":
            upright = upright_geometry(geometry)
            outside = -1024.0 if found.series.modality == "CT" else 0.0
            array = straighten(array, geometry, upright, outside=min(outside, float(array.min())))
            geometry = upright
            notes.append("resampled onto an orthogonal grid")
    except MemoryError:
        raise InputError(
            where,
            "needs more memory than there is",
            "read it on a larger machine",
            code="E_TOO_LARGE",
        ) from None
    notes = [*lattice.notes, *([found.name] if found.name else []), *notes]
    return Volume(array, geometry, found.series.modality, tuple(notes))


def _read_stack(lattice: Lattice, where: str, *, suv: bool) -> tuple[NDArray[Any], list[str]]:
    """Modality values of all frames, shape (C, I, J, K), and notes."""
    frames = lattice.frames
    files = {id(frame.header): frame.header for frame in frames}
    forms = {key: check_pixels(header) for key, header in files.items()}
    factor, notes = 1.0, []
    if suv:
        factor = suv_factor(frames, where=where)
        notes.append(f"standardised uptake by body weight: Bq/ml times {factor:.6g}")
    per_frame = [forms[id(frame.header)] for frame in frames]
    mappings = [
        intensity_of(f, form, factor=factor) for f, form in zip(frames, per_frame, strict=True)
    ]
    if len({header.text("FrameOfReferenceUID") for header in files.values()}) > 1:
        notes.append("frames of reference differ between slices; their positions were trusted")
    notes += _notes(frames[0], per_frame[0], mappings)
    channels = per_frame[0].channels
    if channels == 3:
        is_deep = per_frame[0].bits_allocated > 8 or per_frame[0].samples == 1
        dtype = np.dtype(np.float32 if is_deep else np.uint8)
    else:
        dtype = choose_dtype(mappings, per_frame)
    columns, rows, num_slices = lattice.geometry.shape
    _check_size(channels * rows * columns * num_slices * dtype.itemsize, where)
    slots = _slots(lattice)
    while True:
        layers = np.empty((channels, num_slices, rows, columns), dtype)
        if _fill(layers, frames, slots, forms, mappings):
            break
        # Values beyond int16 turned up (16 stored bits may or may not use their range).
        dtype = np.dtype(np.float32)
        _check_size(layers.size * dtype.itemsize, where)
    for before, count in lattice.missing:
        _interpolate(layers, slots[before], count)
    return layers.transpose(0, 3, 2, 1), notes


def _fill(
    layers: NDArray[Any],
    frames: Sequence[Frame],
    slots: Sequence[int],
    forms: dict[int, PixelFormat],
    mappings: Sequence[Intensity],
) -> bool:
    """Decodes all frames into `layers` (C, K, J, I), a file per thread; False if a value does not
    fit.
    """
    by_file: dict[int, list[int]] = {}
    for n, frame in enumerate(frames):
        by_file.setdefault(id(frame.header), []).append(n)

    def read_file(members: list[int]) -> bool:
        header = frames[members[0]].header
        form = forms[id(header)]
        images = read_frames(header, form, [frames[n].number for n in members])
        for n, stored in zip(members, images, strict=True):
            out = layers[:, slots[n]]
            if form.channels == 3:
                out[...] = np.moveaxis(stored, -1, 0)
            elif not apply_intensity(stored, mappings[n], out=out[0], where=frames[n].name):
                return False
        return True

    workers = min(8, len(by_file), os.cpu_count() or 1)
    if workers == 1:
        return all(read_file(members) for members in by_file.values())
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(read_file, members) for members in by_file.values()]
        try:
            return all(task.result() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()


def _slots(lattice: Lattice) -> list[int]:
    """Index along k of each frame; numbers jump where slices are missing."""
    jumps = dict(lattice.missing)
    slots, k = [], 0
    for n in range(len(lattice.frames)):
        slots.append(k)
        k += 1 + jumps.get(n, 0)
    return slots


def _interpolate(layers: NDArray[Any], before: int, count: int) -> None:
    """Fills `count` slices after `before` linearly between their neighbours."""
    low = layers[:, before].astype(np.float32)
    high = layers[:, before + count + 1].astype(np.float32)
    for n in range(1, count + 1):
        values = low + (high - low) * (n / (count + 1))
        layers[:, before + n] = np.rint(values) if layers.dtype.kind in "iu" else values


def _notes(frame: Frame, form: PixelFormat, mappings: Sequence[Intensity]) -> list[str]:
    notes = []
    header: Header = frame.header
    if form.photometric == "MONOCHROME1":
        notes.append(
            "MONOCHROME1: inverted, so that high values are bright"
            if mappings[0].inverted_from is not None
            else "MONOCHROME1: values kept as measured, not inverted"
        )
    if frame.is_projection:
        keyword = projection_spacing(header)[1]
        notes.append("2D image without a place in the patient")
        notes.append(
            f"pixel spacing from {keyword}" if keyword else "no pixel spacing: 1 pixel counts 1 mm"
        )
    elif (
        not frame.has_rescale
        and mappings[0].table is None
        and frame.header.text("Modality") == "CT"
    ):
        notes.append("no RescaleSlope and RescaleIntercept: stored values taken as they are")
    if any(mapping.padding is not None for mapping in mappings):
        notes.append(f"padding (PixelPaddingValue) set to {mappings[0].padding_value:g}")
    return notes


def _check_size(size: int, where: str) -> None:
    if size > MAX_VOLUME_BYTES:
        raise InputError(
            where,
            f"would take {size / 1e9:.1f} GB, more than the limit of {MAX_VOLUME_BYTES / 1e9:.1f} "
            "GB",
            "split the series, or check its Rows, Columns and NumberOfFrames",
            code="E_TOO_LARGE",
        )
