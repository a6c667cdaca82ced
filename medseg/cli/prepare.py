"""`medseg prepare`: look at a data set, plan, and fill the cache."""

from __future__ import annotations

from omegaconf import DictConfig
from rich.table import Table

from medseg.cli.console import console
from medseg.cli.preparation import prepare_data, run_folder


def run(cfg: DictConfig) -> int:
    """Prints the plan with the reason for each number; returns 0."""
    prepared = prepare_data(cfg)
    table = Table(title=f"Plan for {prepared.spec.name}", title_justify="left")
    for heading in ("entry", "value", "reason"):
        table.add_column(heading, overflow="fold")
    for key, value in prepared.plan.to_dict().items():
        if key != "reasons":
            table.add_row(key, str(value), prepared.plan.reasons.get(key, "set by hand"))
    console.print(table)
    console.print(f"plan: {run_folder(cfg) / 'plan.yaml'}", soft_wrap=True, markup=False)
    console.print("change a number with, for example: plan.batch_size=4 plan.patch_size=[64,64,64]")
    return 0
