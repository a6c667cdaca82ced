"""Networks of a bundle in other runtimes, on the CPU: patches in, every output by its name out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError
from medseg.inference.openvino_runtime import import_openvino

RUNTIMES = ("onnx", "openvino")
"""Those that give PyTorch's logits; "openvino_int8" does not, and has to be asked for."""


class ExportedNetwork(Protocol):
    """One network.

    Args:
        precision: that it computes in, for people.
    """

    precision: str

    def __call__(self, patches: Tensor) -> Mapping[str, NDArray[np.float32]]:
        """Every output by name, of patches (N, C, *P); valid until the next call."""
        ...


class OnnxNetwork:
    """A network in ONNX Runtime.

    Args:
        model: content of an .onnx file.
    """

    precision = "32-true"

    def __init__(self, model: bytes) -> None:
        runtime = _imported("onnxruntime", lambda: importlib.import_module("onnxruntime"))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # From bytes, so that a file cannot name other files whose content nobody has checked.
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, patches: Tensor) -> Mapping[str, NDArray[np.float32]]:
        given = {self._input: patches.float().contiguous().numpy()}
        return dict(zip(self._outputs, self._session.run(None, given), strict=True))


class OpenVinoNetwork:
    """A network in OpenVINO.

    Args:
        xml, weights: content of its two files.
        precision: "bf16-mixed" computes in bf16 where the CPU does it natively.
    """

    def __init__(self, xml: bytes, weights: bytes, *, precision: str) -> None:
        runtime = _imported("openvino", import_openvino)
        self.precision = "bf16-mixed" if precision == "bf16-mixed" else "32-true"
        core = runtime.Core()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16-mixed" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        read = core.read_model(model=xml, weights=weights)
        self._model = core.compile_model(read, "CPU", options)

    def __call__(self, patches: Tensor) -> Mapping[str, NDArray[np.float32]]:
        found = self._model([patches.float().contiguous().numpy()])
        return {port.get_any_name(): values for port, values in found.items()}


def network_of_files(
    runtime: str, files: Mapping[str, bytes], *, precision: str = "32-true"
) -> ExportedNetwork:
    """One network, from the content of its files by extension.

    Raises:
        ConfigError: the runtime is not installed.
    """
    if runtime == "onnx":
        return OnnxNetwork(files[".onnx"])
    return OpenVinoNetwork(files[".xml"], files[".bin"], precision=precision)


def exported_networks(
    bundle: ModelBundle, runtime: str, *, precision: str
) -> list[ExportedNetwork]:
    """The networks of all folds that a bundle carries for a runtime.

    Raises:
        ConfigError: it carries none, or the runtime is not installed.
    """
    names = bundle.exports(runtime)
    if not names:
        raise ConfigError(
            "inference.engine",
            f"is {runtime}, but {bundle.folder} carries no network for it",
            f"write it with: python -m medseg export bundle={bundle.folder} 'format=[{runtime}]'",
        )
    stems = sorted({name.rpartition(".")[0] for name in names})
    return [
        network_of_files(
            runtime,
            {name[len(stem) :]: bundle.read(name) for name in names if name.startswith(f"{stem}.")},
            precision=precision,
        )
        for stem in stems
    ]


def _imported(package: str, load: Callable[[], ModuleType]) -> Any:
    try:
        return load()
    except ImportError as error:
        raise ConfigError(
            "inference.engine",
            f"needs {package}, which is not installed",
            "pip install 'medseg[export]', or set inference.engine=torch",
        ) from error
