"""The task of a training with its loss: what the configuration says, told what the labels say."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from medseg.config.build import accepts, build
from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.tasks.task import Task


def training_task(cfg: DictConfig, labels: LabelSet) -> Task:
    """The task of a training; networks that find objects have losses of their own.

    Raises:
        ConfigError: the loss cannot learn labels of this kind.
    """
    facts: dict[str, Any] = {"labels": labels}
    if accepts(cfg.task, "loss"):
        facts["loss"] = build(cfg.loss, **_loss_facts(cfg, labels))
    task: Task = build(cfg.task, **facts)
    return task


def _loss_facts(cfg: DictConfig, labels: LabelSet) -> dict[str, Any]:
    """What a loss must know of the labels."""
    facts: dict[str, Any] = {"ignore_id": labels.ignore_id}
    if labels.regions:
        if not accepts(cfg.loss, "regions"):
            raise ConfigError(
                "loss",
                f"{cfg.loss._target_} cannot learn overlapping regions",
                "set loss=dice_ce",
            )
        facts["regions"] = [region.class_ids for region in labels.regions]
    return facts
