"""Weights of another training as the start of a network: torchvision's FCN and DeepLab v3, or any
network of medseg; with a report of what was taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medseg.core.errors import InputError
from medseg.models.weights import WeightReport, misfit

# torchvision's names to medseg's, applied in this order.
_TORCHVISION = [
    (r"^backbone\.conv1\.", "encoder.conv."),
    (r"^backbone\.bn1\.", "encoder.norm."),
    (r"^backbone\.layer", "encoder.layer"),
    (r"^encoder\.layer(\d)\.(\d+)\.downsample\.", r"encoder.layer\1.\2.shortcut."),
    (r"^encoder\.layer(\d)\.(\d+)\.conv(\d)\.", r"encoder.layer\1.\2.convs.<\3>."),
    (r"^encoder\.layer(\d)\.(\d+)\.bn(\d)\.", r"encoder.layer\1.\2.norms.<\3>."),
    (r"^encoder\.layer(\d)\.", r"encoder.stages.<\1>."),
    (r"^aux_classifier\.", "auxiliary."),
    (r"^classifier\.0\.convs\.4\.1\.", "pyramid.pooled.conv."),
    (r"^classifier\.0\.convs\.4\.2\.", "pyramid.pooled.norm."),
    (r"^classifier\.0\.convs\.(\d)\.0\.", r"pyramid.branches.\1.conv."),
    (r"^classifier\.0\.convs\.(\d)\.1\.", r"pyramid.branches.\1.norm."),
    (r"^classifier\.0\.project\.0\.", "pyramid.join.0.conv."),
    (r"^classifier\.0\.project\.1\.", "pyramid.join.0.norm."),
]
_DEEPLAB_HEAD = [
    (r"^classifier\.1\.", "head.0.conv."),
    (r"^classifier\.2\.", "head.0.norm."),
    (r"^classifier\.4\.", "head.1."),
]
_FCN_HEAD = [(r"^classifier\.", "head.")]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """State dict of a .safetensors file or of a file of torch.save; runs no code from it.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise InputError(path, f"cannot be read: {error}", "check the path") from error
    except Exception as error:  # torch names no common class for what it refuses
        raise InputError(
            path,
            f"is no plain file of weights ({type(error).__name__})",
            "save model.state_dict() alone, best as .safetensors",
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InputError(path, "holds no state dict", "save model.state_dict()")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) != len(content):
        raise InputError(path, "holds other things than weights", "save model.state_dict() alone")
    return tensors


def load_weights(
    network: nn.Module, weights: Mapping[str, Tensor], *, inflate: bool = False
) -> WeightReport:
    """Copies every weight that fits into the network, and says what became of the others.

    torchvision's names (fcn_resnet50 and -101, deeplabv3_resnet50 and -101) are translated; any
    other state dict is taken by its own names. The first convolution's kernels are summed for an
    image of one channel, as if it were grey in every colour.

    Args:
        network: is changed in place.
        weights: state dict.
        inflate: repeat 2D kernels along the last axis of a 3D network, divided by their number, so
            that a volume whose slices are all alike gives what the slice gave (Carreira and
            Zisserman 2017, CVPR). The others stay as they are.

    Raises:
        InputError: not a single weight fits.
    """
    own = network.state_dict()
    renamed = {_translated(key, weights): value for key, value in weights.items()}
    copied: list[str] = []
    adapted: list[str] = []
    misfits: list[str] = []
    unused: list[str] = []
    with torch.no_grad():
        for key, value in renamed.items():
            if key not in own:
                unused.append(key)
                continue
            wanted = own[key]
            candidate = _fitted(value, wanted, inflate=inflate)
            if candidate.shape != wanted.shape:
                misfits.append(misfit(key, value, wanted))
                continue
            (copied if candidate is value else adapted).append(key)
            wanted.copy_(candidate)
    if not copied and not adapted:
        raise InputError(
            "weights",
            "not one of them fits the network",
            "choose the network they were trained with, or inflate 2D weights for a 3D network",
        )
    missing = [key for key in own if key not in renamed]
    return WeightReport(
        tuple(copied), tuple(adapted), tuple(misfits), tuple(missing), tuple(unused)
    )


def _translated(key: str, weights: Mapping[str, Tensor]) -> str:
    if "backbone.conv1.weight" not in weights:
        return key
    is_deeplab = any(name.startswith("classifier.0.convs.") for name in weights)
    for pattern, replacement in [*_TORCHVISION, *(_DEEPLAB_HEAD if is_deeplab else _FCN_HEAD)]:
        key = re.sub(pattern, replacement, key)
    # torchvision counts layers and convolutions from 1.
    return re.sub(r"<(\d)>", lambda found: str(int(found[1]) - 1), key)


def _fitted(value: Tensor, wanted: Tensor, *, inflate: bool) -> Tensor:
    """The value with the wanted number of axes and image channels where that can be had."""
    result = value
    if inflate and value.ndim == 4 and wanted.ndim == 5:
        depth = int(wanted.shape[4])
        result = result[..., None].expand(*value.shape, depth) / depth
    if result.ndim >= 4 and result.shape[1] == 3 and wanted.shape[1] == 1:
        result = result.sum(1, keepdim=True)
    return result
