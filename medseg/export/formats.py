"""A network as a file of another runtime: ONNX, OpenVINO IR, or a program of `torch.export`.

The extents of patches are those of the plan. Their number is free, but in tasks that find objects,
whose networks see one at a time; theirs are the maps that come before whatever depends on what is
seen (`medseg.inference.object_engines`).
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError, MedsegError
from medseg.inference.openvino_runtime import import_openvino
from medseg.models.detection.objects import Detector
from medseg.models.detection.outputs import FlatOutputs, flat

FORMATS = ("onnx", "openvino", "torch_export")


def exported_files(
    network: nn.Module, example: Tensor, format_name: str, *, onnx: bytes | None = None
) -> dict[str, bytes]:
    """Content of the files of a network, by extension.

    Args:
        network: in evaluation mode, on the CPU.
        example: two patches, (2, C, *patch); one for a network that finds objects.
        format_name: one of FORMATS.
        onnx: the same network in ONNX, if it has been written already.

    Raises:
        ConfigError: a package is missing.
        MedsegError: the network cannot be written in that format.
    """
    try:
        with _quiet():
            if format_name == "torch_export":
                return {".pt2": _torch_program(network, example)}
            model = onnx or _onnx(network, example)
            return {".onnx": model} if format_name == "onnx" else _openvino(model)
    except ImportError as error:
        raise ConfigError(
            "format",
            f"{format_name} needs {error.name}, which is not installed",
            "pip install 'medseg[export]'",
        ) from error
    except MedsegError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise MedsegError(
            f"format {format_name}",
            f"cannot hold this network: {reason[0] if reason else type(error).__name__}",
            "leave this format out, or use another network",
            code="E_EXPORT",
        ) from error


def _torch_program(network: nn.Module, example: Tensor) -> bytes:
    shapes = None if isinstance(network, Detector) else _free_batch()
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), buffer)
    return buffer.getvalue()


def _onnx(network: nn.Module, example: Tensor) -> bytes:
    import onnxscript  # noqa: F401 - torch.onnx needs it, and says so less clearly

    names, shapes = ["logits"], _free_batch()
    if isinstance(network, Detector):
        with torch.no_grad():
            names, shapes = list(flat(network(example))), None
        network = FlatOutputs(network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["patches"],
            output_names=names,
            dynamic_shapes=shapes,
        )
        return path.read_bytes()


def _openvino(model: bytes) -> dict[str, bytes]:
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        read = openvino.Core().read_model(model=model)
        openvino.save_model(read, path, compress_to_fp16=False)
        return {".xml": path.read_bytes(), ".bin": path.with_suffix(".bin").read_bytes()}


def _free_batch() -> Any:
    return ({0: torch.export.Dim("patches", min=1, max=4096)},)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say about themselves."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings(action="ignore"):
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
