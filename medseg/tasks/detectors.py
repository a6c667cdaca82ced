"""What tasks ask of networks that find objects or segments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.models.detection.objects import Detector, Objects


def summed_terms(
    model: nn.Module, image: Tensor, objects: Sequence[Objects], semantic: Tensor | None
) -> Tensor:
    """The loss of a detector: the sum of its terms."""
    assert isinstance(model, Detector)
    terms = model.losses(model(image), objects, semantic)
    return torch.stack([term.float() for term in terms.values()]).sum()


def require_detector(model: nn.Module, *, task: str) -> None:
    """Raises ConfigError unless the network finds objects and offers the task.

    Networks name their tasks in `tasks`; a detector that does not is for instances.
    """
    offered = getattr(model, "tasks", ("instance",)) if isinstance(model, Detector) else ()
    if task in offered:
        return
    name = type(model).__name__
    what = (
        f"is {task}, but {name} is for {' and '.join(offered)}"
        if offered
        else f"is {task}, but {name} gives a class for each voxel and no objects"
    )
    fitting = {
        "instance": "mask_rcnn, yolact or mask2former",
        "panoptic": "panoptic_fpn or mask2former",
        "semantic": "unet or mask2former",
    }
    raise ConfigError(
        "task",
        what,
        f"set model={fitting[task]}, or leave task out, which then follows the model",
        code="E_TASK",
    )


def refuse_regions(labels: LabelSet) -> None:
    """Raises ConfigError for labels that declare regions, which are not segments."""
    if labels.regions:
        raise ConfigError(
            "data.labels.regions",
            "are unions of classes, which objects and segments cannot be",
            "remove the regions, or set task=semantic with a network such as model=unet",
        )
