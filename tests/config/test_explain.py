from __future__ import annotations

import pytest
from config_folders import make_conf

from medseg.config import compose as composing
from medseg.config.compose import compose
from medseg.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _conf(tmp_path, monkeypatch):
    folder = make_conf(tmp_path / "shipped")
    monkeypatch.setattr(composing, "conf_dir", lambda: folder)
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "config_targets")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "model.chanels=3",
            "model.chanels: there is no such option; did you mean model.channels?",
        ),
        ("mdel.channels=3", "mdel.channels: there is no such option; did you mean model.channels?"),
        ("channels=3", "channels: there is no such option; did you mean plan.channels?"),
        ("foldd=3", "foldd: there is no such option; did you mean fold?"),
        (
            "model.spacing_mm=[1,1,1]",
            "model.spacing_mm: is left to its default and not listed; "
            "write +model.spacing_mm=[1,1,1]",
        ),
        (
            "model.spacing=[1,1,1]",
            "model.spacing: there is no such option; did you mean +model.spacing_mm?",
        ),
        (
            "model=studdy",
            "model=studdy: there is no model 'studdy'; did you mean 'study'? "
            "there are: scanner, study",
        ),
        ("model=zzz", "model=zzz: there is no model 'zzz'; there are: scanner, study"),
        (
            "+experiment=livr",
            "+experiment=livr: there is no experiment 'livr'; did you mean 'liver'? "
            "there are: liver, needy",
        ),
        (
            "experiment=liver",
            "experiment=liver: experiment is not set yet; write +experiment=liver",
        ),
        ("+model=study", "+model=study: model is set already; write model=study"),
        ("+fold=3", "+fold=3: is there already; write it without +: fold=3"),
        (
            "fold=0,1",
            "fold=0,1: has several values; write fold=[0,1] for a list, "
            "or put -m before the options to run once for each",
        ),
        ("/data", "/data: is not an option; options are written name=value, such as trainer=cpu"),
        ("output=[nifti", "output=[nifti: cannot be read; put quotes around lists"),
        (
            "+experiment=needy",
            "+experiment=needy: needs model/absent, which does not exist",
        ),
        ("qqqqqq.rrrr=1", "qqqqqq.rrrr: there is no such option"),
    ],
)
def test_a_wrong_option_is_answered_with_what_to_type(option, message):
    composition = compose("train", ["seed=3", option, "model.norm=batch"])

    (problem,) = composition.problems
    assert str(problem).startswith(message)
    assert "\n" not in str(problem)


def test_the_other_options_are_applied_all_the_same():
    composition = compose("train", ["seed=3", "sead=4", "model.channels=9"])

    assert composition.config.seed == 3
    assert composition.config.model.channels == 9


def test_all_wrong_options_are_reported_at_once():
    composition = compose("train", ["a.b=1", "model.chanels=3", "model=zzz", "fold=1", "+seed=2"])

    assert [problem.where for problem in composition.problems] != []
    assert {problem.where for problem in composition.problems} == {
        "a.b",
        "model.chanels",
        "model=zzz",
        "+seed=2",
    }


def test_an_option_of_the_network_chosen_on_the_same_line_is_no_mistake():
    assert compose("train", ["model.tesla=7", "model=scanner"]).problems == ()


def test_a_faulty_configuration_file_is_reported_without_a_traceback(tmp_path):
    (tmp_path / "shipped" / "train.yaml").write_text("defaults:\n  - model: absent\n")

    with pytest.raises(ConfigError, match="absent"):
        compose("train")
