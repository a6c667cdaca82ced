from __future__ import annotations

import logging
import os
import sys
import warnings

import pytest
from config_folders import make_conf
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf

from medseg.cli import commands
from medseg.cli.commands import main
from medseg.config import compose as composing
from medseg.core.errors import InputError


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Runs `train` on a small configuration; yields what each job was given."""
    folder = make_conf(tmp_path / "shipped")
    seen = []

    def run(config):
        seen.append((OmegaConf.to_container(config, resolve=True), list(sys.argv)))
        return 0

    monkeypatch.setattr(composing, "conf_dir", lambda: folder)
    monkeypatch.setattr(commands, "_command", lambda name: run)
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "config_targets")
    monkeypatch.chdir(tmp_path)
    return seen


def raising(error, monkeypatch):
    def run(config):
        raise error

    monkeypatch.setattr(commands, "_command", lambda name: run)


def test_a_command_gets_the_composed_configuration(jobs):
    assert main(["train", "+experiment=liver", "fold=2", "paths.runs=2024"]) == 0

    ((config, _),) = jobs
    assert config["name"] == "liver"
    assert config["fold"] == 2
    assert config["paths"]["runs"] == "2024"
    assert "hydra" not in config


def test_lightning_finds_the_command_and_this_jobs_options_in_sys_argv(jobs):
    before = list(sys.argv)

    main(["train", "-m", "+experiment=liver", "fold=0,1", "seed=5"])

    assert [argv[1:] for _, argv in jobs] == [
        ["train", "+experiment=liver", "fold=0", "seed=5"],
        ["train", "+experiment=liver", "fold=1", "seed=5"],
    ]
    assert sys.argv == before


def test_a_sweep_gives_each_job_its_own_folder(jobs, tmp_path):
    assert main(["train", "-m", "fold=0,1"]) == 0

    assert [config["fold"] for config, _ in jobs] == [0, 1]
    for fold in (0, 1):
        assert (tmp_path / "runs" / "trial" / f"fold_{fold}" / ".hydra" / "config.yaml").is_file()


def test_flags_may_stand_among_the_options(jobs, capsys):
    assert main(["train", "fold=1", "--cfg", "job", "seed=4"]) == 0

    shown = OmegaConf.create(capsys.readouterr().out)
    assert (shown.fold, shown.seed) == (1, 4)
    assert jobs == []


def test_showing_the_configuration_leaves_missing_values_and_references_as_they_are(jobs, capsys):
    main(["train", "model.folder=???", "name=${seed}", "--cfg", "job"])

    text = capsys.readouterr().out
    assert "folder: ???" in text
    assert "name: ${seed}" in text


def test_one_part_of_the_configuration_can_be_shown_with_references_filled_in(jobs, capsys):
    assert main(["train", "--cfg", "job", "-p", "model", "--resolve"]) == 0

    assert "_target_: config_targets.Study" in capsys.readouterr().out


def test_the_way_a_configuration_was_put_together_is_shown(jobs, capsys, tmp_path):
    assert main(["train", "--info", "searchpath"]) == 0

    out = capsys.readouterr()
    assert str(tmp_path / "shipped") in out.out + out.err


def test_nothing_is_written_and_nothing_runs_when_the_options_are_wrong(jobs, capsys, tmp_path):
    assert main(["train", "model.chanels=3", "fold=x"]) == 1

    err = capsys.readouterr().err
    assert err.splitlines()[0] == "2 problems in the configuration:"
    assert "did you mean model.channels?" in err
    assert "Traceback" not in err
    assert jobs == []
    assert not (tmp_path / "runs").exists()


def test_dry_run_checks_and_stops(jobs, capsys, tmp_path):
    assert main(["train", "dry_run=true"]) == 0

    assert "complete and fits the code" in capsys.readouterr().out
    assert jobs == []
    assert not (tmp_path / "runs").exists()


def test_an_error_on_purpose_leaves_as_its_message_alone(jobs, capsys, monkeypatch):
    raising(InputError("case_7", "has no slices", "send them again"), monkeypatch)

    assert main(["train"]) == 1

    assert capsys.readouterr().err == "case_7: has no slices; send them again\n"


def test_the_variable_of_hydra_shows_the_traceback(jobs, capsys, monkeypatch):
    raising(InputError("case_7", "has no slices"), monkeypatch)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    assert main(["train"]) == 1

    assert "Traceback" in capsys.readouterr().err


def test_a_fault_shows_where_it_is_and_asks_for_a_report(jobs, capsys, monkeypatch):
    raising(ZeroDivisionError("oops"), monkeypatch)

    assert main(["train"]) == 1

    err = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in err
    assert "Please report it" in err
    assert "python -m medseg doctor" in err


def test_ctrl_c_ends_with_one_line_and_130(jobs, capsys, monkeypatch):
    raising(KeyboardInterrupt(), monkeypatch)

    assert main(["train"]) == 130

    assert capsys.readouterr().err.strip() == "stopped"


def test_ctrl_c_that_lightning_has_answered_ends_the_same_way(jobs, monkeypatch):
    def run(config):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr(commands, "_command", lambda name: run)

    assert main(["train"]) == 130


def test_a_training_ended_by_sigterm_says_so_and_ends_with_143(jobs, capsys, monkeypatch):
    raising(SIGTERMException(), monkeypatch)

    assert main(["train"]) == 143

    assert capsys.readouterr().err.strip() == "stopped"


def test_the_commands_own_exit_code_is_the_programs(jobs, monkeypatch):
    monkeypatch.setattr(commands, "_command", lambda name: lambda config: 3)

    assert main(["train"]) == 3


def test_a_failed_job_does_not_stop_the_sweep(jobs, capsys, monkeypatch):
    done = []

    def run(config):
        if config.fold == 0:
            raise InputError("fold 0", "failed")
        done.append(config.fold)
        return 0

    monkeypatch.setattr(commands, "_command", lambda name: run)

    assert main(["train", "-m", "fold=0,1,2"]) == 1

    assert done == [1, 2]
    assert "fold 0: failed" in capsys.readouterr().err


def test_a_job_of_a_sweep_with_a_wrong_value_does_not_run(jobs, capsys):
    assert main(["train", "-m", "fold=0,1,x"]) == 1

    assert [config["fold"] for config, _ in jobs] == [0, 1]
    assert "fold='x': must be 'all' or a whole number" in capsys.readouterr().err


def test_a_training_does_not_run_over_an_earlier_one(jobs, capsys, tmp_path):
    checkpoints = tmp_path / "runs" / "trial" / "fold_0" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").write_text("x")

    assert main(["train"]) == 1
    err = capsys.readouterr().err
    assert "fold_0: holds the checkpoints of an earlier training; set resume=true" in err
    assert not (checkpoints.parent / ".hydra").exists()
    assert main(["train", "resume=true"]) == 0
    assert main(["train", "name=another"]) == 0


def test_a_bundle_without_checkpoints_is_not_overwritten(jobs, capsys, tmp_path):
    (tmp_path / "runs" / "trial" / "fold_0" / "bundle").mkdir(parents=True)

    for options in ([], ["resume=true"]):
        assert main(["train", *options]) == 1
        assert "holds the bundle of an earlier training, but no" in capsys.readouterr().err
    assert main(["train", "name=another"]) == 0


def test_a_further_process_of_a_training_joins_the_first_ones_folder(jobs, tmp_path, monkeypatch):
    checkpoints = tmp_path / "runs" / "trial" / "fold_0" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").write_text("x")
    monkeypatch.setenv("LOCAL_RANK", "1")

    assert main(["train", 'hydra.run.dir="runs/trial/fold_0"', "hydra.output_subdir=null"]) == 0

    assert not (checkpoints.parent / ".hydra").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_work(jobs, capsys, tmp_path):
    (tmp_path / "file").write_text("")

    assert main(["train", "paths.runs=file/below"]) == 1

    err = capsys.readouterr().err
    assert "cannot be written to (Not a directory); set paths.runs to a folder that can" in err
    assert jobs == []
    assert (tmp_path / "file").read_text() == ""


def test_testing_a_folder_leaves_nothing_behind(jobs, monkeypatch, tmp_path):
    raising(InputError("x", "y"), monkeypatch)

    main(["train", "paths.runs=/proc/nothing"])

    assert not (tmp_path / "runs").exists()


def test_warnings_for_developers_and_known_remarks_are_hidden_and_others_shown(jobs, capsys):
    from medseg.cli.logs import silence_known_warnings, start_logging

    silence_known_warnings()
    start_logging()
    with warnings.catch_warnings(record=False):
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
        warnings.warn("The 'x' does not have many workers which may", stacklevel=1)
        warnings.warn("the driver is too old", stacklevel=1)
    logging.getLogger("medseg.sources").info("3 cases")
    logging.getLogger("lightning.pytorch").info("GPU available: False")

    err = capsys.readouterr().err
    assert "old name" not in err
    assert "many workers" not in err
    assert "GPU available" not in err
    assert "WARNING the driver is too old" in err
    assert "INFO 3 cases" in err


def test_help_through_a_pipe_that_closes_is_no_error(tmp_path):
    import subprocess

    done = subprocess.run(
        f"{sys.executable} -m medseg --help | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )

    assert done.returncode == 0
    assert "Traceback" not in done.stderr
