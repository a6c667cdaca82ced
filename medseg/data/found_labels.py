"""Labels of a data set that does not name them, from the numbers in its references."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from medseg.core.errors import LabelError, MedsegError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap, Reference, class_map

_log = logging.getLogger(__name__)

MAX_CLASSES = 64
"""More numbers than these are taken for grey values or for objects (chosen, untested; a data set
with more classes names them).
"""
_WHITE = 255
_NUM_THREADS = 4
_MAX_SHOWN = 8


@dataclass(frozen=True)
class FoundLabels:
    """Classes as the references number them.

    Args:
        labels: background, and `label_<number>` for each number found, numbered 0, 1, 2, ...
        numbers: the number that each class has in the files, rising.
    """

    labels: LabelSet
    numbers: tuple[int, ...]

    @property
    def has_gaps(self) -> bool:
        """True if the classes of the files are numbered anew."""
        return self.numbers != tuple(range(len(self.numbers)))

    def read(self, case: Case) -> Case:
        """The case with a reference in the numbers of `labels`."""
        if case.read_reference is None or not self.has_gaps:
            return case
        return replace(
            case,
            read_reference=partial(_renumbered, case.read_reference, self.numbers),
            reading=json.dumps([case.reading, *self.numbers]),
        )


def find_labels(cases: Sequence[Case]) -> FoundLabels:
    """Every number in any reference is a class; all references are read.

    Where numbers have gaps, as 0 and 255 have, classes are numbered anew. Both is logged.

    Raises:
        LabelError: the numbers are evidently no classes, or one may mean "not annotated".
    """
    references = [case for case in cases if case.read_reference is not None]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        per_case = list(pool.map(_numbers_of, references))
    found = sorted({number for numbers in per_case for number in numbers})
    if len(found) > MAX_CLASSES:
        most, key = max((len(n), case.key) for n, case in zip(per_case, references, strict=True))
        raise LabelError(
            "data.labels",
            f"has no value, and the references hold {len(found)} different numbers (that of {key} "
            f"{most}); above {MAX_CLASSES} they are taken for the grey values of pictures or for "
            "the numbers of objects",
            "give one number per class in the references, or name the labels: "
            + _option({"background": 0, "liver": 1}),
        )
    foreground = [number for number in found if number != 0]
    if not foreground:
        raise LabelError(
            "data.source",
            "the references hold nothing but 0",
            "check the references",
            code="E_EMPTY_LABEL",
        )
    ignored = _perhaps_ignored(foreground)
    if ignored is not None:
        names = {"background": 0} | {f"label_{n}": n for n in foreground if n != ignored}
        raise LabelError(
            "data.labels",
            f"has no value, and in the references {_listed(found)} may be {len(foreground)} "
            f"classes, or {ignored} may mean that nobody looked there",
            f"set {_option(names | {'ignore': ignored})}, or give {ignored} the next free number "
            "in the references if it is a class",
        )
    labels = LabelSet.from_names(["background", *(f"label_{number}" for number in foreground)])
    chosen = FoundLabels(labels, (0, *foreground))
    if chosen.has_gaps:
        _log.warning(
            "data.labels has no value: the classes are read from the references, whose numbers %s "
            "are 0, 1, 2, ... from here on, in predictions too",
            _listed(chosen.numbers),
        )
    else:
        _log.info(
            "data.labels has no value: the classes are read from the references; name them with %s",
            _option({label.name: label.class_id for label in labels.labels}),
        )
    return chosen


def _numbers_of(case: Case) -> list[int]:
    """The numbers in a case's reference; none if it cannot be read, which measuring it will say."""
    assert case.read_reference is not None
    try:
        return [int(number) for number in np.unique(class_map(case.read_reference()).array)]
    except MedsegError:
        return []


def _perhaps_ignored(foreground: Sequence[int]) -> int | None:
    """A negative number, or the 255 of 1, 2, 255; not that of 255 alone or of 128, 255."""
    if foreground[0] < 0:
        return foreground[0]
    is_apart = len(foreground) > 1 and foreground[-2] < MAX_CLASSES
    return _WHITE if foreground[-1] == _WHITE and is_apart else None


def _option(names: Mapping[str, int]) -> str:
    return "'data.labels={" + ", ".join(f"{name}: {n}" for name, n in names.items()) + "}'"


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:_MAX_SHOWN])
    return shown + (f", ..., {numbers[-1]}" if len(numbers) > _MAX_SHOWN else "")


def _renumbered(read: Callable[[], Reference], numbers: tuple[int, ...]) -> LabelMap:
    reference = read()
    if not isinstance(reference, LabelMap):
        raise LabelError(
            "data.labels",
            "has no value, and the classes of the objects have gaps",
            "name the labels, as in " + _option({"background": 0, "cell": 1}),
        )
    known = np.array(numbers)
    places = np.searchsorted(known, reference.array).clip(max=len(known) - 1)
    if not np.array_equal(known[places], reference.array):
        raise LabelError(
            "reference", "has changed since the classes were read", "start again", code="E_LABEL"
        )
    return replace(reference, array=places.astype(np.uint8))
