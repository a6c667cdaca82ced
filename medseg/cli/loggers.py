"""Where the curves of a training go: TensorBoard always, and what the option adds."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from medseg.config.build import build
from medseg.core.errors import ConfigError


def build_loggers(cfg: DictConfig, folder: Path) -> list[pl.loggers.Logger]:
    """The chosen logger, with TensorBoard before any other; none for logger=none.

    Args:
        cfg: of a training.
        folder: of the run.

    Raises:
        ConfigError: a package is missing.
    """
    if not cfg.logger:
        return []
    if str(cfg.logger._target_).endswith(".MLFlowLogger"):
        _prepare_mlflow()
    chosen: pl.loggers.Logger = build(cfg.logger)
    if isinstance(chosen, pl.loggers.TensorBoardLogger):
        return [chosen]
    board = pl.loggers.TensorBoardLogger(
        str(folder), name="tensorboard", version="", default_hp_metric=False
    )
    return [board, chosen]


def log_hyperparameters(loggers: list[pl.loggers.Logger], chosen: dict[str, object]) -> None:
    """Tells every logger what was chosen.

    TensorBoard is told in a way of our own. With the list of columns that Lightning writes for each
    run it shows those of the first run it finds, in the order of the alphabet; without one it
    collects them from all runs and begins with those that differ.
    """
    for logger in loggers:
        logger.log_hyperparams(chosen)
        if isinstance(logger, pl.loggers.TensorBoardLogger):
            _write_session(logger.experiment, chosen)


@rank_zero_only
def _write_session(board: SummaryWriter, chosen: dict[str, object]) -> None:
    _, start, end = hparams(chosen, {})
    writer = board._get_file_writer()
    for summary in (start, end):
        writer.add_summary(summary)


def _prepare_mlflow() -> None:
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "logger=mlflow",
            "needs the package 'mlflow-skinny', which is not installed",
            "install it with: pip install 'medseg[mlflow]'",
        )
    # Read when it is imported, by the logger: without it MLflow reports its use to its makers.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
