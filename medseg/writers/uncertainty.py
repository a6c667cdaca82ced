"""How far a result is to be trusted: maps for the eye, and the expected Dice of each structure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from medseg.core.atomic import write_text
from medseg.core.errors import ConfigError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import ProbabilityMap, Result, UncertaintyMap
from medseg.dicom.uids import UUID_ROOT
from medseg.writers.dicom_seg import write_dicom_seg
from medseg.writers.names import output_path
from medseg.writers.nifti_file import write_nifti

MapFormat = Literal["nifti", "dicom_seg"]


@dataclass(frozen=True)
class UncertaintyWriter:
    """Writes `<case key>_quality.json` and the maps of entropy and disagreement.

    The maps run from 0 to 1: as `<case key>_entropy.nii.gz` and `<case key>_disagreement.nii.gz`,
    float32, or as two segments of a FRACTIONAL `<case key>_uncertainty.dcm` with 256 steps. There
    is no disagreement where one network saw each image once.

    Args:
        format: of the maps.
        algorithm_name, algorithm_version, bundle_sha256: what made the result.
        uid_root: the site's own UID root.

    Raises:
        ConfigError: the format is unknown.
    """

    format: MapFormat = "nifti"
    algorithm_name: str = "medseg"
    algorithm_version: str = ""
    bundle_sha256: str = ""
    uid_root: str = UUID_ROOT
    takes: tuple[ResultKind, ...] = ("uncertainty",)

    def __post_init__(self) -> None:
        if self.format not in get_args(MapFormat):
            raise ConfigError(
                "output.uncertainty.format", f"is {self.format}", "use nifti or dicom_seg"
            )

    def write(self, result: Result, case: Case, *, folder: Path) -> list[Path]:
        assert isinstance(result, UncertaintyMap)
        maps = {"entropy": result.entropy}
        if result.disagreement is not None:
            maps["disagreement"] = result.disagreement
        paths = []
        if self.format == "nifti":
            for name, array in maps.items():
                paths.append(output_path(folder, case, f"_{name}.nii.gz"))
                write_nifti(array.astype(np.float32, copy=False), result.geometry, paths[-1])
        else:
            paths.append(output_path(folder, case, "_uncertainty.dcm"))
            shares = np.stack([np.zeros_like(result.entropy), *maps.values()])
            write_dicom_seg(
                ProbabilityMap(shares, result.geometry, LabelSet.from_names(["none", *maps])),
                case,
                paths[-1],
                segmentation_type="FRACTIONAL",
                algorithm_name=self.algorithm_name,
                algorithm_version=self.algorithm_version,
                bundle_sha256=self.bundle_sha256,
                uid_root=self.uid_root,
            )
        paths.append(output_path(folder, case, "_quality.json"))
        write_text(paths[-1], json.dumps(self._facts(result, case), indent=2) + "\n")
        return paths

    def _facts(self, result: UncertaintyMap, case: Case) -> dict[str, object]:
        return {
            "case": case.key,
            "model": {
                "name": self.algorithm_name,
                "version": self.algorithm_version,
                "sha256": self.bundle_sha256,
            },
            "expected_dice": {
                name: None if value is None else round(value, 4)
                for name, value in result.expected_dice.items()
            },
        }
