"""Raw outputs of a detector as one row of named tensors, which is what other runtimes know."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medseg.models.detection.objects import Output

SEPARATOR = "_level_"


def flat(outputs: Mapping[str, Output]) -> dict[str, Tensor]:
    """Every tensor by its name, those of several resolutions with their number after it."""
    named: dict[str, Tensor] = {}
    for name, output in outputs.items():
        if isinstance(output, Tensor):
            named[name] = output
        else:
            named |= {f"{name}{SEPARATOR}{n}": part for n, part in enumerate(output)}
    return named


def nested(named: Mapping[str, Tensor]) -> dict[str, Output]:
    """What `flat` was given, from what it gave, in any order."""
    outputs: dict[str, Output] = {}
    levels: dict[str, dict[int, Tensor]] = {}
    for key, tensor in named.items():
        name, _, number = key.partition(SEPARATOR)
        if number:
            levels.setdefault(name, {})[int(number)] = tensor
        else:
            outputs[name] = tensor
    for name, parts in levels.items():
        outputs[name] = [parts[n] for n in sorted(parts)]
    return outputs


class FlatOutputs(nn.Module):
    """A detector that gives its tensors in a row.

    Args:
        network: the detector.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(self.network(image)).values())
