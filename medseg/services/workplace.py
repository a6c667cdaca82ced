"""What a worker works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.identity import Case
from medseg.inference.cases import Segmented
from medseg.services.jobs import Job
from medseg.services.ledger import Ledger
from medseg.services.models import BuildPredictor, ModelRecipe, build_network_predictor
from medseg.services.reader import Reader


@dataclass(frozen=True)
class Workplace:
    """What a worker works on.

    Args:
        ledger: the jobs.
        models: recipes by name.
        output: folder of the results.
        work: folder for what is unpacked.
        deliver: results are to be sent.
        reading: options of `medseg.sources.dicom_folder.DicomFolder` that are not its defaults.
        build_predictor: builds predictors.
        reader: a reading process that is there already; None starts one.
        on_written: told of each result, for the status page.
    """

    ledger: Ledger
    models: Mapping[str, ModelRecipe]
    output: Path
    work: Path
    deliver: bool = False
    reading: Mapping[str, Any] = field(default_factory=dict)
    build_predictor: BuildPredictor = build_network_predictor
    reader: Reader | None = None
    on_written: Callable[[Job, Segmented, Case], None] | None = None
