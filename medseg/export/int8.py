"""Networks in OpenVINO whose convolutions multiply integers of eight bits, and what that costs in
Dice.

Whole numbers change the logits far more than a change of runtime does, so what counts is the result
on labelled cases that had no part in choosing the ranges.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError, MedsegError
from medseg.core.identity import Case
from medseg.core.segmentation import class_map
from medseg.export.formats import exported_files
from medseg.export.parity import patches_of
from medseg.inference.openvino_runtime import import_openvino
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.sliding_window import EngineName, SlidingWindow
from medseg.metrics.overlap import count_overlap

INT8: EngineName = "openvino_int8"
MAX_CALIBRATING = 30
MAX_COMPARED = 20
MIN_CASES = 4
MAX_LOSS = 0.002
"""Of the mean Dice over classes and cases."""


@dataclass(frozen=True)
class Loss:
    """What integers cost.

    Args:
        num_cases: that were compared.
        single: mean Dice over classes and cases in single precision, the same windows.
        int8: the same in integers.
    """

    num_cases: int
    single: float
    int8: float

    @property
    def loss(self) -> float:
        return self.single - self.int8

    def __str__(self) -> str:
        return (
            f"{self.num_cases} labelled cases, Dice {self.int8:.4f}, "
            f"and {self.single:.4f} in single precision"
        )


def int8_files(bundle: ModelBundle, cases: Sequence[Case]) -> tuple[dict[str, bytes], Loss]:
    """Files of all networks by their names in the bundle, and what they cost in Dice.

    Args:
        bundle: that segments.
        cases: half of them, and 30 at most, choose the ranges of the integers; up to 20 of the
            others are compared.

    Raises:
        ConfigError: there are too few labelled cases, or NNCF is not installed.
        MedsegError: the Dice falls by more than MAX_LOSS.
    """
    labelled = [case for case in cases if case.read_reference is not None]
    if bundle.task_kind != "label_map":
        raise ConfigError(
            "format",
            f"{INT8} is for networks that give labels, and this one finds objects",
            "leave this format out",
        )
    if len(labelled) < MIN_CASES:
        raise ConfigError(
            "format",
            f"{INT8} needs {MIN_CASES} labelled cases, {len(labelled)} are given",
            "set source=nnunet source.folder=<training cases>, or leave this format out",
        )
    count = min(MAX_CALIBRATING, len(labelled) // 2)
    patches = patches_of([case.read_image() for case in labelled[:count]], bundle.plan)
    single: dict[str, bytes] = {}
    whole: dict[str, bytes] = {}
    for name, network in zip(bundle.weight_files, bundle.build_networks(), strict=True):
        files = exported_files(network.eval(), torch.cat([patches[0], patches[0]]), "openvino")
        stem = Path(name).stem
        single |= {f"openvino/{stem}{ending}": content for ending, content in files.items()}
        for ending, content in _quantised(files, patches).items():
            whole[f"{INT8}/{stem}{ending}"] = content
    compared = labelled[count:][:MAX_COMPARED]
    with tempfile.TemporaryDirectory() as folder:
        both = bundle.copy_with(Path(folder) / "bundle", {**single, **whole}, exports={})
        found = Loss(len(compared), _dice(both, compared, "openvino"), _dice(both, compared, INT8))
    if not found.loss <= MAX_LOSS:
        raise MedsegError(
            f"format {INT8}",
            f"costs {found.loss:.4f} of the Dice ({found}); at most {MAX_LOSS} are accepted",
            "leave this format out; nothing was written",
            code="E_EXPORT",
        )
    return whole, found


def _quantised(files: Mapping[str, bytes], patches: Sequence[Tensor]) -> dict[str, bytes]:
    try:
        openvino = import_openvino()
        import nncf
    except ImportError as error:
        raise ConfigError(
            "format", f"{INT8} needs {error.name}, which is not installed",
            "pip install 'medseg[int8]'",
        ) from error  # fmt: skip
    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(model=files[".xml"], weights=files[".bin"])
    # Activations get two ranges around zero where both signs occur: leaky ones have them.
    integers = nncf.quantize(
        model,
        nncf.Dataset([patch.numpy() for patch in patches]),
        subset_size=len(patches),
        preset=nncf.QuantizationPreset.MIXED,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        openvino.save_model(integers, path, compress_to_fp16=False)
        return {".xml": path.read_bytes(), ".bin": path.with_suffix(".bin").read_bytes()}


def _dice(bundle: ModelBundle, cases: Sequence[Case], engine: EngineName) -> float:
    predictor = NetworkPredictor(
        bundle, inference=SlidingWindow(engine=engine), device="cpu", precision="32-true"
    )
    values: list[float] = []
    for case in cases:
        assert case.read_reference is not None
        reference = class_map(case.read_reference()).array
        prediction = predictor.predict(case).array
        judged = _judged(bundle, reference)
        values += [
            count_overlap(judged & (reference == n), judged & (prediction == n)).dice
            for n in (label.class_id for label in bundle.labels.foreground)
        ]
    return float(np.nanmean(values))


def _judged(bundle: ModelBundle, reference: Any) -> Any:
    """Voxels that somebody annotated."""
    ignored = bundle.labels.ignore_id
    return np.ones(reference.shape, bool) if ignored is None else reference != ignored
