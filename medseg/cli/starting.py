"""Training that begins with a trained bundle (its plan, its weights) or a file of weights, and the
report of what fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import nn

from medseg.bundle import ModelBundle
from medseg.cli.console import console
from medseg.config.build import build
from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.data.plan import Plan
from medseg.models.weight_files import load_weights, read_weights
from medseg.models.weights import Matches, WeightReport, matches, start_from

_REASON = "that of the bundle to start from"
# The batch size depends on the device, not on the weights.
_ADOPTED = (
    "orientation", "spacing_mm", "patch_size", "strides", "kernel_sizes", "base_channels",
    "light_finest", "colour", "object_sizes",
)  # fmt: skip


def start_bundle(cfg: DictConfig) -> ModelBundle | None:
    """The bundle to start from; None if the start is random, or a file of weights alone."""
    if cfg.start_from is None or Path(str(cfg.start_from)).expanduser().is_file():
        return None
    bundle = ModelBundle.load(Path(str(cfg.start_from)).expanduser())
    dims = bundle.plan.spatial_dims
    if dims != int(cfg.model.spatial_dims):
        raise ConfigError(
            "start_from",
            f"is a {dims}D network, but model.spatial_dims is {cfg.model.spatial_dims}",
            f"set model.spatial_dims={dims}",
        )
    return bundle


def adopted_plan(
    given: Plan, bundle: ModelBundle, *, num_channels: int, channel_names: Sequence[str]
) -> Plan:
    """The plan with what is still open taken from the bundle.

    Normalisation is taken over only where the channels are the same.
    """
    entries: dict[str, Any] = {
        name: getattr(bundle.plan, name) for name in _ADOPTED if getattr(given, name) is None
    }
    if "light_finest" in entries:
        # A bundle whose plan does not have it is older, and its network's finest stage whole.
        entries["light_finest"] = bool(bundle.plan.light_finest)
    found = channel_matches(bundle, num_channels=num_channels, channel_names=channel_names)
    if given.normalisation is None and found == list(range(bundle.num_channels)):
        entries["normalisation"] = bundle.plan.normalisation
    return replace(given, **entries)


def reasons_of(given: Plan, adopted: Plan) -> dict[str, str]:
    """The reason of each entry that was taken from the bundle."""
    return {
        name: _REASON
        for name in (*_ADOPTED, "normalisation")
        if getattr(given, name) is None and getattr(adopted, name) is not None
    }


def take_weights(
    network: nn.Module,
    bundle: ModelBundle,
    cfg: DictConfig,
    *,
    labels: LabelSet,
    num_channels: int,
    channel_names: Sequence[str],
) -> None:
    """Copies what fits from the bundle into the network and prints what became of it.

    Of several folds the one of the same number is taken, else the first.

    Raises:
        ConfigError: nothing fits.
    """
    wanted = f"weights/fold_{cfg.fold}.safetensors"
    name = wanted if wanted in bundle.weight_files else bundle.weight_files[0]
    old_names, new_names = _output_names(bundle.labels), _output_names(labels)
    outputs = matches(old_names, new_names)
    channels = channel_matches(bundle, num_channels=num_channels, channel_names=channel_names)
    report = start_from(
        network,
        load_file(bundle.folder / name),
        make=lambda ins, outs: build(cfg.model, in_channels=ins, out_channels=outs),
        channels=channels,
        outputs=outputs,
    )
    if not report.copied:
        raise ConfigError(
            "start_from",
            f"{bundle.folder} holds weights of {bundle.card['network']['class']}, of which none "
            f"fits {cfg.model._target_}",
            "choose the model and the plan that the bundle was trained with",
        )
    _print(report, bundle.folder / name, old_names, new_names, channels)


def take_file(network: nn.Module, path: Path, *, inflate: bool) -> None:
    """Copies what fits from a file of weights into the network and prints what became of it.

    Raises:
        InputError: the file holds no weights, or none that fit.
    """
    report = load_weights(network, read_weights(path.expanduser()), inflate=inflate)
    console.print(f"starting from {path}: {report}", soft_wrap=True, markup=False)


def channel_matches(
    bundle: ModelBundle, *, num_channels: int, channel_names: Sequence[str]
) -> list[int | None]:
    """Which channel of the bundle each channel continues: that of the same name, or of the same
    number where one of them names none.
    """
    data = bundle.card.get("data")
    old = [str(name) for name in (data or {}).get("channel_names") or ()]
    if len(old) == bundle.num_channels and len(channel_names) == num_channels:
        return matches(old, list(channel_names))
    return [n if n < bundle.num_channels else None for n in range(num_channels)]


def _output_names(labels: LabelSet) -> list[str]:
    return [region.name for region in labels.regions] or list(labels.names)


def _print(
    report: WeightReport,
    source: Path,
    old_names: Sequence[str],
    new_names: Sequence[str],
    channels: Matches,
) -> None:
    console.print(f"starting from {source}: {report}", soft_wrap=True, markup=False)
    facts = [
        ("labels kept", [name for name in new_names if name in old_names]),
        ("labels that are new", [name for name in new_names if name not in old_names]),
        ("labels left out", [name for name in old_names if name not in new_names]),
        ("channels that are new", [str(n) for n, found in enumerate(channels) if found is None]),
    ]
    for title, names in facts:
        if names:
            console.print(f"  {title}: {', '.join(names)}", soft_wrap=True, markup=False)
