"""Studies, a tiny model and a network-free predictor for the tests of batch and services."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from learning_cases import LABELS, block, small_plan

from medseg.bundle import ModelBundle
from medseg.core.identity import Case
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.dicom.ct_series import write_ct_series
from medseg.models.unet import UNet
from medseg.services.jobs import Job
from medseg.services.models import ModelRecipe, recipe_of
from medseg.services.rules import SeriesRule

CANARY = "LEAKCANARY"
"""In the name, identifier and accession number of every patient; it must turn up nowhere."""

DICOM_SEG = {"dicom_seg": {"_target_": "medseg.writers.dicom_seg.DicomSegWriter"}}


def tiny_bundle(folder: Path, *, name: str = "untrained", base_channels: int = 4) -> Path:
    """A network as its seed left it, for which every answer will do."""
    plan = small_plan()
    options = {
        "in_channels": 1,
        "spatial_dims": 3,
        "base_channels": base_channels,
        "strides": plan.to_dict()["strides"],
        "kernel_sizes": plan.to_dict()["kernel_sizes"],
    }
    return ModelBundle.write(
        folder,
        weights={"fold_0": UNet(out_channels=3, **options).state_dict()},
        plan=plan,
        labels=LABELS,
        config={},
        card={
            "name": name,
            "network": {"class": "medseg.models.unet.UNet", "options": options},
        },
    ).folder


def ct_study(folder: Path, number: int) -> list[Path]:
    """A CT series of 12 slices of its own patient, whose names are canaries."""
    image, _ = block(number, modality="CT")
    paths = write_ct_series(image, folder, case_key=f"case {number}", seed=number)
    for path in paths:
        header = pydicom.dcmread(path)
        header.PatientName = f"{CANARY}^NAME{number:03d}"
        header.PatientID = f"{CANARY}-ID{number:03d}"
        header.AccessionNumber = f"{CANARY}{number:03d}"
        header.save_as(path)
    return paths


class Threshold:
    """Segments what is brighter than 100, without a network."""

    def predict(self, case: Case) -> LabelMap:
        image = case.read_image()
        return LabelMap((image.array[0] > 100).astype(np.uint8), image.geometry, LABELS)

    def predict_with_probabilities(self, case: Case) -> tuple[LabelMap, ProbabilityMap]:
        raise NotImplementedError


def build_threshold(recipe: ModelRecipe, options: Mapping[str, Any]) -> Threshold:
    return Threshold()


def recipe(bundle: Path, *, name: str = "model", rule: SeriesRule | None = None) -> ModelRecipe:
    return recipe_of(
        name,
        str(bundle),
        rule=rule or SeriesRule(),
        inference={},
        postprocess={},
        output=DICOM_SEG,
    )


def states(jobs: list[Job]) -> list[tuple[str, str, str]]:
    return [(job.name, job.state, job.code) for job in jobs]
