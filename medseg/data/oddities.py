"""What stands out in a data set: cases unlike the others, and images that are in it twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import MAX_LISTED, InputError
from medseg.core.labels import LabelSet
from medseg.data.case_facts import CaseFingerprint
from medseg.data.split import Split

SPACING_RATIO = 2.0
"""A spacing this many times the median or its inverse is resampled beyond recognition."""
EXTENT_RATIO = 3.0
"""Likewise for the physical size of the image: another body region, or a crop."""
DEVIATIONS = 6.0
"""Robust standard deviations from the median from which an intensity stands out: less than one
case in a million of a normal distribution.
"""
CT_TOLERANCE_HU = 100.0
"""CT cases nearer than this to the median are alike, however narrow the distribution."""
MAX_SHARE = 0.1
"""Intensities in arbitrary units that more cases than this share have are no exception."""


@dataclass(frozen=True)
class Oddity:
    """Cases that differ from the others in one way.

    Args:
        what: in which way, as the end of the sentence "these cases ...".
        keys: the cases.
        remedy: what to look at.
    """

    what: str
    keys: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        shown = ", ".join(self.keys[:MAX_LISTED])
        more = f" and {len(self.keys) - MAX_LISTED} more" if len(self.keys) > MAX_LISTED else ""
        return f"{self.what}: {shown}{more}; {self.remedy}"


def find_oddities(
    cases: Sequence[CaseFingerprint], labels: LabelSet, split: Split, *, modality: str
) -> list[Oddity]:
    """Everything that a person should look at once before training.

    Args:
        cases: facts of all cases.
        labels: their classes.
        split: who trains and who is held back.
        modality: intensities are compared as they are for "CT", and by their order of magnitude
            for the others.
    """
    found = [
        *_duplicates(cases, split),
        *_spacings(cases),
        *_extents(cases),
        *_orientations(cases),
        *_intensities(cases, modality=modality),
        *_absent_classes(cases, labels),
    ]
    return [oddity for oddity in found if oddity.keys]


def refuse_leaks(cases: Sequence[CaseFingerprint], split: Split) -> None:
    """Raises InputError if an image held out for testing is also trained or validated on."""
    test = set(split.test)
    for group in _same_image(cases):
        held_out = [key for key in group if key in test]
        others = [key for key in group if key not in test]
        if held_out and others:
            raise InputError(
                "data.source",
                f"the image of {held_out[0]}, which is held out for testing, is also that of "
                f"{others[0]}, so the test would not show how well unseen images are segmented",
                "remove one of the two",
                code="E_DUPLICATE_IMAGE",
            )


def _same_image(cases: Sequence[CaseFingerprint]) -> list[list[str]]:
    by_hash: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        by_hash[case.image_hash].append(case.key)
    return [keys for image, keys in by_hash.items() if image and len(keys) > 1]


def _duplicates(cases: Sequence[CaseFingerprint], split: Split) -> list[Oddity]:
    validation = set(split.validation) - set(split.train)
    across: list[str] = []
    within: list[str] = []
    for keys in _same_image(cases):
        is_across = 0 < sum(key in validation for key in keys) < len(keys)
        (across if is_across else within).append(" = ".join(keys))
    return [
        Oddity(
            "ONE IMAGE IS TRAINED ON AND VALIDATED ON",
            tuple(across),
            "the scores will be too good; remove one of each, or give them one patient in a "
            "manifest",
        ),
        Oddity("the same image is there twice", tuple(within), "remove one of each"),
    ]


def _spacings(cases: Sequence[CaseFingerprint]) -> list[Oddity]:
    spacings = np.sort([case.spacing_mm for case in cases], axis=1)
    median = np.median(spacings, axis=0)
    far = (np.maximum(spacings / median, median / spacings) >= SPACING_RATIO).any(axis=1)
    shown = [
        f"{case.key} ({_numbers(case.spacing_mm)} mm)"
        for case, is_far in zip(cases, far, strict=True)
        if is_far
    ]
    return [
        Oddity(
            f"spacing far from the median of {_numbers(median)} mm",
            tuple(shown),
            "check the headers",
        )
    ]


def _extents(cases: Sequence[CaseFingerprint]) -> list[Oddity]:
    volumes = np.array([np.prod(case.shape) * np.prod(case.spacing_mm) for case in cases])
    median = float(np.median(volumes))
    limit = EXTENT_RATIO**3 if any(case.shape[2] > 1 for case in cases) else EXTENT_RATIO**2
    return [
        Oddity(
            f"field of view {EXTENT_RATIO:g} times {word} than the median along each axis",
            tuple(c.key for c, is_far in zip(cases, far, strict=True) if is_far),
            "check that they show the same region",
        )
        for word, far in (
            ("larger", volumes > limit * median),
            ("smaller", volumes * limit < median),
        )
    ]


def _orientations(cases: Sequence[CaseFingerprint]) -> list[Oddity]:
    counts = Counter(case.orientation for case in cases).most_common()
    usual, most = counts[0]
    if 2 * most < len(cases):  # nothing is usual
        return [
            Oddity(
                "orientations of all kinds",
                tuple(f"{codes} {count}" for codes, count in counts),
                "they are turned alike; check the headers if you expected one",
            )
        ]
    mirrored: dict[str, list[str]] = defaultdict(list)
    turned: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.orientation != usual:
            other = is_left_handed(case.orientation) != is_left_handed(usual)
            (mirrored if other else turned)[case.orientation].append(case.key)
    return [
        Oddity(
            f"orientation {codes}{note}, where most are {usual}",
            tuple(keys),
            "they are turned alike; check one if its header may be wrong",
        )
        for kind, note in ((mirrored, " (mirrored storage)"), (turned, ""))
        for codes, keys in kind.items()
    ]


def is_left_handed(orientation: str) -> bool:
    """True if the axes, taken as a system of their own, are a mirror image of R, A, S."""
    rows = np.zeros((3, 3))
    for axis, code in enumerate(orientation):
        rows[axis, "RAS".find(code) if code in "RAS" else "LPI".find(code)] = (
            1.0 if code in "RAS" else -1.0
        )
    return bool(np.linalg.det(rows) < 0)


def _intensities(cases: Sequence[CaseFingerprint], *, modality: str) -> list[Oddity]:
    found = []
    for channel in range(min(case.num_channels for case in cases)):
        rows = [case.intensity[channel] for case in cases]
        if modality == "CT":
            values = np.array([row[0] for row in rows])
            far = _far_from_median(values, least=CT_TOLERANCE_HU)
            what, shown = "mean of the foreground", values
        else:
            ranges = np.array([max(row[3] - row[2], 1e-12) for row in rows])
            # Units are arbitrary: only another order of magnitude says something.
            far = _far_from_median(np.log10(ranges), least=1.0)
            far &= far.mean() <= MAX_SHARE
            what, shown = "range of intensities", ranges
        which = f" in channel {channel}" if len(cases[0].intensity) > 1 else ""
        found.append(
            Oddity(
                f"{what}{which} far from the median of {float(np.median(shown)):.4g}",
                tuple(
                    f"{case.key} ({value:.4g})"
                    for case, value, is_far in zip(cases, shown, far, strict=True)
                    if is_far
                ),
                "check the rescale values and the padding",
            )
        )
    return found


def _far_from_median(values: NDArray[np.float64], *, least: float) -> NDArray[Any]:
    distance = np.abs(values - np.median(values))
    robust_std = 1.4826 * float(np.median(distance))
    return distance > max(DEVIATIONS * robust_std, least)


def _absent_classes(cases: Sequence[CaseFingerprint], labels: LabelSet) -> list[Oddity]:
    """Classes that a few cases lack; what half of the cases lack is no exception."""
    found = []
    labelled = [case for case in cases if sum(case.class_voxels[1:])]
    for label in labels.foreground:
        without = [case.key for case in labelled if not case.class_voxels[label.class_id]]
        if 0 < len(without) <= len(labelled) / 2:
            found.append(
                Oddity(f"no {label.name}", tuple(without), "right if there is none to be seen")
            )
    return found


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    return "x".join(f"{value:.3g}" for value in values)
