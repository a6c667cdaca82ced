"""Objects as files: a map with one number per object, and a list of what each of them is.

`<case>.nii.gz` on the grid of the input, or `<case>.png` for a flat picture; `<case>.json` has
class, score, box, volume and centre of every object, in RAS millimetres (docs/instances.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg.core.atomic import atomic_path, write_text
from medseg.core.identity import Case
from medseg.core.run_lengths import encode_runs
from medseg.core.segmentation import InstanceSet, PanopticMap, id_dtype, instances_of
from medseg.writers.names import output_path
from medseg.writers.nifti_file import write_nifti

FORMAT, VERSION = "medseg-instances", 1
_PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


def write_instances(result: InstanceSet | PanopticMap, case: Case, *, folder: Path) -> list[Path]:
    """Writes map and list of a case's objects, and the classes where there is stuff; returns the
    files.

    A picture is written as PNG, as TIFF if it has more than 65,535 objects; a volume as NIfTI.

    Raises:
        OutputError: a file cannot be written.
    """
    instances = instances_of(result)
    numbers = instances.array.astype(id_dtype(len(instances)), copy=False)
    paths = [_write_map(numbers, result, case, folder, "")]
    if isinstance(result, PanopticMap):
        paths.append(_write_map(result.label_map.array, result, case, folder, "_classes"))
    listed = output_path(folder, case, ".json")
    write_text(listed, json.dumps(instance_list(instances, case.key), indent=1) + "\n")
    return [*paths, listed]


def instance_list(instances: InstanceSet, key: str) -> dict[str, Any]:
    """The content of `<case>.json`.

    Args:
        instances: in the numbers of the map.
        key: of the case.
    """
    labels = instances.labels
    boxes, boxes_mm = instances.boxes, instances.boxes_mm
    centroids, volumes = instances.centroids_mm, instances.volumes_mm3
    entries = []
    for n in range(len(instances)):
        class_id = int(instances.class_ids[n])
        entries.append(
            {
                "id": n + 1,
                "class": labels.names[class_id] if labels else f"class_{class_id}",
                "class_id": class_id,
                "score": round(float(instances.scores[n]), 6),
                "box": boxes[n].tolist(),
                "box_mm": _rounded(boxes_mm[n]),
                "centroid_mm": _rounded(centroids[n]),
                "volume_mm3": round(float(volumes[n]), 4),
                "voxels": int(instances.num_voxels[n]),
            }
        )
    for number, runs in _hidden(instances).items():
        entries[number - 1]["hidden"] = runs
    return {
        "format": FORMAT,
        "version": VERSION,
        "case": key,
        "labels": None if labels is None else labels.to_mapping(),
        "shape": list(instances.geometry.shape),
        "affine": instances.geometry.affine.tolist(),
        "instances": entries,
    }


def is_picture(case: Case, shape: tuple[int, ...]) -> bool:
    """True for the single slice of a picture file, whose results are pictures again."""
    return shape[2] == 1 and bool(case.paths) and case.paths[0].name.lower().endswith(_PICTURES)


def _write_map(
    array: NDArray[Any],
    result: InstanceSet | PanopticMap,
    case: Case,
    folder: Path,
    ending: str,
) -> Path:
    if is_picture(case, array.shape):
        return _write_picture(array[..., 0].T, case, folder, ending)
    path = output_path(folder, case, f"{ending}.nii.gz")
    write_nifti(array, result.geometry, path)
    return path


def _write_picture(pixels: NDArray[Any], case: Case, folder: Path, ending: str) -> Path:
    """Numbers as a picture of 16 bits, or of 32 where they need more."""
    is_small = int(pixels.max(initial=0)) <= np.iinfo(np.uint16).max
    path = output_path(folder, case, f"{ending}.png" if is_small else f"{ending}.tif")
    content = np.ascontiguousarray(pixels, np.uint16 if is_small else np.int32)
    with atomic_path(path) as unfinished, unfinished.open("wb") as stream:
        Image.fromarray(content).save(stream, format="PNG" if is_small else "TIFF")
    return path


def _hidden(instances: InstanceSet) -> dict[int, list[int]]:
    """For each object that others cover in the map: the runs of its covered voxels in its box."""
    if len(instances.layers) == 1:
        return {}
    top = instances.array
    found = {}
    for n in range(1, len(instances) + 1):
        box, mask = instances.mask(n)
        covered = mask & (top[box] != n)
        if covered.any():
            found[n] = encode_runs(covered)
    return found


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    """To a tenth of a micrometre; None for an object without voxels."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]
