from __future__ import annotations

from pathlib import Path

import pytest
from config_folders import make_conf

import medseg
from medseg.config import compose as composing
from medseg.config.compose import compose, conf_dir, first_of_sweep, groups, project_conf_dir
from medseg.core.errors import ConfigError


@pytest.fixture
def conf(tmp_path, monkeypatch):
    folder = make_conf(tmp_path / "shipped")
    monkeypatch.setattr(composing, "conf_dir", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_medsegs_folder_lies_in_the_package_or_beside_it():
    package = Path(medseg.__file__).resolve().parent

    assert conf_dir() in (package / "conf", package.parent / "conf")
    assert (conf_dir() / "train.yaml").is_file()


def test_a_command_composes_with_options(conf):
    composition = compose("train", ["+experiment=liver", "model.channels=5"])

    assert composition.problems == ()
    assert composition.config.name == "liver"
    assert composition.config.model.channels == 5
    assert composition.config.model.norm == "batch"
    assert "hydra" not in composition.config
    assert composition.hydra.run.dir == "runs/liver/fold_0"


def test_the_projects_own_options_are_added(conf, tmp_path):
    make_conf(tmp_path / "conf", model__mine="_target_: config_targets.Scanner\ntesla: 7.0\n")

    assert compose("train", ["model=mine"]).config.model.tesla == 7.0
    assert "mine" in groups()["model"]


def test_the_projects_options_never_replace_shipped_ones(conf, tmp_path):
    project = tmp_path / "conf" / "model"
    project.mkdir(parents=True)
    (project / "scanner.yaml").write_text("_target_: config_targets.Scanner\ntesla: 99.0\n")

    assert compose("train", ["model=scanner"]).config.model.tesla == 3.0


def test_the_variable_names_another_project_folder(conf, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere" / "experiment"
    elsewhere.mkdir(parents=True)
    (elsewhere / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    monkeypatch.setenv("MEDSEG_CONF", str(elsewhere.parent))

    assert compose("train", ["+experiment=mine"]).config.name == "mine"


def test_a_variable_that_names_no_folder_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDSEG_CONF", str(tmp_path / "nowhere"))

    with pytest.raises(ConfigError, match=r"MEDSEG_CONF: names .*nowhere.*; correct it, or unset"):
        compose("train")


def test_in_a_checkout_medsegs_folder_is_not_taken_for_the_projects(monkeypatch):
    monkeypatch.chdir(conf_dir().parent)

    assert project_conf_dir() is None


def test_without_a_folder_there_is_no_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert project_conf_dir() is None


def test_groups_list_their_options_and_not_hydras_own(conf):
    (conf / "hydra" / "launcher").mkdir(parents=True)
    (conf / "hydra" / "launcher" / "x.yaml").write_text("")

    assert groups() == {
        "experiment": ["liver", "needy"],
        "model": ["scanner", "study"],
        "paths": ["default"],
        "plan": ["auto"],
    }


def test_composing_inside_a_running_command_leaves_it_intact(conf):
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(conf), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        compose("train")

        assert GlobalHydra.instance().hydra is outer


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["fold=0,1,2", "name=a"], ["fold=0", "name=a"]),
        (["+experiment=liver,other"], ["+experiment=liver"]),
        (["fold=range(3,6)"], ["fold=3"]),
        (["x=[1,2]", "bad=["], ["x=[1,2]", "bad=["]),
    ],
)
def test_the_first_job_of_a_sweep(options, first):
    assert first_of_sweep(options) == first


def test_an_option_file_that_is_no_yaml_is_named_with_its_line(conf):
    (conf / "model" / "broken.yaml").write_text("# broken\nsize: [1, 2\nstride: 2\n")

    with pytest.raises(ConfigError) as caught:
        compose("train", ["model=broken"])

    assert caught.value.where == str(conf / "model" / "broken.yaml")
    assert "is no YAML (line 3: " in caught.value.what
    assert caught.value.remedy == "correct the file"
