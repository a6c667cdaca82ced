from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path

import config_targets
import pytest
from config_targets import Scanner, Study
from omegaconf import OmegaConf

from medseg.config.build import (
    accepts,
    build,
    build_all,
    build_restricted,
    resolve_target,
    signature_of,
)
from medseg.core.errors import ConfigError, InputError

STUDY = "config_targets.Study"
SCANNER = "config_targets.Scanner"


@pytest.fixture(autouse=True)
def _allow_the_tests_own_classes(monkeypatch):
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "config_targets, another_package")


def test_a_node_becomes_an_object_with_values_of_the_declared_types():
    node = OmegaConf.create(
        {
            "_target_": STUDY,
            "channels": 2,
            "spacing_mm": [1, 2, 0.5],
            "folder": 2024,
            "path": "/data",
        }
    )

    study = build(node)

    assert isinstance(study, Study)
    assert study.spacing_mm == (1.0, 2.0, 0.5)
    assert study.folder == "2024"
    assert study.path == Path("/data")


def test_references_to_other_sections_are_resolved():
    config = OmegaConf.create(
        {"plan": {"width": 7}, "model": {"_target_": STUDY, "channels": "${plan.width}"}}
    )

    assert build(config.model).channels == 7


def test_the_caller_adds_and_replaces_arguments():
    assert build({"_target_": STUDY, "channels": 1, "norm": "batch"}, channels=5).channels == 5


def test_nodes_inside_nodes_lists_and_mappings_are_built_first():
    study = build(
        {
            "_target_": STUDY,
            "channels": 1,
            "scanner": {"_target_": SCANNER, "tesla": 3},
            "parts": [{"_target_": SCANNER}, {"_target_": SCANNER, "maker": "b"}],
        }
    )

    assert study.scanner == Scanner(3.0)
    assert study.parts == [Scanner(), Scanner(maker="b")]


def test_a_partial_node_waits_for_the_rest():
    partial = build({"_target_": STUDY, "_partial_": True, "norm": "batch"})

    assert isinstance(partial, functools.partial)
    assert partial(channels=3).norm == "batch"


def test_build_all_keeps_names_and_order():
    nodes = OmegaConf.create({"b": {"_target_": SCANNER, "tesla": 7}, "a": {"_target_": SCANNER}})

    assert build_all(nodes) == {"b": Scanner(7.0), "a": Scanner()}
    assert build_all(OmegaConf.create([{"_target_": SCANNER}])) == [Scanner()]


@pytest.mark.parametrize("empty", [None, {}, OmegaConf.create({})])
def test_an_empty_node_builds_nothing(empty):
    assert build(empty) is None
    assert build_all(empty) == []


def test_a_function_is_a_target_too():
    assert build({"_target_": "config_targets.study_of", "channels": 4}).channels == 4


def test_a_value_that_does_not_fit_is_refused_with_its_place():
    config = OmegaConf.create({"model": {"_target_": STUDY, "channels": 1, "norm": "group"}})

    with pytest.raises(ConfigError, match=r"model\.norm='group': must be 'instance' or 'batch'"):
        build(config.model)


def test_what_a_constructor_refuses_is_told_with_the_place_and_the_class():
    config = OmegaConf.create({"model": {"_target_": STUDY, "channels": 13}})

    with pytest.raises(ConfigError, match=r"model \(config_targets\.Study\): .*bad luck"):
        build(config.model)


def test_a_constructors_own_error_is_left_as_it_is():
    with pytest.raises(InputError, match="channels: is 14; use 12"):
        build({"_target_": STUDY, "channels": 14})


def test_a_node_without_target_is_refused():
    with pytest.raises(ConfigError, match="has no _target_"):
        build({"channels": 3})


def test_a_missing_value_is_named():
    config = OmegaConf.create({"model": {"_target_": STUDY, "channels": "???"}})

    with pytest.raises(ConfigError, match=r"model.*channels"):
        build(config.model)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "logging.os.system",
        "medseg.core.errors.Path",
        "medseg.data.split.np.load",
        "medseg.config.build.importlib.import_module",
        "config_targets.os.system",
        "config_targets.ALIAS_OF_ANOTHER_PACKAGE",
        "config_targets.MADE",
        "config_targets.Study.load",
        "config_targets._private",
        "config_targets.Study.__init__",
        "medseg.cli.commands.main",
        "medseg.config.build.build",
        "torch.load",
        "torch.hub.load",
        "monai.bundle.ConfigParser",
        "monai.apps.download_and_extract",
        "lightning.pytorch.LightningModule.load_from_checkpoint",
        "lightning.pytorch.cli.LightningCLI",
        "torch.nn.torch.load",
        "torch.optim.torch.hub.load",
        "",
        "..",
        "rm -rf /",
        3,
    ],
)
def test_what_lies_outside_the_allowed_packages_is_refused(target):
    with pytest.raises(ConfigError) as refused:
        build({"_target_": target, "path": "x"})

    assert "there is no such class" in str(refused.value) or refused.value.code == "E_TARGET"


def test_a_refused_name_is_not_even_imported():
    assert "antigravity" not in sys.modules

    with pytest.raises(ConfigError, match="MEDSEG_ALLOWED_TARGETS=<package>"):
        build({"_target_": "antigravity.geohash"})

    assert "antigravity" not in sys.modules


def test_without_the_variable_the_users_own_package_is_refused(monkeypatch):
    monkeypatch.delenv("MEDSEG_ALLOWED_TARGETS")

    with pytest.raises(ConfigError, match="set MEDSEG_ALLOWED_TARGETS=<package>"):
        build({"_target_": STUDY, "channels": 1})


def test_a_bundles_node_cannot_use_what_the_variable_allows():
    node = {"_target_": STUDY, "channels": 1}

    with pytest.raises(ConfigError, match="not in a package that configurations may name"):
        build_restricted(node, packages=("medseg.models",), extra={})


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("medseg.models.nothing.Net", "there is no such class or function"),
        ("medseg.models.unet.UNettt", "there is no such class or function"),
    ],
)
def test_a_name_that_does_not_exist_is_told(target, text):
    with pytest.raises(ConfigError, match=text):
        build({"_target_": target})


def test_an_object_that_pretends_to_be_at_home_elsewhere_is_refused(monkeypatch):
    def impostor():
        raise AssertionError

    impostor.__module__, impostor.__qualname__ = "config_targets", "Study"
    monkeypatch.setattr(config_targets, "impostor", impostor, raising=False)

    with pytest.raises(ConfigError, match="outside the allowed packages"):
        resolve_target("config_targets.impostor", where="x", packages=("config_targets",))


def test_a_package_name_is_not_a_prefix_of_another():
    with pytest.raises(ConfigError, match="not in a package"):
        resolve_target("config_targets.Study", where="x", packages=("config",))


def test_lightnings_short_name_reaches_its_trainer():
    found = resolve_target(
        "lightning.pytorch.Trainer", where="trainer", packages=("lightning.pytorch.trainer",)
    )

    assert found.__name__ == "Trainer"


def test_accepts_tells_which_arguments_are_left_open():
    node = {"_target_": STUDY, "channels": 1, "norm": None}

    assert accepts(node, "norm")
    assert accepts(node, "folder")
    assert not accepts(node, "channels")
    assert not accepts(node, "nonsense")


def test_a_signature_tells_arguments_and_those_that_are_required():
    signature = signature_of(Study)

    assert signature.required == {"channels"}
    assert signature.parameters[:2] == ("channels", "norm")
    assert signature.annotations["channels"] is int
    assert "untyped" not in signature.annotations
    assert not signature.is_open
    assert signature_of(config_targets.OpenStudy).is_open


def test_logging_is_not_a_way_out(tmp_path):
    assert logging.os  # the alias that once passed a check on names alone
    marker = tmp_path / "made"

    with pytest.raises(ConfigError):
        build({"_target_": "logging.os.system", "command": f"touch {marker}"})

    assert not marker.exists()
