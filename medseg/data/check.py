"""The integrity of a data set: every case is read once, all that is wrong stands in one table."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import MedsegError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import Source
from medseg.core.segmentation import LabelMap, Reference, class_map
from medseg.core.volume import Volume

Severity = Literal["error", "warning"]

# A few readers keep the disk busy; each holds one case in memory.
_MAX_THREADS = 4


@dataclass(frozen=True)
class CaseProblem:
    """One thing that is wrong with one case.

    Args:
        key: the case, or the file of a label without an image.
        severity: "error" if training or scoring with the case would be wrong, else "warning".
        code: stable machine-readable name.
        what: what was found.
        remedy: what to do.
    """

    key: str
    severity: Severity
    code: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, eq=False)
class Examination:
    """A case as it was read, and what is wrong with it.

    Args:
        problems: of this case alone.
        volume: the image; None if it cannot be read.
        reference: None if it cannot be read or there is none.
    """

    problems: tuple[CaseProblem, ...]
    volume: Volume | None
    reference: Reference | None


def check_source(
    source: Source,
    labels: LabelSet | None = None,
    *,
    num_channels: int | None = None,
    num_threads: int | None = None,
) -> list[CaseProblem]:
    """Problems of all cases of a source, and of labels and list entries that belong to no case.

    Args:
        source: where the cases come from.
        labels: classes that references may hold; None takes those the source knows.
        num_channels: wanted channels; None takes what the source says, else what most cases have.
        num_threads: cases read at a time; None takes up to four.

    Raises:
        InputError: the source cannot list its cases.
    """
    description = source.describe()
    problems = [
        CaseProblem(
            name,
            "error",
            "E_ORPHAN_LABEL",
            "a label without an image",
            "add the image or remove it",
        )
        for name in description.orphan_labels
    ]
    problems += [
        CaseProblem(
            key,
            "warning",
            "E_ABSENT_CASE",
            "is in the data set's list, but has no file",
            "unpack it again",
        )
        for key in description.absent_cases
    ]
    problems += check_cases(
        source.cases(),
        labels if labels is not None else description.labels,
        num_channels=num_channels or len(description.channel_names) or None,
        num_threads=num_threads,
    )
    return sorted(problems, key=_rank)


def check_cases(
    cases: Sequence[Case],
    labels: LabelSet | None,
    *,
    num_channels: int | None = None,
    num_threads: int | None = None,
) -> list[CaseProblem]:
    """Everything wrong with the cases, errors first, by key.

    Held-out cases may lack a reference; all others need one.

    Args:
        cases: each is read once.
        labels: classes that references may hold; None does not look at their values.
        num_channels: wanted channels; None takes what most cases have.
        num_threads: cases read at a time; None takes up to four.
    """
    threads = num_threads or min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        findings = list(pool.map(lambda case: _finding(case, labels), cases))
    problems = [problem for finding in findings for problem in finding.problems]
    problems += _wrong_channels(cases, findings, wanted=num_channels)
    problems += _duplicates(cases, findings)
    return sorted(problems, key=_rank)


def examine(case: Case, labels: LabelSet | None) -> Examination:
    """Reads a case and says what is wrong with it alone; MedsegErrors of the readers are kept.

    Args:
        case: image and reference are read once each.
        labels: classes that the reference may hold; None does not look at its values.
    """
    problems: list[CaseProblem] = []
    volume, reference = None, None
    try:
        volume = case.read_image()
    except MedsegError as error:
        problems.append(_from_error(case, error))
    if volume is not None:
        problems += _image_problems(case, volume)
    if case.read_reference is not None:
        try:
            reference = case.read_reference()
        except MedsegError as error:
            # A reference is compared with its image, so a bad image is found twice.
            if (problem := _from_error(case, error)) not in problems:
                problems.append(problem)
        else:
            problems += _reference_problems(case, class_map(reference), volume, labels)
    elif not case.is_held_out:
        problems.append(
            _problem(
                case,
                "error",
                "E_NO_LABEL",
                "has no label",
                "add the label file under the image's name, or remove the image",
            )
        )
    return Examination(tuple(problems), volume, reference)


@dataclass(frozen=True)
class _Finding:
    problems: tuple[CaseProblem, ...]
    num_channels: int | None = None
    digest: bytes | None = None


def _finding(case: Case, labels: LabelSet | None) -> _Finding:
    """What is kept of a case once it is examined; its arrays are not."""
    examined = examine(case, labels)
    if examined.volume is None:
        return _Finding(examined.problems)
    return _Finding(examined.problems, examined.volume.num_channels, image_digest(examined.volume))


def _image_problems(case: Case, volume: Volume) -> list[CaseProblem]:
    remedy = "correct or remove the image"
    if bad := _num_not_finite(volume.array):
        what = f"{bad} voxels of the image are NaN or infinite"
        return [_problem(case, "error", "E_IMAGE_NAN", what, remedy)]
    flat = [n for n, channel in enumerate(volume.array) if channel.min() == channel.max()]
    if not flat:
        return []
    is_whole = len(flat) == volume.num_channels
    which = "the image" if is_whole else f"channel {flat[0]}"
    what = f"{which} is empty: every voxel is {float(volume.array[flat[0]].flat[0]):g}"
    # A channel that was not acquired is often filled with zeros; the others can be learnt from.
    severity: Severity = "error" if is_whole else "warning"
    return [_problem(case, severity, "E_EMPTY_IMAGE", what, remedy)]


def _reference_problems(
    case: Case, reference: LabelMap, volume: Volume | None, labels: LabelSet | None
) -> list[CaseProblem]:
    problems = []
    if volume is not None:
        tolerance_mm = 0.1 * min(volume.geometry.spacing_mm)
        difference = reference.geometry.difference(volume.geometry, tolerance_mm=tolerance_mm)
        if difference:
            problems.append(
                _problem(
                    case,
                    "error",
                    "E_GRID_MISMATCH",
                    f"image and label do not share a grid: {difference}",
                    "resample the label to the image's grid",
                )
            )
    if labels is not None and (unknown := labels.unknown_values(reference.array)):
        shown = ", ".join(f"{value:g}" for value in unknown[:8])
        problems.append(
            _problem(
                case,
                "error",
                "E_LABEL_VALUES",
                f"the label holds {shown}, which no class has",
                "correct the file or declare the missing labels",
            )
        )
    if not (reference.array > 0).any():
        problems.append(
            _problem(
                case,
                "warning",
                "E_EMPTY_LABEL",
                "the label is empty: all background",
                "check that nothing was to be drawn in these cases",
            )
        )
    return problems


def _wrong_channels(
    cases: Sequence[Case], findings: Sequence[_Finding], *, wanted: int | None
) -> list[CaseProblem]:
    counts = Counter(f.num_channels for f in findings if f.num_channels is not None)
    if not counts:
        return []
    expected = wanted or counts.most_common(1)[0][0]
    return [
        _problem(
            case,
            "error",
            "E_CHANNELS",
            f"has {finding.num_channels} channels, expected are {expected}",
            "give every case the same channels",
        )
        for case, finding in zip(cases, findings, strict=True)
        if finding.num_channels not in (None, expected)
    ]


def _duplicates(cases: Sequence[Case], findings: Sequence[_Finding]) -> list[CaseProblem]:
    """Cases with the same image; an error if training and test or two patients share it."""
    same: dict[bytes, list[Case]] = defaultdict(list)
    for case, finding in zip(cases, findings, strict=True):
        if finding.digest is not None:
            same[finding.digest].append(case)
    problems = []
    for group in same.values():
        if len(group) < 2:
            continue
        leaks = len({case.is_held_out for case in group}) > 1
        keys = [case.key for case in group]
        for case in group:
            others = ", ".join(key for key in keys if key != case.key)
            where = "; training and test share it" if leaks else ""
            problems.append(
                _problem(
                    case,
                    "error" if leaks else "warning",
                    "E_DUPLICATE_IMAGE",
                    f"has the same image as {others}{where}",
                    "keep one, or give them one patient in a manifest so that they stay together",
                )
            )
    return problems


def image_digest(volume: Volume) -> bytes:
    """Hash of an image's values, whatever type they are stored as; its geometry does not count."""
    digest = hashlib.blake2b(str(volume.array.shape).encode(), digest_size=16)
    for channel in volume.array:
        # Adding 0 makes one zero of -0 and 0.
        values = np.ascontiguousarray(channel, np.float32) + np.float32(0)
        digest.update(values.view(np.uint8).data)
    return digest.digest()


def _num_not_finite(array: NDArray[Any]) -> int:
    return array.size - int(np.isfinite(array).sum()) if array.dtype.kind == "f" else 0


def _from_error(case: Case, error: MedsegError) -> CaseProblem:
    return _problem(case, "error", error.code, f"{error.where}: {error.what}", error.remedy)


def _problem(case: Case, severity: Severity, code: str, what: str, remedy: str) -> CaseProblem:
    return CaseProblem(case.key, severity, code, what, remedy)


def _rank(problem: CaseProblem) -> tuple[bool, str, str]:
    return problem.severity != "error", problem.key, problem.code
