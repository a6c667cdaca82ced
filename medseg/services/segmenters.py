"""What segments cases for an executor, and how it says that it cannot at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from medseg.core.errors import MedsegError
from medseg.core.identity import Case
from medseg.inference.cases import Segmented
from medseg.services.models import BuildPredictor, LoadedModel, ModelRecipe


class Segmenter(Protocol):
    """Segments cases, one at a time."""

    def is_ready(self) -> bool:
        """Whether it can take a case now; asked again after a while if it cannot."""
        ...

    def segment(self, model: str, case: Case) -> tuple[Segmented, str]:
        """The result, and what had to be changed to get it; see `LoadedModel.segment`.

        Raises:
            WorkerLostError: whatever does the work has ended since it took this case.
            WorkerAwayError: it had ended before.
        """
        ...


class WorkerLostError(MedsegError):
    """A worker ended while it segmented; the job is tried again, and its attempts are counted."""

    default_code = "E_WORKER_LOST"


class WorkerAwayError(MedsegError):
    """A worker was not there when it was given a job, which goes back and is not to blame."""

    default_code = "E_WORKER_AWAY"


class LocalSegmenter:
    """Models in this process.

    Args:
        recipes: by name.
        build_predictor: builds predictors.
    """

    def __init__(self, recipes: Mapping[str, ModelRecipe], build_predictor: BuildPredictor) -> None:
        self._models = {
            name: LoadedModel(recipe, build_predictor=build_predictor)
            for name, recipe in recipes.items()
        }

    def is_ready(self) -> bool:
        return True

    def segment(self, model: str, case: Case) -> tuple[Segmented, str]:
        return self._models[model].segment(case)
