from __future__ import annotations

import pytest
from config_folders import make_conf
from omegaconf import OmegaConf

from medseg.config import compose as composing
from medseg.config.check import find_problems, load_config
from medseg.config.schema import Section, Train
from medseg.core.errors import ConfigError

STUDY = "config_targets.Study"


@pytest.fixture(autouse=True)
def _conf(tmp_path, monkeypatch):
    folder = make_conf(tmp_path / "shipped")
    monkeypatch.setattr(composing, "conf_dir", lambda: folder)
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "config_targets")
    monkeypatch.chdir(tmp_path)


def problems_of(content, **options):
    return [str(problem) for problem in find_problems(OmegaConf.create(content), **options)]


def test_a_right_configuration_is_returned_with_declared_types():
    config = load_config("train", ["+experiment=liver", "paths.runs=2024"])

    assert config.paths.runs == "2024"
    assert config.name == "liver"


def test_all_problems_are_reported_at_once_with_path_value_and_remedy():
    options = [
        "+experiment=liver",
        "model=study",
        "model.chanels=3",
        "model.norm=group",
        "model.folder=???",
        "+model.spacing=[1]",
        "fold=-1",
    ]

    with pytest.raises(ConfigError) as raised:
        load_config("train", options)

    assert str(raised.value).splitlines() == [
        "5 problems in the configuration (experiment=liver, model=study):",
        "  model.chanels: there is no such option; did you mean model.channels?",
        "  model.folder: has no value; set it with model.folder=<value>",
        "  model.norm='group': must be 'instance' or 'batch'",
        "  model.spacing: config_targets.Study has no such option; did you mean model.spacing_mm?",
        "  fold=-1: must be 'all' or a whole number, at least 0",
    ]


def test_one_problem_stands_alone():
    with pytest.raises(ConfigError) as raised:
        load_config("train", ["model.channels=a"])

    assert str(raised.value) == "model.channels='a': must be a whole number"
    assert raised.value.where == "model.channels='a'"


def test_what_a_missing_choice_would_have_set_is_not_reported_as_well():
    with pytest.raises(ConfigError) as raised:
        load_config("train", ["+experiment=livr", "model.channels=???"])

    assert "livr" in str(raised.value)
    assert "has no value" not in str(raised.value)


def test_missing_and_unresolvable_values_are_reported_where_they_stand():
    found = problems_of(
        {
            "a": "???",
            "b": {"c": "${a}", "d": "${nothing.here}"},
            "e": ["???", "${b.c}"],
        }
    )

    assert found[0] == "a: has no value; set it with a=<value>"
    assert found[1].startswith("b.d: ${nothing.here} cannot be resolved")
    assert found[2] == "e[0]: has no value; set it with e[0]=<value>"
    assert len(found) == 3


def test_required_arguments_may_come_from_the_command():
    node = {"model": {"_target_": STUDY}}

    assert problems_of(node) == [
        "model.channels: config_targets.Study needs it; set it with +model.channels=<value>"
    ]
    assert problems_of(node, supplied={"model": frozenset({"channels"})}) == []
    assert problems_of(node, supplied={"mod*": frozenset({"channels"})}) == []


def test_arguments_that_the_command_passes_may_not_be_set():
    supplied = {"model": frozenset({"channels"})}

    assert problems_of({"model": {"_target_": STUDY, "channels": 3}}, supplied=supplied) == [
        "model.channels: follows from the data and is set by medseg; remove it"
    ]
    assert problems_of({"model": {"_target_": STUDY, "channels": "???"}}, supplied=supplied) == []
    assert problems_of({"model": {"_target_": STUDY, "channels": None}}, supplied=supplied) == []


def test_a_partial_node_may_leave_required_arguments_open():
    assert problems_of({"m": {"_target_": STUDY, "_partial_": True, "norm": "x"}}) == [
        "m.norm='x': must be 'instance' or 'batch'"
    ]


def test_nodes_at_any_depth_are_checked():
    found = problems_of(
        {
            "data": {
                "_target_": STUDY,
                "channels": 1,
                "scanner": {"_target_": "config_targets.Scanner", "tesla": "strong"},
                "parts": [{"_target_": "config_targets.Scanner", "teslas": 1}],
            }
        }
    )

    assert found == [
        "data.scanner.tesla='strong': must be a number",
        "data.parts[0].teslas: config_targets.Scanner has no such option; "
        "did you mean data.parts[0].tesla?",
    ]


def test_a_target_outside_the_allowed_packages_is_a_problem_like_others():
    found = problems_of({"a": {"_target_": "os.system", "command": "true"}, "b": "???"})

    assert len(found) == 2
    assert found[0].startswith("b") or found[1].startswith("a._target_=os.system: is not in")


def test_values_that_the_plan_fills_in_are_not_checked_yet():
    content = {"plan": {"width": None}, "model": {"_target_": STUDY, "channels": "${plan.width}"}}

    assert problems_of(content) == []
    content["plan"]["width"] = "wide"
    assert problems_of(content) == ["model.channels='wide': must be a whole number"]


def test_unknown_names_at_the_top_are_reported_with_the_nearest():
    config = {
        "paths": {"runs": "a", "cache": "b", "output": "c", "ouput": "d"},
        "dry_run": "perhaps",
        "name": "a/b",
        "fold": "all",
        "seed": 1,
        "resume": False,
        "experimnt": "liver",
        "model": {},
    }

    assert problems_of(config, schema=Train, groups=("model", "experiment")) == [
        "paths.ouput: there is no such option; did you mean paths.output?",
        "dry_run='perhaps': must be true or false",
        r"name='a/b': must match ^\w[\w.+-]*$",
        "experimnt: there is no such option; did you mean +experiment?",
    ]


def test_a_section_that_becomes_one_object_is_checked_against_its_class():
    class Bare(Section):
        metrics: dict[str, object]

    found = problems_of(
        {"metrics": {"tesla": "much", "makr": 1}},
        schema=Bare,
        targets={"metrics": "config_targets.Scanner"},
    )

    assert found == [
        "metrics.tesla='much': must be a number",
        "metrics.makr: config_targets.Scanner has no such option; did you mean metrics.maker?",
    ]


def test_a_class_that_accepts_anything_is_given_anything_but_hydras_own_keys():
    node = {"a": {"_target_": "config_targets.OpenStudy", "x": 1, "_convert_": "all"}}

    assert problems_of(node) == [
        "a._convert_: config_targets.OpenStudy has no such option; it has: none"
    ]


def test_long_values_are_shortened_in_messages():
    (message,) = problems_of({"a": {"_target_": STUDY, "channels": "x" * 200}})

    assert len(message) < 120
