"""The two stages of a coarse-to-fine training: each a training, with a share of the time."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, open_dict

from medseg.cli.console import counting
from medseg.cli.preparation import Preparation, finished_plan, run_folder
from medseg.core.atomic import write_text
from medseg.data.cache import CaseCache
from medseg.data.coarse import coarse_given
from medseg.training.checkpoint_files import COARSE_FOLDER
from medseg.training.fit import seconds

COARSE_SHARE = 0.25
"""Of the time and the epochs: finding an organ at a wide spacing is the easier task (chosen,
untested).
"""


def coarse_stage(cfg: DictConfig, prepared: Preparation) -> tuple[DictConfig, Preparation]:
    """Configuration and preparation of the coarse network; its cases are in the cache.

    It is planned from the same fingerprint, learns the same labels and begins at random, unless
    `start_from` is a file of weights.
    """
    own = copy.deepcopy(cfg)
    given = coarse_given(prepared.plan)
    plan = finished_plan(
        own,
        prepared.fingerprint,
        prepared.spec,
        prepared.labels,
        given=given,
        wanted=given,
        device=prepared.device,
    )
    folder = run_folder(cfg) / COARSE_FOLDER
    write_text(folder / "plan.yaml", plan.to_yaml())
    cache = CaseCache(Path(cfg.paths.cache) / "cases", plan=plan, num_classes=len(prepared.labels))
    used = [case for case in prepared.cases.values() if not case.is_held_out]
    with counting("preparing coarse cases", len(used)) as step:
        cache.prepare(used, on_progress=step)
    _shorten(own, COARSE_SHARE)
    with open_dict(own):
        if own.logger and "save_dir" in own.logger:
            own.logger.save_dir = str(folder)
        if prepared.start is not None:
            own.start_from = None
    return own, replace(prepared, plan=plan, cache=cache, start=None)


def fine_stage(cfg: DictConfig) -> DictConfig:
    """Configuration of the fine network: what the coarse one leaves of the time."""
    own = copy.deepcopy(cfg)
    _shorten(own, 1 - COARSE_SHARE)
    return own


def _shorten(cfg: DictConfig, share: float) -> None:
    limit = seconds(cfg.trainer.max_time)
    with open_dict(cfg):
        cfg.trainer.max_epochs = max(1, round(share * int(cfg.trainer.max_epochs)))
        if limit is not None:
            cfg.trainer.max_time = {"seconds": share * limit}
