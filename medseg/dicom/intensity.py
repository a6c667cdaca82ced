"""Stored values to modality values: rescale, modality table, padding, inversion, standardised
uptake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medseg.core.errors import InputError
from medseg.dicom.frames import Frame
from medseg.dicom.parse import Header
from medseg.dicom.pixels import PixelFormat
from medseg.dicom.values import bad_value, missing, number_of, text_of

# What fills voxels outside the scanner's field of view: air for CT; other modalities have no value
# below zero.
_PADDING_HU = -1024


@dataclass(frozen=True, eq=False)
class Intensity:
    """How stored values of one frame become modality values: value * slope + intercept, or a table.

    Args:
        slope, intercept: of the frame, `factor` included.
        padding: stored values from, to (inclusive) that mark voxels without measurement; None if
            none do.
        padding_value: modality value that such voxels get.
        inverted_from: stored value that becomes 0 when an image is inverted; None leaves it.
        table: first stored value and modality values of a Modality LUT; None if the rescale is
            linear.
    """

    slope: float
    intercept: float
    padding: tuple[int, int] | None
    padding_value: float
    inverted_from: int | None = None
    table: tuple[int, NDArray[Any]] | None = None

    @property
    def is_integral(self) -> bool:
        """True if whole stored values give whole modality values."""
        return self.slope == int(self.slope) and self.intercept == int(self.intercept)

    def bounds(self, form: PixelFormat) -> tuple[float, float]:
        """Smallest and largest modality value that the stored bits allow."""
        if self.table is not None:
            return float(self.table[1].min()), float(self.table[1].max())
        ends = [value * self.slope + self.intercept for value in form.range]
        return min(ends), max(ends)


def intensity_of(frame: Frame, form: PixelFormat, *, factor: float = 1.0) -> Intensity:
    """The mapping for one frame.

    Args:
        frame: the frame.
        form: its pixel format.
        factor: multiplies modality values, as for standardised uptake.
    """
    header = frame.header
    is_ct = header.text("Modality") == "CT"
    inverted_from = None
    # Grey in an X-ray means attenuation; in a volume the numbers are measurements and are never
    # inverted.
    if frame.is_projection and form.photometric == "MONOCHROME1":
        inverted_from = form.range[0] + form.range[1]
    return Intensity(
        slope=frame.slope * factor,
        intercept=frame.intercept * factor,
        padding=None if form.is_float or form.channels > 1 else _padding(header, form),
        padding_value=_PADDING_HU if is_ct else 0.0,
        inverted_from=inverted_from,
        table=None if frame.has_rescale else _modality_table(header),
    )


def choose_dtype(intensities: Sequence[Intensity], forms: Sequence[PixelFormat]) -> np.dtype[Any]:
    """int16 where whole values are certain to fit or, for 16 stored bits, may; else float32 (int32
    if exact).
    """
    if any(form.is_float for form in forms):
        return np.dtype(np.float32)
    if not all(item.is_integral and item.table is None for item in intensities):
        return np.dtype(np.float32)
    if all(form.bits_stored <= 16 for form in forms):
        return np.dtype(np.int16)
    ends = [item.bounds(form) for item, form in zip(intensities, forms, strict=True)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return np.dtype(np.int32 if low >= -(2**31) and high < 2**31 else np.float32)


def apply_intensity(
    stored: NDArray[Any], intensity: Intensity, *, out: NDArray[Any], where: str
) -> bool:
    """Writes modality values of one frame into `out`; False if they do not fit its type.

    Args:
        stored: integers or floats, any shape.
        intensity: the mapping.
        out: same shape; int16, int32 or float32.
        where: what messages call the frame.

    Raises:
        InputError: a value is not finite.
    """
    padded: NDArray[np.bool_] | None = None
    if intensity.padding is not None:
        first, last = intensity.padding
        padded = (stored >= first) & (stored <= last)
    if intensity.inverted_from is not None:
        stored = intensity.inverted_from - stored.astype(np.int64)
    if intensity.table is not None:
        first_value, table = intensity.table
        out[...] = table[np.clip(stored.astype(np.int64) - first_value, 0, len(table) - 1)]
    elif out.dtype.kind == "i":
        if not _add_whole(stored, intensity, out):
            return False
    else:
        np.multiply(stored, intensity.slope, out=out, casting="unsafe", dtype=np.float64)
        out += out.dtype.type(intensity.intercept)
        if not np.isfinite(out).all():
            raise InputError(
                where,
                "holds values that are not finite numbers",
                "export the series again",
                code="E_BAD_VALUE",
            )
    if padded is not None:
        out[padded] = intensity.padding_value
        if intensity.padding_value == _PADDING_HU:
            # Lossy compression smears the padding of CT; nothing measured lies below air.
            np.maximum(out, out.dtype.type(_PADDING_HU), out=out)
    return True


def _add_whole(stored: NDArray[Any], intensity: Intensity, out: NDArray[Any]) -> bool:
    slope, intercept = int(intensity.slope), int(intensity.intercept)
    limits: DTypeLike = out.dtype
    ends = [int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept]
    bounds = np.iinfo(limits)
    if min(ends) < bounds.min or max(ends) > bounds.max:
        return False
    if slope == 1 and bounds.min <= intercept <= bounds.max:
        # Unsigned values wrap to the right result: both ends fit, and addition is modulo 2^n.
        np.add(stored.astype(out.dtype, copy=False), out.dtype.type(intercept), out=out)
    else:
        out[...] = stored.astype(np.int64) * slope + intercept
    return True


def _padding(header: Header, form: PixelFormat) -> tuple[int, int] | None:
    if not header.has("PixelPaddingValue"):
        return None
    ends = [_as_stored(header.integer("PixelPaddingValue"), form)]
    if header.has("PixelPaddingRangeLimit"):
        ends.append(_as_stored(header.integer("PixelPaddingRangeLimit"), form))
    return min(ends), max(ends)


def _as_stored(value: int, form: PixelFormat) -> int:
    """A 16-bit element whose sign the reader may not have known, as a stored value."""
    bits = max(16, form.bits_allocated)
    value &= (1 << bits) - 1
    if form.is_signed and value >> (bits - 1):
        value -= 1 << bits
    return value


def _modality_table(header: Header) -> tuple[int, NDArray[Any]] | None:
    """First stored value and values of the Modality LUT, if there is one (PS3.3 C.11.1)."""
    if not header.has("ModalityLUTSequence"):
        return None
    try:
        item = header.dataset.ModalityLUTSequence[0]
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        values = item.LUTData
        table = np.frombuffer(values, "<u2") if isinstance(values, bytes) else np.array(values)
    except Exception:
        raise bad_value(
            header.name, "ModalityLUTSequence", "not readable", "must be a table"
        ) from None
    count = count or 1 << 16
    if table.ndim != 1 or table.size < count or bits not in range(8, 17):
        raise bad_value(
            header.name, "ModalityLUTSequence", f"of {table.size} values", f"must hold {count}"
        )
    if header.integer("PixelRepresentation", 0) == 1 and first >= 1 << 15:
        first -= 1 << 16
    return first, table[:count].astype(np.float32)


# --- standardised uptake value ---


def suv_factor(frames: Sequence[Frame], *, where: str) -> float:
    """Factor from Bq/ml, decay-corrected to the start of the scan, to SUV by body weight (g/ml).

    weight in grams / (injected dose, decayed from injection to the series' time). One factor for a
    series.

    Raises:
        InputError: units, weight, dose, half-life or times are missing or not of the kind this
            formula is for.

    Source: QIBA, "SUV vendor-neutral pseudo-code" (happy path).
    """
    header = frames[0].header
    if header.text("Units") != "BQML":
        raise _no_suv(where, f"Units is '{header.text('Units')}', not BQML")
    if header.text("DecayCorrection") != "START":
        raise _no_suv(where, f"DecayCorrection is '{header.text('DecayCorrection')}', not START")
    corrections = set(header.text("CorrectedImage").split("\\"))
    if not {"ATTN", "DECY"} <= corrections:
        raise _no_suv(where, "CorrectedImage does not hold ATTN and DECY")
    weight_kg = header.number("PatientWeight")
    if weight_kg <= 0:
        raise bad_value(where, "PatientWeight", weight_kg, "must be positive")
    sequence = header.dataset.get("RadiopharmaceuticalInformationSequence")
    if not sequence:
        raise missing(where, "RadiopharmaceuticalInformationSequence")
    item = sequence[0]
    dose_bq = number_of(item, "RadionuclideTotalDose", where=where)
    half_life_s = number_of(item, "RadionuclideHalfLife", where=where)
    if dose_bq <= 0 or half_life_s <= 0:
        raise bad_value(
            where, "RadionuclideTotalDose or RadionuclideHalfLife", 0, "must be positive"
        )
    scan = _moment(header.text("SeriesDate"), header.text("SeriesTime"), where, "SeriesTime")
    stated = text_of(item, "RadiopharmaceuticalStartDateTime", where=where)
    if stated:
        injection = _moment(stated[:8], stated[8:], where, "RadiopharmaceuticalStartDateTime")
    else:
        clock = text_of(item, "RadiopharmaceuticalStartTime", where=where)
        injection = _moment(header.text("SeriesDate"), clock, where, "RadiopharmaceuticalStartTime")
        if injection > scan:
            injection -= timedelta(days=1)
    elapsed_s = (scan - injection).total_seconds()
    if not 0 <= elapsed_s < 24 * 3600:
        raise _no_suv(where, f"the scan starts {elapsed_s / 3600:.1f} h after the injection")
    decayed_bq = dose_bq * 2.0 ** (-elapsed_s / half_life_s)
    return weight_kg * 1000.0 / decayed_bq


def _moment(date: str, clock: str, where: str, keyword: str) -> datetime:
    if not date or not clock:
        raise missing(where, keyword if date else "SeriesDate")
    digits = clock.split(".")[0].split("+")[0].split("-")[0].ljust(6, "0")[:6]
    try:
        return datetime.strptime(date[:8] + digits, "%Y%m%d%H%M%S")
    except ValueError:
        raise bad_value(where, keyword, "not a time", "must be a date and time") from None


def _no_suv(where: str, what: str) -> InputError:
    return InputError(
        where,
        f"standardised uptake cannot be computed: {what}",
        "read it in stored units (suv=false), or export it in Bq/ml with decay correction to the "
        "start",
        code="E_SUV",
    )
