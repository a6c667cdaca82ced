"""Engines of other runtimes, from the exported networks that a bundle carries, and the choice of
the fastest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError, MedsegError
from medseg.inference.engines import Engine, TorchEngine
from medseg.inference.sliding_window import EngineName

logger = logging.getLogger(__name__)


class OnnxEngine:
    """Networks in ONNX Runtime, on the CPU.

    Args:
        models: content of one .onnx file for each fold.
    """

    name = "onnx"
    device = "cpu"
    precision = "32-true"

    def __init__(self, models: Sequence[bytes]) -> None:
        runtime = _imported("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # From bytes, so that a file cannot name other files whose content nobody has checked.
        self._sessions = [
            runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for model in models
        ]

    def __call__(self, patches: Tensor) -> Tensor:
        return _mean(self._outputs(patches))

    def each(self, patches: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(self._outputs(patches), axis=1))

    def _outputs(self, patches: Tensor) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        given = {self._sessions[0].get_inputs()[0].name: patches.float().contiguous().numpy()}
        return [session.run(None, given)[0] for session in self._sessions]

    def on_cpu(self) -> None:
        return None


class OpenVinoEngine:
    """Networks in OpenVINO, on the CPU.

    Args:
        models: .xml and .bin content for each fold.
        precision: "bf16-mixed" computes in bf16 where the CPU does it natively.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, models: Sequence[tuple[bytes, bytes]], *, precision: str) -> None:
        runtime = _imported("openvino")
        self.precision = "bf16-mixed" if precision == "bf16-mixed" else "32-true"
        core = runtime.Core()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16-mixed" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._models = [
            core.compile_model(core.read_model(model=xml, weights=weights), "CPU", options)
            for xml, weights in models
        ]

    def __call__(self, patches: Tensor) -> Tensor:
        return _mean(self._outputs(patches))

    def each(self, patches: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(self._outputs(patches), axis=1))

    def _outputs(self, patches: Tensor) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        given = patches.float().contiguous().numpy()
        return [next(iter(model([given]).values())) for model in self._models]

    def on_cpu(self) -> None:
        return None


def make_engine(
    bundle: ModelBundle, name: EngineName, torch_engine: TorchEngine, *, precision: str
) -> Engine:
    """The engine of a name; "auto" measures those there are on one patch and takes the fastest.

    Args:
        bundle: may carry exported networks.
        name: of the engine.
        torch_engine: of the same bundle.
        precision: that PyTorch computes in.

    Raises:
        ConfigError: the bundle carries no network for the engine.
    """
    if name == "torch":
        return torch_engine
    if name != "auto":
        if not bundle.exports(name):
            raise ConfigError(
                "inference.engine",
                f"is {name}, but {bundle.folder} carries no network for it",
                f"write it with: python -m medseg export bundle={bundle.folder} 'format=[{name}]'",
            )
        return _exported_engine(bundle, name, precision)
    return _fastest(bundle, torch_engine, precision)


def _exported_engine(bundle: ModelBundle, name: str, precision: str) -> Engine:
    files = bundle.exports(name)
    if name == "onnx":
        return OnnxEngine([bundle.read(file) for file in files])
    pairs = [
        (bundle.read(file), bundle.read(file.removesuffix(".xml") + ".bin"))
        for file in files
        if file.endswith(".xml")
    ]
    return OpenVinoEngine(pairs, precision=precision)


def _fastest(bundle: ModelBundle, torch_engine: TorchEngine, precision: str) -> Engine:
    engines: list[Engine] = [torch_engine]
    if torch_engine.device == "cpu":
        for name in ("onnx", "openvino"):
            try:
                if bundle.exports(name):
                    engines.append(_exported_engine(bundle, name, precision))
            except MedsegError as error:
                logger.warning("engine %s is left out: %s", name, error)
    if len(engines) == 1:
        logger.info("engine torch: there is no other one that the bundle carries a network for")
        return torch_engine
    patch = torch.zeros(1, bundle.num_channels, *(bundle.plan.patch_size or ()))
    seconds = [_seconds(engine, patch) for engine in engines]
    best = int(np.argmin(seconds))
    measured = ", ".join(f"{e.name} {s:.3f} s" for e, s in zip(engines, seconds, strict=True))
    logger.info("engine %s: a patch takes %s", engines[best].name, measured)
    return engines[best]


def _seconds(engine: Engine, patch: Tensor) -> float:
    """The shorter of two calls after one to warm up."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        engine(patch)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _mean(outputs: Sequence[np.ndarray[Any, np.dtype[np.float32]]]) -> Tensor:
    """The mean over folds, in memory of its own."""
    total = torch.from_numpy(np.array(outputs[0], dtype=np.float32))
    for output in outputs[1:]:
        total += torch.from_numpy(np.asarray(output))
    return total.div_(len(outputs)) if len(outputs) > 1 else total


def _imported(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            "inference.engine",
            f"needs {package}, which is not installed",
            "pip install 'medseg[export]', or set inference.engine=torch",
        ) from error
