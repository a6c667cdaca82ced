"""A case whose objects are drawn one by one: which were found, which were not, and which are false.

As with label maps, pictures are reduced and not for diagnosis (see case_views.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.components import thing_ids
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet, LabelMap, instances_of
from medseg.metrics.detection import match_by_iou
from medseg.metrics.object_pairs import compare_objects
from medseg.reports.case_facts import read_volume
from medseg.reports.case_views import Frame, box_around, packed
from medseg.reports.object_files import ObjectFiles

IOU = 0.5
"""Of an object that is drawn as found."""


@dataclass(frozen=True)
class Kind:
    """How objects of one kind are drawn. Colours differ in lightness and lines in their dashes, so
    that kinds are told apart without seeing colours.

    Args:
        code: of the kind in a packed case.
        name: for the legend.
        is_reference: drawn with the outline of the reference.
        colour: of the line.
        width: of the line.
        dash: lengths of lines and gaps; none for a whole line.
    """

    code: str
    name: str
    is_reference: bool
    colour: str
    width: float
    dash: tuple[float, ...] = ()


# Colours of Okabe and Ito 2008 (jfly.uni-koeln.de/color), which people with any kind of colour
# vision tell apart.
KINDS = (
    Kind("h", "found: prediction", False, "#56b4e9", 2.2),
    Kind("r", "found: reference", True, "#ffffff", 1.6, (2.0, 5.0)),
    Kind("f", "false: prediction without a reference", False, "#e8590c", 3.0, (9.0, 5.0)),
    Kind("m", "missed: reference without a prediction", True, "#f0e442", 3.0, (3.0, 4.0)),
    Kind("u", "not judged: lies where nobody annotated", False, "#b0b0b0", 1.6, (1.0, 3.0)),
)
_HIDDEN = "-"
_FOUND, _REFERENCE, _FALSE, _MISSED, _UNJUDGED = (kind.code for kind in KINDS)


@dataclass(frozen=True)
class ObjectView:
    """A case, packed.

    Args:
        key: case key.
        packed: see `medseg.reports.case_views.packed`.
        is_flat: a picture, of which one plane is shown.
        kinds: codes of those that its objects are of, in any prediction.
    """

    key: str
    packed: str
    is_flat: bool
    kinds: frozenset[str]


def view_objects(
    key: str,
    files: Mapping[str, ObjectFiles],
    *,
    image: Case | None,
    min_score: float,
    max_voxels: int,
) -> ObjectView:
    """What is shown of a case: the whole picture, or the box around all objects of a volume.

    Args:
        key: case key; its references and predictions can be read.
        files: where they are, by name of the model.
        image: the case that they belong to; without it, outlines lie on black.
        min_score: predicted objects of a lower score are not shown.
        max_voxels: a larger box is shown on a coarser grid.
    """
    maps: dict[str, InstanceSet] = {}
    kinds: dict[str, dict[str, str]] = {}
    for model, one in files.items():
        if key not in one.predictions:
            continue
        reference, prediction = (instances_of(found) for found in one.read(key))
        maps.setdefault("reference", reference)
        maps[f"prediction {model}"] = prediction
        kinds[f"prediction {model}"] = dict(
            zip(
                ("reference", "prediction"),
                _kinds(reference, prediction, one, min_score),
                strict=True,
            )
        )
    truth = maps["reference"]
    volume = read_volume(image, LabelMap(truth.array, truth.geometry))
    turned = {name: found.reoriented("RAS") for name, found in maps.items()}
    spacing = turned["reference"].geometry.spacing_mm
    shape = turned["reference"].geometry.shape
    is_flat = shape[2] == 1
    mask = np.ones(shape, np.bool_)
    if not is_flat:
        mask = np.any([found.array > 0 for found in turned.values()], axis=0)
    view = Frame.around(box_around(mask, spacing), spacing, max_voxels)
    grey = view.grey(volume)
    arrays: list[NDArray[Any]] = [grey]
    arrays += [found.array[view.grid].astype("<u4") for found in turned.values()]
    header = {**view.header(len(grey)), "maps": list(turned), "kinds": kinds, "surfaces": []}
    present = frozenset("".join(code for found in kinds.values() for code in found.values()))
    return ObjectView(key, packed(header, arrays), is_flat, present)


def _kinds(
    reference: InstanceSet, prediction: InstanceSet, files: ObjectFiles, min_score: float
) -> tuple[str, str]:
    """A code for each object of the reference, and of the prediction, in their order."""
    wanted = [_HIDDEN] * len(reference)
    given = [_HIDDEN] * len(prediction)
    for pairs in compare_objects(reference, prediction, class_ids=thing_ids(files.labels)):
        kept = pairs.above(min_score)
        matches = match_by_iou(kept, IOU)
        places = np.flatnonzero(reference.class_ids == pairs.class_id)
        of_class = prediction.class_ids == pairs.class_id
        others = np.flatnonzero(of_class)[pairs.scores >= min_score]
        for n, place in enumerate(places):
            wanted[place] = _REFERENCE if n in matches else _MISSED
        for place, match, is_unjudged in zip(others, matches, kept.unjudged, strict=True):
            given[place] = _FOUND if match >= 0 else _UNJUDGED if is_unjudged else _FALSE
    return "".join(wanted), "".join(given)
