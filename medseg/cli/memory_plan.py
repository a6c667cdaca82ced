"""Patch and batch of a plan lowered until a training step, done on trial, fits into memory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from medseg.cli.console import console
from medseg.cli.network_plan import put_plan
from medseg.cli.objective import training_task
from medseg.cli.resuming import is_first_process
from medseg.config.build import build
from medseg.core.atomic import write_text
from medseg.core.errors import OutputError
from medseg.core.labels import LabelSet
from medseg.data.memory import GIB, MemoryFit, fit_to_memory
from medseg.data.plan import Plan
from medseg.inference.precision import best_precision
from medseg.training.trial import free_bytes, step_bytes

SHARE = {"cpu": 0.5, "cuda": 0.85}
"""Share of the free memory that a training step may take. cpu: prepared cases may fill 0.3
(data/cache.py). cuda: the rest is for fragmentation and validation (chosen, untested).
"""
_CHANGED = ("patch_size", "batch_size", "strides", "kernel_sizes")
WAIT_S = 600.0
"""How long further processes of a training wait for the first one's measurement."""


def plan_for_memory(
    cfg: DictConfig,
    plan: Plan,
    *,
    given: Plan,
    labels: LabelSet,
    device: str,
    folder: Path,
    replan: Callable[[float], Plan],
) -> Plan:
    """The plan with a batch and a patch whose training step was measured to fit into memory.

    `cfg.plan` is replaced by it. What was found is kept in a file and used again while it still
    fits into what is free, so that all folds and processes of a training have one plan.

    Args:
        cfg: of a training.
        plan: for the network; see `plan_for_network`.
        given: what was set by hand.
        labels: of the data set.
        device: "cpu" or "cuda".
        folder: for the files.
        replan: the plan for the network whose patch has at most about so many voxels.

    Raises:
        ConfigError: not even the smallest patch fits.
    """
    if "fsdp" in str(cfg.trainer.strategy):
        why = "not measured: with trainer.strategy=fsdp no device holds the whole network"
        return _with_reason(cfg, plan, given.memory_budget_gib, why)
    path = folder / f"{_digest(cfg, plan, given, labels, device)}.json"
    share = SHARE[device]
    budget = given.memory_budget_gib and int(given.memory_budget_gib * GIB)
    source = "set by hand"
    if not budget:
        budget = int(share * free_bytes(device))
        source = f"{share:.0%} of what was free"
    known = _known(path, plan, budget, waits=not is_first_process())
    if known is not None:
        fitted, peak, of, source = known
    else:
        fit = fit_to_memory(
            plan,
            given=given,
            budget_bytes=budget,
            measure=partial(_measure, cfg, labels=labels, device=device, limit=budget),
            replan=replan,
            may_grow=device != "cpu" and given.memory_budget_gib is not None,
        )
        fitted, peak, of = fit.plan, fit.peak_bytes, budget
        if is_first_process():
            _keep(path, fit, budget, source)
    gib = float(f"{of / GIB:.3g}")
    if peak is None:
        patch = "x".join(map(str, fitted.patch_size or ()))
        console.print(
            f"a training step of {fitted.batch_size} x {patch} voxels, set by hand, takes more "
            f"than the {gib:g} GiB of plan.memory_budget_gib ({source}) and may fail; it is tried "
            "all the same",
            style="yellow",
            markup=False,
        )
        return _with_reason(cfg, fitted, gib, f"measured more than {gib:g} GiB; {source}")
    why = f"a training step takes {_amount(peak)} of {gib:g} GiB, measured; {source}"
    return _with_reason(cfg, fitted, gib, why)


def _measure(
    cfg: DictConfig, plan: Plan, *, labels: LabelSet, device: str, limit: int
) -> int | None:
    put_plan(cfg, plan)

    with torch.random.fork_rng(devices=[]):
        network: nn.Module = build(
            cfg.model, in_channels=plan.num_channels, out_channels=labels.num_outputs
        )
    return step_bytes(
        network,
        training_task(cfg, labels),
        optimizer=build(cfg.optimizer),
        in_channels=plan.num_channels,
        patch_size=tuple(plan.patch_size or ()),
        batch_size=plan.batch_size or 1,
        device=device,
        precision=str(cfg.trainer.precision or best_precision(device)),
        limit=limit,
    )


def _digest(cfg: DictConfig, plan: Plan, given: Plan, labels: LabelSet, device: str) -> str:
    """Name of a measurement: a hash of all it depends on but the memory that is free."""
    put_plan(cfg, plan)
    facts: dict[str, Any] = {
        "plan": plan.to_dict(),
        "given": given.to_dict(),
        "outputs": labels.num_outputs,
        "precision": str(cfg.trainer.precision or best_precision(device)),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": str(torch.__version__),
        **{
            name: OmegaConf.to_container(cfg[name], resolve=True)
            for name in ("model", "task", "loss", "optimizer")
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _known(
    path: Path, plan: Plan, budget: int, *, waits: bool
) -> tuple[Plan, int | None, int, str] | None:
    """What was found before for a plan, unless it takes more than is to be had now.

    Raises:
        OutputError: the first process of a training left nothing.
    """
    end = time.monotonic() + WAIT_S
    while waits and not path.is_file():
        if time.monotonic() > end:
            raise OutputError(
                path.parent,
                f"holds no measurement of the training's first process after {WAIT_S:.0f} s",
                "set paths.cache to a folder that all machines share",
            )
        time.sleep(0.5)
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text())
        peak = found["peak_bytes"]
        if waits or (budget <= found["budget_bytes"] if peak is None else peak <= budget):
            changed = {name: _tuples(found["plan"][name]) for name in _CHANGED}
            fitted = replace(plan, **changed, reasons=found["plan"]["reasons"])
            return fitted, peak, int(found["budget_bytes"]), str(found["source"])
    return None


def _keep(path: Path, fit: MemoryFit, budget: int, source: str) -> None:
    content = {
        "plan": fit.plan.to_dict(),
        "peak_bytes": fit.peak_bytes,
        "budget_bytes": budget,
        "source": source,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def _with_reason(cfg: DictConfig, plan: Plan, gib: float | None, reason: str) -> Plan:
    reasons = {**plan.reasons, "memory_budget_gib": reason}
    plan = replace(plan, memory_budget_gib=gib, reasons=reasons)
    put_plan(cfg, plan)
    return plan


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _amount(count: int) -> str:
    return f"{count / GIB:.2g} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"
