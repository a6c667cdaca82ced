"""A network by the name of its option in conf/model, with numbers as arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from torch import nn

from medseg.config.build import build
from medseg.config.compose import conf_dir, project_conf_dir
from medseg.core.errors import ConfigError


def build_model(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    **options: Any,
) -> nn.Module:
    """An untrained network.

    Args:
        name: option in conf/model, such as "unet".
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: channels of the logits.
        options: further arguments of the network's class; what is left out takes the value in
            conf/model, or the class's default where the option refers to a plan.

    Raises:
        ConfigError: the name or an option does not exist, or a value does not fit.
    """
    node = {key: value for key, value in _option(name).items() if not _refers_to_plan(value)}
    network: nn.Module = build(
        node,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        **options,
    )
    return network


def _option(name: str) -> dict[str, Any]:
    folders = [folder for folder in (conf_dir(), project_conf_dir()) if folder is not None]
    options = {
        path.stem: path
        for folder in reversed(folders)
        for path in (folder / "model").glob("*.yaml")
    }
    if name not in options:
        raise ConfigError(
            f"model={name}",
            "there is no such network",
            f"choose one of {', '.join(sorted(options))}",
        )
    content: dict[str, Any] = yaml.safe_load(Path(options[name]).read_text())
    content.pop("defaults", None)  # which other options the network wants, such as its task
    return content


def _refers_to_plan(value: Any) -> bool:
    return isinstance(value, str) and "${" in value
