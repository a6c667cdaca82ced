"""What computes a network: patches in, mean logits of all folds out. One interface for PyTorch and
other runtimes, and one way to go on when the memory does not suffice.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from medseg.inference.precision import autocast, best_precision

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Computes all networks of a bundle.

    Args:
        name: "torch", "onnx" or "openvino".
        device: that patches are taken from and logits come back on.
        precision: that is computed in, for people.
    """

    name: str
    device: str
    precision: str

    def __call__(self, patches: Tensor) -> Tensor:
        """Mean logits (N, channels, *P), float32, of patches (N, C, *P)."""
        ...

    def each(self, patches: Tensor) -> Tensor:
        """Logits of each fold, (N, folds, channels, *P), float32."""
        ...

    def on_cpu(self) -> Engine | None:
        """The same on the CPU, to be used instead from now on; None if it is there already."""
        ...


class TorchEngine:
    """Networks in PyTorch.

    Args:
        networks: one for each fold, in evaluation mode and on the device.
        device: "cpu" or "cuda".
        precision: as for `medseg.inference.precision.autocast`.
    """

    name = "torch"

    def __init__(self, networks: Sequence[nn.Module], *, device: str, precision: str) -> None:
        self.networks = networks
        self.device = device
        self.precision = precision

    def __call__(self, patches: Tensor) -> Tensor:
        total: Tensor | None = None
        # Not inference mode: what comes out is changed in place by the caller.
        with torch.no_grad(), autocast(self.device, self.precision):
            for network in self.networks:
                part = network(patches).float()
                total = part if total is None else total.add_(part)
        assert total is not None
        return total.div_(len(self.networks)) if len(self.networks) > 1 else total

    def each(self, patches: Tensor) -> Tensor:
        with torch.no_grad(), autocast(self.device, self.precision):
            return torch.stack([network(patches).float() for network in self.networks], dim=1)

    def on_cpu(self) -> TorchEngine | None:
        if torch.device(self.device).type == "cpu":
            return None
        networks = [copy.deepcopy(network).cpu() for network in self.networks]
        return TorchEngine(networks, device="cpu", precision=best_precision("cpu"))


class SteadyEngine:
    """An engine that takes fewer patches at once, and at last the CPU, when the memory of its
    device does not suffice; the logits stay the same.

    Args:
        engine: that is tried first.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._most: int | None = None

    def __call__(self, patches: Tensor) -> Tensor:
        return self._run(patches, lambda engine, part: engine(part))

    def each(self, patches: Tensor) -> Tensor:
        """As the engine's own."""
        return self._run(patches, lambda engine, part: engine.each(part))

    def _run(self, patches: Tensor, work: Callable[[Engine, Tensor], Tensor]) -> Tensor:
        outputs: list[Tensor] = []
        done = 0
        while done < len(patches):
            part = patches[done : done + (self._most or len(patches))]
            try:
                outputs.append(work(self.engine, part.to(self.engine.device)).to(patches.device))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._step_down(len(part), error)
                continue
            done += len(part)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _step_down(self, tried: int, error: Exception) -> None:
        if tried > 1:
            self._most = tried // 2
            logger.warning(
                "%d patches do not fit into the memory of %s: going on with %d at once",
                tried,
                self.engine.device,
                self._most,
            )
        else:
            other = self.engine.on_cpu()
            if other is None:
                raise error
            logger.warning(
                "a patch does not fit into the memory of %s: going on with the CPU",
                self.engine.device,
            )
            self.engine = other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is missing, on a GPU or in the machine."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "allocate memory" in text
        or "bad allocation" in text
    )
