"""What the doctor says of networks: their cost at a plan, one by one or all in a table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.table import Table
from torch import nn

from medseg.cli.console import counting
from medseg.cli.findings import Finding, finding_of
from medseg.cli.network_plan import requirements
from medseg.config.build import build
from medseg.config.check import load_config
from medseg.config.compose import groups
from medseg.core.errors import ConfigError, MedsegError
from medseg.data.case_facts import CaseFingerprint
from medseg.data.fingerprint import Fingerprint
from medseg.data.plan import Plan
from medseg.data.planning import make_plan
from medseg.inference.cost import Cost, measure_cost
from medseg.inference.precision import best_device, best_precision

LARGE_IMAGE = 256
"""Extent of the isotropic image that a plan is made for where none is given: larger than any patch,
so that the device alone decides.
"""


def network_findings(cfg: DictConfig) -> list[Finding]:
    """Cost of the network of `model` at the plan that was given."""
    try:
        network, plan = _network(cfg)
        cost = _measure(cfg, network, plan)
    except MedsegError as error:
        return [finding_of(error)]
    patch = tuple(plan.patch_size or ())
    device = best_device()
    whole = all(field >= extent for field, extent in zip(cost.receptive_field, patch, strict=True))
    findings = [
        Finding("network", f"{type(network).__name__}, {plan.spatial_dims}D"),
        Finding(
            "plan",
            f"patch {_dims(patch)}, batch {plan.batch_size}, {cfg.in_channels} image channels, "
            f"{cfg.out_channels} classes; {device}, precision {best_precision(device)}",
        ),
        Finding("parameters", f"{cost.parameters:,}"),
        Finding(
            "FLOPs",
            f"{cost.forward_flops / 1e9:.2f} billion for a patch, {cost.step_flops / 1e9:.2f} "
            "billion for a training step",
        ),
        Finding(
            "receptive field",
            "the whole patch" if whole else f"{_dims(cost.receptive_field)} voxels of the patch",
        ),
        Finding("memory", f"{cost.step_bytes / 2**20:.0f} MiB of tensors in a training step"),
        Finding(
            "time",
            f"{cost.forward_seconds:.3f} s to predict a patch, {cost.step_seconds:.3f} s for a "
            "training step without the optimizer",
        ),
    ]
    for fact, text in (
        ("parameters", "parameters"),
        ("flops", "FLOPs"),
        ("kept_bytes", "memory kept for the gradient"),
    ):
        name, share = cost.largest(fact)
        findings.append(Finding(f"most {text}", f"{name}, {share:.0%}"))
    return findings


def networks_table(cfg: DictConfig) -> Table:
    """Every network of conf/model in 2D and 3D, at the plan that was given or the device's own."""
    table = Table(title="Networks", title_justify="left", title_style="bold")
    table.add_column("model", no_wrap=True)
    for heading in ("patch", "params [M]", "GFLOP/patch", "MiB/step", "s/step", "s/patch"):
        table.add_column(heading, justify="right")
    names = groups()["model"]
    with counting("measuring networks", 2 * len(names)) as step:
        for name in names:
            for dims in (2, 3):
                try:
                    cells = _cells(*measured(cfg, name, spatial_dims=dims))
                except MedsegError as error:
                    cells = [error.what, "", "", "", "", ""]
                table.add_row(f"{name} {dims}D", *cells)
                step()
    return table


def measured(cfg: DictConfig, name: str, *, spatial_dims: int) -> tuple[Plan, Cost]:
    """Plan and cost of a network by name; the doctor's own numbers are kept where they fit."""
    chosen = load_config("doctor", [f"model={name}", f"model.spatial_dims={spatial_dims}"])
    with open_dict(chosen):
        for key in ("in_channels", "out_channels", "plan_path"):
            chosen[key] = cfg[key]
        for key, value in cfg.plan.items():
            if key not in ("_target_", "spatial_dims") and value is not None:
                chosen.plan[key] = value
    network, plan = _network(chosen)
    return plan, _measure(chosen, network, plan)


def _network(cfg: DictConfig) -> tuple[nn.Module, Plan]:
    """The network, and the plan with its patch rounded up to what the network takes."""
    plan = finished_plan(cfg)
    network = _built(cfg, plan)
    patch = tuple(plan.patch_size or ())
    fitting = [
        math.ceil(max(extent, least) / step) * step
        for extent, step, least in zip(patch, *requirements(network, plan), strict=True)
    ]
    if fitting != list(patch):
        plan = Plan.from_dict({**plan.to_dict(), "patch_size": fitting})
        network = _built(cfg, plan)
    return network, plan


def finished_plan(cfg: DictConfig) -> Plan:
    """The plan of `plan_path`, or one for a large isotropic image, with the numbers of `plan`.

    Raises:
        ConfigError: the file is no plan, or has another number of axes than the network.
    """
    given: Plan = build(cfg.plan)
    device = "cuda" if best_device() == "cuda" else "cpu"
    if cfg.plan_path is None:
        case = CaseFingerprint(
            key="large",
            shape=(LARGE_IMAGE,) * 3,
            spacing_mm=(1.0, 1.0, 1.0),
            orientation="RAS",
            num_channels=int(cfg.in_channels),
            class_voxels=(1,) * int(cfg.out_channels),
            intensity=((0.0, 1.0, -1.0, 1.0),) * int(cfg.in_channels),
        )
        fingerprint = Fingerprint((case,), case.intensity)
        return make_plan(fingerprint, modality="MR", given=given, device=device)
    path = Path(str(cfg.plan_path))
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"plan_path={path}", f"cannot be read: {error}", "give the plan.yaml of a run"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"plan_path={path}", "is no plan", "give the plan.yaml of a run")
    if int(content.get("spatial_dims", 3)) != given.spatial_dims:
        raise ConfigError(
            f"plan_path={path}",
            f"is for {content.get('spatial_dims', 3)}D networks, this one is {given.spatial_dims}D",
            f"set model.spatial_dims={content.get('spatial_dims', 3)}",
        )
    numbers = {k: v for k, v in given.to_dict().items() if v is not None and k != "reasons"}
    return Plan.from_dict({"light_finest": False, **content, **numbers}, where=f"plan_path={path}")


def _built(cfg: DictConfig, plan: Plan) -> nn.Module:
    whole = OmegaConf.create(OmegaConf.to_container(cfg))
    with open_dict(whole):
        whole.plan = {"_target_": cfg.plan._target_, **plan.to_dict()}
    network: nn.Module = build(
        whole.model, in_channels=int(cfg.in_channels), out_channels=int(cfg.out_channels)
    )
    return network


def _measure(cfg: DictConfig, network: nn.Module, plan: Plan) -> Cost:
    device = best_device()
    return measure_cost(
        network,
        in_channels=int(cfg.in_channels),
        out_channels=int(cfg.out_channels),
        patch_size=tuple(plan.patch_size or ()),
        batch_size=plan.batch_size or 1,
        device=device,
        precision=best_precision(device),
    )


def _cells(plan: Plan, cost: Cost) -> list[Any]:
    return [
        _dims(plan.patch_size or ()),
        f"{cost.parameters / 1e6:.2f}",
        f"{cost.forward_flops / 1e9:.2f}",
        f"{cost.step_bytes / 2**20:.0f}",
        f"{cost.step_seconds:.2f}",
        f"{cost.forward_seconds:.3f}",
    ]


def _dims(numbers: Any) -> str:
    return "x".join(map(str, numbers))
