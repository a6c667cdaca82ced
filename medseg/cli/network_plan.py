"""A plan fitted to the network that was chosen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from omegaconf import DictConfig, open_dict
from torch import nn

from medseg.cli.objective import training_task
from medseg.config.build import build
from medseg.core.labels import LabelSet
from medseg.data.plan import Plan
from medseg.data.planning import fit_to_network


def plan_for_network(
    cfg: DictConfig, plan: Plan, *, given: Plan, labels: LabelSet, device: str
) -> Plan:
    """The plan with a patch that the network takes.

    `cfg.plan` is replaced by it, and the network gets the plan's number of axes.

    Args:
        cfg: of a training.
        plan: from `make_plan`.
        given: what was set by hand.
        labels: of the data set.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: a patch that was set by hand does not fit, or the network cannot do the task.
    """
    put_plan(cfg, plan)
    with torch.random.fork_rng(devices=[]):  # the network's weights are drawn and thrown away
        network: nn.Module = build(
            cfg.model, in_channels=plan.num_channels, out_channels=labels.num_outputs
        )
        training_task(cfg, labels).check(network)
        stride, min_size = requirements(network, plan)
    plan = fit_to_network(plan, given=given, stride=stride, min_size=min_size, device=device)
    put_plan(cfg, plan)
    return plan


def requirements(network: nn.Module, plan: Plan) -> tuple[Sequence[int], Sequence[int]]:
    """By how much a network reduces each axis, and the least input that it takes.

    Networks say so by `stride` and `min_size`; without them any extent will do.
    """
    axes = plan.spatial_dims
    stride = getattr(network, "stride", None) or (1,) * axes
    least = getattr(network, "min_size", None) or (1,) * axes
    return _per_axis(stride, axes), _per_axis(least, axes)


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(int(n) for n in value)


def put_plan(cfg: DictConfig, plan: Plan) -> None:
    """Replaces `cfg.plan`, and gives the network the plan's number of axes."""
    with open_dict(cfg):
        cfg.plan = {"_target_": cfg.plan._target_, **plan.to_dict()}
        if cfg.model.get("spatial_dims") not in (None, plan.spatial_dims):
            cfg.model.spatial_dims = plan.spatial_dims
