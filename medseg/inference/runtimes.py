"""The engine of a bundle's networks, from those that it carries for other runtimes, and the choice
of the fastest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.bundle import ModelBundle
from medseg.core.errors import MedsegError
from medseg.inference.engines import Engine, TorchEngine
from medseg.inference.exported_networks import RUNTIMES, ExportedNetwork, exported_networks
from medseg.inference.object_engines import ExportedDetector
from medseg.inference.precision import autocast
from medseg.inference.sliding_window import EngineName

logger = logging.getLogger(__name__)


class ExportedEngine:
    """Networks that give logits, in another runtime.

    Args:
        name: of the runtime.
        networks: one for each fold.
    """

    device = "cpu"

    def __init__(self, name: str, networks: Sequence[ExportedNetwork]) -> None:
        self.name = name
        self.precision = networks[0].precision
        self._networks = networks

    def __call__(self, patches: Tensor) -> Tensor:
        """The mean over folds, in memory of its own."""
        outputs = self._outputs(patches)
        total = torch.from_numpy(np.array(outputs[0], dtype=np.float32))
        for output in outputs[1:]:
            total += torch.from_numpy(np.asarray(output))
        return total.div_(len(outputs)) if len(outputs) > 1 else total

    def each(self, patches: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(self._outputs(patches), axis=1))

    def on_cpu(self) -> None:
        return None

    def _outputs(self, patches: Tensor) -> list[NDArray[np.float32]]:
        return [next(iter(network(patches).values())) for network in self._networks]


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
        return ExportedEngine(name, exported_networks(bundle, name, precision=precision))
    found = _that_can_be_had(bundle, torch_engine.device, precision)
    engines: dict[str, Engine] = {
        "torch": torch_engine,
        **{runtime: ExportedEngine(runtime, networks) for runtime, networks in found.items()},
    }
    return engines[_fastest(bundle, engines, precision)]


def make_detector(
    bundle: ModelBundle, name: EngineName, network: nn.Module, *, device: str, precision: str
) -> ExportedDetector | None:
    """What finds objects instead of PyTorch, as `make_engine` chooses; None for PyTorch itself.

    Args:
        bundle: may carry its network for other runtimes.
        name: of the engine.
        network: of the bundle, in evaluation mode.
        device: that the network is on.
        precision: that PyTorch computes in.

    Raises:
        ConfigError: the bundle carries no network for the engine.
    """
    size = tuple(bundle.plan.patch_size or ())
    if name == "torch":
        return None
    if name != "auto":
        (exported,) = exported_networks(bundle, name, precision=precision)
        return ExportedDetector(exported, network, patch_size=size)
    found = {
        runtime: ExportedDetector(networks[0], network, patch_size=size)
        for runtime, networks in _that_can_be_had(bundle, device, precision).items()
    }
    best = _fastest(bundle, {"torch": network, **found}, precision)
    return found.get(best)


def _that_can_be_had(
    bundle: ModelBundle, device: str, precision: str
) -> dict[str, list[ExportedNetwork]]:
    """The networks of each runtime; of none where PyTorch has a GPU."""
    found = {}
    for name in RUNTIMES if device == "cpu" else ():
        if not bundle.exports(name):
            continue
        try:
            found[name] = exported_networks(bundle, name, precision=precision)
        except MedsegError as error:
            logger.warning("engine %s is left out: %s", name, error)
    return found


def _fastest(
    bundle: ModelBundle, engines: Mapping[str, Callable[[Tensor], object]], precision: str
) -> str:
    """The name of the one that takes least time for a patch."""
    if len(engines) == 1:
        logger.info("engine torch: there is no other one that the bundle carries a network for")
        return "torch"
    patch = torch.zeros(1, bundle.num_channels, *(bundle.plan.patch_size or ()))
    seconds = {name: _seconds(engine, patch, precision) for name, engine in engines.items()}
    best = min(seconds, key=lambda name: seconds[name])
    measured = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
    logger.info("engine %s: a patch takes %s", best, measured)
    return best


def _seconds(engine: Callable[[Tensor], object], patch: Tensor, precision: str) -> float:
    """The shorter of two calls after one to warm up."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.no_grad(), autocast("cpu", precision):
            engine(patch)
        times.append(time.perf_counter() - start)
    return min(times[1:])
