"""`medseg prepare`: look at a data set, plan, and fill the cache."""

from __future__ import annotations

from omegaconf import DictConfig
from rich.table import Table

from medseg.cli.cascade import coarse_stage
from medseg.cli.console import console
from medseg.cli.preparation import prepare_data, run_folder
from medseg.data.plan import Plan


def run(cfg: DictConfig) -> int:
    """Prints the plan with the reason for each number; returns 0."""
    prepared = prepare_data(cfg)
    _print(prepared.plan, f"Plan for {prepared.spec.name}")
    axes, why = prepared.spec.chosen_mirror_axes(prepared.labels)
    console.print(
        f"images mirrored in training: {f'along {axes}' if axes else 'none'}; {why} "
        "(data.mirror_axes)",
        markup=False,
    )
    if prepared.plan.cascade:
        _, coarse = coarse_stage(cfg, prepared)
        _print(coarse.plan, "Plan of its coarse network")
    console.print(f"plan: {run_folder(cfg) / 'plan.yaml'}", soft_wrap=True, markup=False)
    console.print("change a number with, for example: plan.batch_size=4 plan.patch_size=[64,64,64]")
    return 0


def _print(plan: Plan, title: str) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("entry", "value", "reason"):
        table.add_column(heading, overflow="fold")
    for key, value in plan.to_dict().items():
        why = plan.reasons.get(key, "" if value is None else "set by hand")
        if key != "reasons" and (value is not None or why):
            table.add_row(key, str(value), why)
    console.print(table)
