import importlib.util
import os

import lightning.pytorch as pl
import pytest

from medseg.cli import loggers
from medseg.cli.loggers import build_loggers, log_hyperparameters
from medseg.config.check import load_config
from medseg.core.errors import ConfigError


def options(tmp_path, *chosen):
    return load_config("train", ["+experiment=liver", f"paths.runs={tmp_path}", *chosen])


def kinds(built) -> list[str]:
    return [type(logger).__name__ for logger in built]


def test_tensorboard_is_written_beside_any_other_logger(tmp_path):
    assert kinds(build_loggers(options(tmp_path), tmp_path)) == ["TensorBoardLogger"]
    assert kinds(build_loggers(options(tmp_path, "logger=csv"), tmp_path)) == [
        "TensorBoardLogger",
        "CSVLogger",
    ]
    assert build_loggers(options(tmp_path, "logger=none"), tmp_path) == []


def test_tensorboard_finds_the_options_of_a_run_and_chooses_the_columns_itself(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = pl.loggers.TensorBoardLogger(
        str(tmp_path), name="tensorboard", version="", default_hp_metric=False
    )
    log_hyperparameters([board], {"optimizer/lr": 0.01})
    board.finalize("success")

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optimizer/lr" in content
    # A list of columns of one run would hide what other runs of a sweep were given.
    assert "_hparams_/experiment" not in events.summary_metadata
    assert events.Tags()["scalars"] == []  # nothing that was not measured
    assert "optimizer/lr: 0.01" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()


def test_without_its_package_mlflow_is_refused_with_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"logger=mlflow: needs the package 'mlflow-skinny'.*"):
        build_loggers(options(tmp_path, "logger=mlflow"), tmp_path)


def test_mlflow_is_told_to_report_nothing_before_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")  # and restored to what it was after the test
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    told = []

    def build(options):
        told.append((options["_target_"], os.environ.get("MLFLOW_DISABLE_TELEMETRY")))
        return pl.loggers.CSVLogger(str(tmp_path))

    monkeypatch.setattr(loggers, "build", build)
    build_loggers(options(tmp_path, "logger=mlflow"), tmp_path)

    assert told == [("lightning.pytorch.loggers.MLFlowLogger", "true")]


def test_mlflow_keeps_runs_in_a_file_beside_them(tmp_path):
    mlflow = pytest.importorskip("mlflow")

    board, chosen = build_loggers(options(tmp_path, "logger=mlflow"), tmp_path)
    chosen.log_hyperparams({"optimizer/lr": 0.01})
    chosen.log_metrics({"dice/mean": 0.5}, step=3)
    chosen.finalize("success")

    run = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(chosen.run_id)
    assert isinstance(board, pl.loggers.TensorBoardLogger)
    assert run.data.metrics == {"dice/mean": 0.5}
    assert run.data.params == {"optimizer/lr": "0.01"}
    assert run.info.run_name == "liver, fold 0"
