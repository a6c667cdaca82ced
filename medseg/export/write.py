"""A bundle that carries its networks for other runtimes too, and is again a bundle."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError
from medseg.core.identity import Case
from medseg.core.volume import Volume
from medseg.export.formats import FORMATS, exported_files
from medseg.export.int8 import INT8, Loss, int8_files
from medseg.export.object_parity import require_same_objects
from medseg.export.parity import Parity, noise_patches, patches_of, require_parity
from medseg.inference.engines import TorchEngine
from medseg.inference.exported_networks import ExportedNetwork, network_of_files
from medseg.inference.object_engines import ExportedDetector, sole_network
from medseg.inference.object_windows import FindsObjects
from medseg.inference.runtimes import ExportedEngine
from medseg.models.detection.outputs import flat

logger = logging.getLogger(__name__)


def export_bundle(
    bundle: ModelBundle,
    formats: Sequence[str],
    folder: Path,
    *,
    volumes: Sequence[Volume] = (),
    labelled: Sequence[Case] = (),
) -> dict[str, Parity | Loss]:
    """Writes the bundle with its networks in other formats; what deviates is refused, and nothing
    is written then.

    Plan, labels, post-processing, calibration and weights travel with it, so that `predict` takes
    it like any bundle.

    Args:
        bundle: loaded bundle.
        formats: of `medseg.export.formats.FORMATS`.
        folder: of the new bundle; may be the bundle's own.
        volumes: images on whose patches the exports are compared with PyTorch; without any, noise
            is taken.
        labelled: cases for integers of eight bits (`medseg.export.int8`).

    Returns:
        How each format compares.

    Raises:
        MedsegError: a network cannot be exported, or its export deviates.
    """
    unknown = sorted(set(formats) - {*FORMATS, INT8})
    if unknown or not formats:
        raise ConfigError(
            "format",
            f"names {', '.join(unknown)}" if unknown else "is empty",
            f"there are {', '.join((*FORMATS, INT8))}",
        )
    finds_objects = bundle.task_kind != "label_map"
    networks = [sole_network(bundle)] if finds_objects else bundle.build_networks()
    networks = [network.eval() for network in networks]
    patches = patches_of(volumes, bundle.plan) or noise_patches(
        bundle.plan, in_channels=bundle.num_channels
    )
    example = patches[0] if finds_objects else torch.cat([patches[0], patches[0]])
    names = [Path(name).stem for name in bundle.weight_files]
    files: dict[str, bytes] = {}
    found: dict[str, Parity | Loss] = {}
    facts: dict[str, Any] = {}
    changed = "objects_missed" if finds_objects else "labels_changed"
    in_onnx: list[bytes | None] = [None] * len(networks)
    for kind in sorted(set(formats) - {INT8}):  # ONNX comes before OpenVINO, which is made from it
        made = [
            exported_files(network, example, kind, onnx=known)
            for network, known in zip(networks, in_onnx, strict=True)
        ]
        if kind == "onnx":
            in_onnx = [files[".onnx"] for files in made]
        exported = [_network(kind, files) for files in made]
        if finds_objects:
            detector = ExportedDetector(
                exported[0], networks[0], patch_size=tuple(example.shape[2:])
            )
            in_torch = cast(FindsObjects, networks[0])
            parity = require_same_objects(kind, detector, in_torch, patches)
        else:
            reference = TorchEngine(networks, device="cpu", precision="32-true")
            engine = ExportedEngine(kind, exported)
            parity = require_parity(engine, reference, patches, bundle.labels)
        found[kind] = parity
        logger.info("%s: %s", kind, parity)
        for name, parts in zip(names, made, strict=True):
            files |= {f"{kind}/{name}{ending}": content for ending, content in parts.items()}
        facts[kind] = {
            "compared_on": "patches of images" if volumes else "noise",
            "patches": parity.num_patches,
            "largest_difference": float(f"{parity.difference:.3g}"),
            changed: float(f"{parity.changed:.3g}"),
        }
    if INT8 in formats:
        whole, loss = int8_files(bundle, labelled)
        files |= whole
        found[INT8] = loss
        facts[INT8] = {
            "compared_on": "labelled cases",
            "cases": loss.num_cases,
            "dice": round(loss.int8, 4),
            "dice_in_single_precision": round(loss.single, 4),
        }
    bundle.copy_with(folder, files, exports=facts)
    return found


def _network(kind: str, files: Mapping[str, bytes]) -> ExportedNetwork:
    return _Program(files[".pt2"]) if kind == "torch_export" else network_of_files(kind, files)


class _Program:
    """A program of torch.export that this process has just written."""

    precision = "32-true"

    def __init__(self, content: bytes) -> None:
        self._module = torch.export.load(io.BytesIO(content)).module()

    def __call__(self, patches: Tensor) -> Mapping[str, NDArray[np.float32]]:
        with torch.no_grad():
            outputs = self._module(patches)
        named = {"logits": outputs} if isinstance(outputs, Tensor) else flat(outputs)
        return {name: part.numpy() for name, part in named.items()}
