"""Objects as segments of a DICOM segmentation: one for each, and one for each class of stuff."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medseg.core.errors import OutputError
from medseg.core.labels import Label, LabelSet
from medseg.core.segmentation import InstanceSet, PanopticMap, instances_of
from medseg.core.segments import Segment, SegmentSet, segment_of
from medseg.dicom.codes import segment_codes

MAX_SEGMENTS = 65_535
"""Numbers of segments have 16 bits."""


def object_segments(result: InstanceSet | PanopticMap, *, where: str) -> SegmentSet:
    """The objects as segments, in their order, named by class and number (`tumour 3`) and coded as
    their class is; then the stuff of a panoptic map.

    A class of things without objects has one segment without voxels, so that readers see that it
    was looked for.

    Raises:
        OutputError: there are more than segments can be numbered.
    """
    instances = instances_of(result)
    labels = result.labels or _labels_of(instances)
    segments: list[Segment] = []
    counts: dict[int, int] = {}
    for n in range(1, len(instances) + 1):
        label = labels.labels[int(instances.class_ids[n - 1])]
        counts[label.class_id] = counts.get(label.class_id, 0) + 1
        box, mask = instances.mask(n)
        name = f"{label.name} {counts[label.class_id]}"
        start = (int(box[0].start), int(box[1].start), int(box[2].start))
        segments.append(Segment(_label(label, name, n), start, mask))
    for label in labels.foreground:
        number = len(segments) + 1
        is_stuff = isinstance(result, PanopticMap) and not label.is_thing
        if is_stuff and isinstance(result, PanopticMap):
            mask = result.label_map.array == label.class_id
            segments.append(segment_of(_label(label, label.name, number), mask))
        elif label.class_id not in counts and (label.is_thing or not _has_things(labels)):
            empty = np.zeros((0, 0, 0), np.bool_)
            segments.append(Segment(_label(label, label.name, number), (0, 0, 0), empty))
    if len(segments) > MAX_SEGMENTS:
        raise OutputError(
            where,
            f"has {len(segments)} objects, a DICOM segmentation holds {MAX_SEGMENTS} segments",
            "set output=[nifti], which has no such limit, or raise objects.min_score",
        )
    return SegmentSet(where, instances.geometry, tuple(segments))


def _label(label: Label, name: str, number: int) -> Label:
    """The label of one object, coded as its class; colours differ so that neighbours can be told
    apart.
    """
    codes = segment_codes(label)
    return replace(
        label,
        name=name,
        class_id=number,
        category=codes.category,
        type=codes.type,
        colour=None,
    )


def _has_things(labels: LabelSet) -> bool:
    return any(label.is_thing for label in labels.foreground)


def _labels_of(instances: InstanceSet) -> LabelSet:
    highest = int(instances.class_ids.max(initial=1))
    return LabelSet.from_names(["background", *(f"class_{n}" for n in range(1, highest + 1))])
