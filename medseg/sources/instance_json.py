"""The list of objects beside a map of them: classes, scores, and voxels that others cover."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError, LabelError
from medseg.core.labels import LabelSet
from medseg.core.run_lengths import decode_runs

FORMAT = "medseg-instances"
VERSION = 1
MAX_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class ListedObject:
    """One entry of the list.

    Args:
        number: of its voxels in the map.
        class_id: number of its class.
        score: in [0, 1].
        box: first voxel and the one after the last, (6,).
        hidden: voxels within the box that show another object's number; None if there are none.
    """

    number: int
    class_id: int
    score: float
    box: tuple[int, ...]
    hidden: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class InstanceList:
    """What the file says.

    Args:
        objects: by their number.
        labels: what the classes mean; None if it does not say.
    """

    objects: Mapping[int, ListedObject]
    labels: LabelSet | None


def read_instance_list(path: Path) -> InstanceList | None:
    """The list in a file; None if there is no such file, or it is a JSON file of something else.

    Raises:
        InputError: it is too large or cannot be read.
        LabelError: it says that it is such a list, but cannot be understood.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        return None
    if content.get("version") != VERSION:
        raise LabelError(
            path,
            f"has version {content.get('version')!r}, this medseg reads {VERSION}",
            "use the medseg version that wrote it",
            code="E_INSTANCE_LIST",
        )
    try:
        labels = content.get("labels")
        label_set = None if labels is None else LabelSet.from_mapping(labels, where=str(path))
        objects = [_listed(entry, path) for entry in content["instances"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LabelError(
            path,
            f"cannot be understood ({type(error).__name__}: {error})",
            "write it anew with predict, or remove it",
            code="E_INSTANCE_LIST",
        ) from error
    return InstanceList({listed.number: listed for listed in objects}, label_set)


def read_json(path: Path) -> Any:
    """Plain data of a JSON file.

    Raises:
        InputError: it is larger than a gibibyte, or no JSON.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(path, "is larger than 1 GiB", "split it", code="E_TOO_LARGE")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            path, f"cannot be read as JSON ({reason})", "export it again", code="E_INSTANCE_LIST"
        ) from error


def _listed(entry: Mapping[str, Any], path: Path) -> ListedObject:
    number, class_id, score = int(entry["id"]), int(entry["class_id"]), float(entry["score"])
    box = tuple(int(edge) for edge in entry["box"])
    if number < 1 or class_id < 1 or not 0 <= score <= 1 or len(box) != 6:
        raise ValueError(f"object {number} has class {class_id}, score {score:g}, box {list(box)}")
    extents = tuple(b - a for a, b in zip(box[:3], box[3:], strict=True))
    if min(box) < 0 or min(extents) < 0:
        raise ValueError(f"object {number} has the box {list(box)}")
    runs = entry.get("hidden")
    hidden = None if runs is None else decode_runs(runs, extents, where=f"{path}, object {number}")
    return ListedObject(number, class_id, score, box, hidden)
