"""The networks of conf/model, found there, and options that make each small enough for a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from medseg.config.build import allowed_packages, resolve_target, signature_of
from medseg.config.compose import conf_dir
from medseg.models.build import build_model

SHAPES = {2: (32, 48), 3: (16, 32, 16)}


def node_of(name: str) -> dict[str, Any]:
    """Content of a network's option."""
    node: dict[str, Any] = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    return node


def is_detector(name: str) -> bool:
    """Whether a network finds objects instead of giving logits."""
    return hasattr(_class_of(name), "detect")


def _class_of(name: str) -> Any:
    return resolve_target(node_of(name)["_target_"], where="model", packages=allowed_packages())


_OPTIONS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
DETECTORS = [name for name in _OPTIONS if is_detector(name)]
NETWORKS = [name for name in _OPTIONS if not is_detector(name)]
CASES = [(name, dims) for name in NETWORKS for dims in (2, 3)]
IDS = [f"{name}-{dims}D" for name, dims in CASES]

every_detector = pytest.mark.parametrize(
    ("name", "dims"),
    [pytest.param(name, dims, id=f"{name}-{dims}D") for name in DETECTORS for dims in (2, 3)],
)

_FIRST = {node_of(name)["_target_"]: name for name in reversed(NETWORKS)}

# Of the options of one class, such as the three FCNs, the usual runs take the first alone; VNet's
# 45 million parameters in 3D have no option that makes them fewer.
_HEAVY = [("vnet", 3)]


def marks_of(name: str, dims: int, *, usual: Any = ()) -> Any:
    """Marks of a test of one network; `usual` are those of the networks that usual runs take."""
    if _FIRST[node_of(name)["_target_"]] != name:
        return pytest.mark.exhaustive
    return pytest.mark.slow if (name, dims) in _HEAVY else usual


every_network = pytest.mark.parametrize(
    ("name", "dims"),
    [
        pytest.param(
            name,
            dims,
            id=f"{name}-{dims}D",
            marks=marks_of(name, dims),
        )
        for name, dims in CASES
    ],
)

# By the argument's name, so that a new network needs no entry here.
SMALL: dict[str, Any] = {"base_channels": 4, "feature_size": 12, "depth": 18, "window_size": 3}


def accepted(name: str) -> tuple[str, ...]:
    """Arguments of a network's class."""
    return signature_of(_class_of(name)).parameters


def small_network(
    name: str,
    dims: int,
    *,
    in_channels: int = 1,
    out_channels: int = 3,
    shape: Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """A network of few channels, with the seed 0, for patches of a shape."""
    arguments = accepted(name)
    chosen = {key: value for key, value in SMALL.items() if key in arguments}
    if "patch_size" in arguments:
        chosen["patch_size"] = list(shape or SHAPES[dims])
    torch.manual_seed(0)
    return build_model(
        name,
        spatial_dims=dims,
        in_channels=in_channels,
        out_channels=out_channels,
        **{**chosen, **options},
    )


def random_image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def as_list(logits: Tensor | list[Tensor]) -> list[Tensor]:
    return logits if isinstance(logits, list) else [logits]
