"""What configurations hold besides arguments of classes, and what commands add themselves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FolderName = Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]


class Section(BaseModel):
    """A section whose keys are all named here."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class Paths(Section):
    """Where runs, cached cases and results go."""

    runs: str
    cache: str
    output: str


class ServicePaths(Paths):
    """Where batch and services keep the ledger, and what is on its way."""

    ledger: str
    work: str | None


class Command(Section):
    """What every command has."""

    paths: Paths
    dry_run: bool


class Train(Command):
    """Values at the top of conf/train.yaml."""

    name: FolderName
    fold: Annotated[int, Field(ge=0)] | Literal["all"]
    seed: Annotated[int, Field(ge=0)]
    resume: bool
    start_from: str | None
    inflate_weights: bool


class Predict(Command):
    """Values at the top of conf/predict.yaml."""

    bundle: str | list[str] | None
    fit_on: str | None


class Batch(Command):
    """Values at the top of conf/batch.yaml."""

    paths: ServicePaths
    bundle: str | list[str] | None
    models: dict[str, Any] | None
    device: Literal["cpu", "cuda"] | None


class Serve(Batch):
    """Values at the top of conf/serve.yaml."""

    on_gap: Literal["refuse", "resample"]
    trust_positions: bool
    max_open: Annotated[int, Field(ge=1)]
    health_host: str
    health_port: Annotated[int, Field(ge=0, le=65535)] | None
    health_names: list[str]
    num_overlays: Annotated[int, Field(ge=0, le=100)]
    keep_days: Annotated[float, Field(ge=0)]


class Jobs(Command):
    """Values at the top of conf/jobs.yaml."""

    paths: ServicePaths
    action: Literal["list", "show", "retry", "export", "verify"]
    format: Literal["table", "json", "csv"]
    states: list[
        Literal["received", "leased", "predicted", "written", "sent", "done", "quarantined"]
    ]
    job: list[str] | str | None
    all: bool
    code: str
    audit: str | None


class Evaluate(Command):
    """Values at the top of conf/evaluate.yaml."""

    predictions: str | list[str] | None
    references: str | None
    bundle: str | list[str] | None
    fit_on: str | None
    labels: dict[str, Any] | None
    allow_missing: bool
    ensembles: list[str]
    weights: list[float] | None
    images: str | None
    groups: str | None
    instances_from: Literal["reference", "components"]
    metrics: dict[str, Any]
    objects: dict[str, Any]


class SourceFolder(Section):
    """Where data lie that a configuration of earlier names."""

    folder: str | None


class Ensemble(Command):
    """Values at the top of conf/ensemble.yaml."""

    folds: str
    source: SourceFolder
    min_gain: Annotated[float, Field(ge=0)]


class Doctor(Command):
    """Values at the top of conf/doctor.yaml."""

    config: list[str] | str | None
    bundle: str | None
    models: bool
    plan_path: str | None
    in_channels: Annotated[int, Field(ge=1)]
    out_channels: Annotated[int, Field(ge=2)]


ExportFormat = Literal["onnx", "openvino", "openvino_int8", "torch_export"]


class Export(Command):
    """Values at the top of conf/export.yaml."""

    bundle: str
    format: ExportFormat | list[ExportFormat]


class Phantom(Command):
    """Values at the top of conf/phantom.yaml."""

    num_cases: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    format: Literal["nifti", "dicom"] | list[Literal["nifti", "dicom"]]


SCHEMAS: dict[str, type[Command]] = {
    "train": Train,
    "prepare": Train,
    "predict": Predict,
    "batch": Batch,
    "serve": Serve,
    "jobs": Jobs,
    "evaluate": Evaluate,
    "ensemble": Ensemble,
    "export": Export,
    "doctor": Doctor,
    "phantom": Phantom,
}

# Sections that become one object although they name no class: the class whose arguments they hold.
SECTION_TARGETS: dict[str, dict[str, str]] = {
    "evaluate": {
        "metrics": "medseg.reports.evaluation.ScoreSettings",
        "objects": "medseg.reports.object_evaluation.ObjectSettings",
    },
}

# Groups that a command composes and does not use. Their classes take seconds to import, and they
# are checked when they are used.
UNUSED: dict[str, frozenset[str]] = {
    "prepare": frozenset(
        {
            "trainer", "logger", "callbacks", "optimizer", "schedule", "augment", "loader",
            "inference", "postprocess",
        }
    ),
    "evaluate": frozenset({"inference", "postprocess"}),
}  # fmt: skip

# Section whose empty values are filled in from the data; references to them are empty until then.
PLANNED_SECTION = "plan"

# Arguments that a command passes itself because they follow from the data; never written in YAML.
_TRAIN_SUPPLIED: dict[str, frozenset[str]] = {
    "model": frozenset({"in_channels", "out_channels"}),
    "loss": frozenset({"ignore_id", "regions"}),
    "task": frozenset({"labels", "loss"}),
}
SUPPLIED: dict[str, dict[str, frozenset[str]]] = {
    "train": _TRAIN_SUPPLIED,
    "prepare": _TRAIN_SUPPLIED,
    "predict": {},
    "batch": {},
    "serve": {},
    "jobs": {},
    "evaluate": {},
    "ensemble": {},
    "export": {},
    "doctor": {
        "model": frozenset({"in_channels", "out_channels"}),
        "task": frozenset({"labels", "loss"}),
    },
    "phantom": {},
}
