"""A bundle that carries its networks for other runtimes too, and is again a bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError
from medseg.core.volume import Volume
from medseg.export.formats import FORMATS, exported_files
from medseg.export.parity import Parity, noise_patches, patches_of, require_parity
from medseg.inference.engines import Engine, TorchEngine
from medseg.inference.runtimes import OnnxEngine, OpenVinoEngine

logger = logging.getLogger(__name__)


def export_bundle(
    bundle: ModelBundle, formats: Sequence[str], folder: Path, *, volumes: Sequence[Volume] = ()
) -> dict[str, Parity]:
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

    Returns:
        How each format compares.

    Raises:
        MedsegError: a network cannot be exported, or its export deviates.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ConfigError(
            "format",
            f"names {', '.join(unknown)}" if unknown else "is empty",
            f"there are {', '.join(FORMATS)}",
        )
    networks = [network.eval() for network in bundle.build_networks()]
    reference = TorchEngine(networks, device="cpu", precision="32-true")
    patches = patches_of(volumes, bundle.plan) or noise_patches(
        bundle.plan, in_channels=bundle.num_channels
    )
    example = torch.cat([patches[0], patches[0]])
    names = [Path(name).stem for name in bundle.weight_files]
    files: dict[str, bytes] = {}
    found: dict[str, Parity] = {}
    facts: dict[str, Any] = {}
    in_onnx: list[bytes | None] = [None] * len(networks)
    for kind in sorted(set(formats)):  # ONNX comes before OpenVINO, which is made from it
        made = [
            exported_files(network, example, kind, onnx=known)
            for network, known in zip(networks, in_onnx, strict=True)
        ]
        if kind == "onnx":
            in_onnx = [files[".onnx"] for files in made]
        found[kind] = require_parity(_engine(kind, made), reference, patches, bundle.labels)
        logger.info("%s: %s", kind, found[kind])
        for name, parts in zip(names, made, strict=True):
            files |= {f"{kind}/{name}{ending}": content for ending, content in parts.items()}
        facts[kind] = {
            "compared_on": "patches of images" if volumes else "noise",
            "patches": found[kind].num_patches,
            "largest_difference": float(f"{found[kind].difference:.3g}"),
            "labels_changed": float(f"{found[kind].changed:.3g}"),
        }
    bundle.copy_with(folder, files, exports=facts)
    return found


def _engine(kind: str, made: Sequence[dict[str, bytes]]) -> Engine:
    if kind == "onnx":
        return OnnxEngine([files[".onnx"] for files in made])
    if kind == "openvino":
        pairs = [(files[".xml"], files[".bin"]) for files in made]
        return OpenVinoEngine(pairs, precision="32-true")
    return _ProgramEngine([files[".pt2"] for files in made])


class _ProgramEngine(TorchEngine):
    """Programs of torch.export that this process has just written."""

    name = "torch_export"

    def __init__(self, programs: Sequence[bytes]) -> None:
        import io

        modules = [torch.export.load(io.BytesIO(program)).module() for program in programs]
        super().__init__(modules, device="cpu", precision="32-true")
