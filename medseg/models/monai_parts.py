"""What all networks of MONAI need to serve here: any extents, and normalisation of one voxel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.networks.blocks import MLPBlock
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import (
    Activation,
    Initialisation,
    Norm,
    activation_layer,
    crop,
    initialise,
    norm_layer,
    resize,
)
from medseg.models.extents import padded
from medseg.models.norms import InstanceNorm


def run_padded(
    network: Callable[[Tensor], Tensor | list[Tensor] | tuple[Tensor, ...]],
    image: Tensor,
    multiple: Sequence[int],
) -> Tensor | list[Tensor]:
    """Logits of an image of any extents from a network that takes multiples of `multiple` only.

    Of several outputs the coarser ones are enlarged where zeros were put around the image, so that
    all show the same voxels.
    """
    larger = padded(image, multiple)
    logits = network(larger)
    if isinstance(logits, Tensor):
        return crop(logits, image.shape[2:])
    if larger is image:
        return list(logits)
    return [crop(resize(part, larger.shape[2:]), image.shape[2:]) for part in logits]


def single(logits: Tensor | list[Tensor]) -> Tensor:
    """The logits of a network that has one output."""
    assert isinstance(logits, Tensor)
    return logits


def configure(
    network: nn.Module,
    spatial_dims: int,
    *,
    norm: Norm,
    activation: Activation | None,
    initialisation: Initialisation,
) -> None:
    """Brings the choices of `medseg.models.blocks` into a network of MONAI.

    Args:
        network: changed in place.
        norm: takes the place of MONAI's layers, which refuse maps of one voxel. Names and weights
            stay where both are the same normalisation.
        activation: of the convolutions; those of transformers stay. None keeps MONAI's.
        initialisation: "pytorch" keeps MONAI's.
    """
    replace_norms(network, norm, spatial_dims)
    if activation is not None:
        _replace_activations(network, activation)
    initialise(network, initialisation)


def replace_norms(network: nn.Module, norm: Norm, spatial_dims: int) -> None:
    """Puts medseg's normalisation in the place of MONAI's.

    Instance normalisation without weights stays without.
    """
    kinds: tuple[type[Any], ...] = (
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
        nn.GroupNorm,
    )
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, kinds):
                continue
            channels = int(getattr(child, "num_features", None) or child.num_channels)
            if norm == "instance" and not child.affine:
                setattr(module, name, InstanceNorm(channels, affine=False))
            else:
                setattr(module, name, norm_layer(norm, spatial_dims, channels))


def _replace_activations(network: nn.Module, activation: Activation) -> None:
    kinds = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU)
    for module in list(network.modules()):
        if isinstance(module, MLPBlock):
            continue
        for name, child in list(module.named_children()):
            if isinstance(child, kinds):
                setattr(module, name, activation_layer(activation))


def checked_dims(spatial_dims: int) -> int:
    if spatial_dims not in (2, 3):
        raise ConfigError("model.spatial_dims", f"is {spatial_dims}", "set it to 2 or 3")
    return spatial_dims
