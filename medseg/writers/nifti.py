"""Label maps, objects and class probabilities as NIfTI-1 files on the grid of the input.

Not for DICOM: what a file of this kind cannot say (patient, study, codes) is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import OutputError
from medseg.core.identity import Case
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap, ProbabilityMap, Result
from medseg.writers.instance_files import write_instances
from medseg.writers.names import PROBABILITIES, output_path
from medseg.writers.nifti_file import write_nifti


class NiftiWriter:
    """Writes `<case key>.nii.gz`, or `<case key>_probabilities.nii.gz` for a ProbabilityMap.

    Objects are written as `write_instances` does.

    Label maps are stored as uint8, or the smallest wider integer that holds the label set.
    Probabilities are float32, shape (I, J, K, C). The same result gives the same bytes.

    Args:
        probabilities: also ask for a ProbabilityMap of each case.
    """

    def __init__(self, *, probabilities: bool = False) -> None:
        self.takes: tuple[ResultKind, ...] = (
            ("label_map", "instances", "probabilities")
            if probabilities
            else ("label_map", "instances")
        )

    def write(self, result: Result, case: Case, *, folder: Path) -> list[Path]:
        if isinstance(result, InstanceSet | PanopticMap):
            return write_instances(result, case, folder=folder)
        if isinstance(result, ProbabilityMap):
            path = output_path(folder, case, f"{PROBABILITIES}.nii.gz")
            write_nifti(result.array.transpose(1, 2, 3, 0), result.geometry, path)
            return [path]
        assert isinstance(result, LabelMap)
        path = output_path(folder, case, ".nii.gz")
        write_nifti(smallest_integers(result, path), result.geometry, path)
        return [path]


def smallest_integers(label_map: LabelMap, path: Path) -> NDArray[Any]:
    """The class numbers as uint8, uint16 or int32, whichever holds the label set.

    Raises:
        OutputError: a number is negative or larger than int32 holds.
    """
    lowest = int(label_map.array.min())
    highest = int(label_map.array.max())
    if label_map.labels is not None:
        highest = max(highest, len(label_map.labels) - 1, label_map.labels.ignore_id or 0)
    if lowest < 0 or highest > np.iinfo(np.int32).max:
        raise OutputError(
            path,
            f"the label map holds values from {lowest} to {highest}, class numbers start at 0",
            "check what made the result",
        )
    for dtype in (np.uint8, np.uint16):
        if highest <= np.iinfo(dtype).max:
            return label_map.array.astype(dtype, copy=False)
    return label_map.array.astype(np.int32, copy=False)
