"""Where the curves of a training go: TensorBoard always, and what the option adds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import lightning.pytorch as pl
from omegaconf import DictConfig

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
        _require_mlflow()
    chosen: pl.loggers.Logger = build(cfg.logger)
    if isinstance(chosen, pl.loggers.TensorBoardLogger):
        return [chosen]
    board = pl.loggers.TensorBoardLogger(
        str(folder), name="tensorboard", version="", default_hp_metric=False
    )
    return [board, chosen]


def log_hyperparameters(
    loggers: list[pl.loggers.Logger], chosen: dict[str, object], *, metric: str
) -> None:
    """Tells every logger what was chosen.

    Naming a metric makes TensorBoard list the run under "HPARAMS"; validation fills it in.
    """
    for logger in loggers:
        if isinstance(logger, pl.loggers.TensorBoardLogger):
            logger.log_hyperparams(chosen, {metric: 0.0})
        else:
            logger.log_hyperparams(chosen)


def _require_mlflow() -> None:
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "logger=mlflow",
            "needs the package 'mlflow-skinny', which is not installed",
            "install it with: pip install 'medseg[mlflow]'",
        )
