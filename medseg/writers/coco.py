"""Objects of a picture as a COCO file: run lengths, boxes, areas and scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.atomic import write_text
from medseg.core.errors import OutputError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import ResultKind
from medseg.core.run_lengths import encode_runs, pack_runs
from medseg.core.segmentation import InstanceSet, PanopticMap, Result, instances_of
from medseg.writers.names import output_path


@dataclass(frozen=True)
class CocoWriter:
    """Writes `<case key>_coco.json` with the image, its categories and one annotation per object.

    Objects that overlap are whole in it. Of a panoptic result the things are written.
    """

    @property
    def takes(self) -> tuple[ResultKind, ...]:
        return ("instances",)

    def write(self, result: Result, case: Case, *, folder: Path) -> list[Path]:
        """Writes one file.

        Raises:
            OutputError: the result is a volume, or has no objects to tell apart.
        """
        path = output_path(folder, case, "_coco.json")
        if not isinstance(result, InstanceSet | PanopticMap):
            raise OutputError(
                case.key,
                "has a class for each voxel, a COCO file lists objects",
                "leave coco out of output, or predict with a model that finds objects",
            )
        instances = instances_of(result)
        if instances.geometry.shape[2] != 1:
            raise OutputError(
                case.key,
                f"is a volume of {instances.geometry.shape[2]} slices, a COCO file holds pictures",
                "set output=[nifti], which also lists the objects",
            )
        name = case.paths[0].name if case.paths else case.key
        write_text(path, json.dumps(coco_content(instances, name)) + "\n")
        return [path]


def coco_content(instances: InstanceSet, file_name: str) -> dict[str, Any]:
    """The content of a COCO file of one image.

    Args:
        instances: of a single slice.
        file_name: of the image.
    """
    columns, rows = instances.geometry.shape[:2]
    labels = instances.labels
    highest = int(instances.class_ids.max(initial=1))
    if labels is None:
        labels = LabelSet.from_names(["background", *(f"class_{n}" for n in range(1, highest + 1))])
    annotations = []
    for n in range(1, len(instances) + 1):
        box, piece = instances.mask(n)
        mask = np.zeros((rows, columns), np.bool_)
        mask[box[1], box[0]] = piece[..., 0].T
        i0, j0, _, i1, j1, _ = (int(edge) for edge in instances.boxes[n - 1])
        annotations.append(
            {
                "id": n,
                "image_id": 1,
                "category_id": int(instances.class_ids[n - 1]),
                "segmentation": {"size": [rows, columns], "counts": pack_runs(encode_runs(mask))},
                "area": int(mask.sum()),
                "bbox": [i0, j0, i1 - i0, j1 - j0],
                "iscrowd": 0,
                "score": round(float(instances.scores[n - 1]), 6),
            }
        )
    return {
        "images": [{"id": 1, "file_name": file_name, "height": rows, "width": columns}],
        "categories": [{"id": label.class_id, "name": label.name} for label in labels.foreground],
        "annotations": annotations,
    }
