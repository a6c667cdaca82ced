"""Every option of every group composes and fits the class it configures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from medseg.config.build import allowed_packages, is_node, resolve_target
from medseg.config.check import check
from medseg.config.compose import compose, conf_dir, groups
from medseg.config.schema import SCHEMAS

COMMANDS = (
    "train", "prepare", "predict", "batch", "serve", "jobs", "evaluate", "ensemble", "doctor",
    "export", "phantom",
)  # fmt: skip

# The only values that a person must give; any will do, since nothing is read while checking.
GIVEN = {
    "bundle",
    "data.source.folder",
    "deidentify.key_file",
    "destination.ae_title",
    "destination.host",
    "destination.url",
    "folds",
    "predictions",
    "references",
    "service.folder",
    "service.url",
    "source.folder",
    "source.masks",
    "source.path",
}

# Where the classes of a group live; the groups left out hold values or overrides.
HOMES = {
    "augment": ("medseg.transforms.",),
    "baseline": ("medseg.baselines.",),
    "callbacks": ("medseg.training.", "lightning.pytorch.callbacks."),
    "data": ("medseg.data.", "medseg.sources."),
    "deidentify": ("medseg.dicom.",),
    "destination": ("medseg.services.",),
    "executor": ("medseg.services.",),
    "inference": ("medseg.inference.",),
    "loader": ("medseg.data.",),
    "logger": ("lightning.pytorch.loggers.",),
    "loss": ("medseg.losses.",),
    "model": ("medseg.models.", "monai.networks."),
    "objects": ("medseg.inference.",),
    "optimizer": ("torch.optim.", "medseg.training."),
    "output": ("medseg.writers.",),
    "plan": ("medseg.data.",),
    "postprocess": ("medseg.inference.",),
    "report": ("medseg.reports.",),
    "schedule": ("medseg.training.",),
    "service": ("medseg.services.",),
    "source": ("medseg.sources.",),
    "task": ("medseg.tasks.",),
    "trainer": ("lightning.pytorch.",),
}

OPTION_FILES = sorted(
    path
    for path in conf_dir().glob("*/*.yaml")
    if path.parent.name not in ("paths", "experiment", "recipe", "site", "hydra")
)
IDS = [f"{path.parent.name}={path.stem}" for path in OPTION_FILES]


def groups_of(command: str) -> set[str]:
    """Groups that a primary configuration chooses from, directly or through the one below it."""
    content = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())
    names: set[str] = set()
    for entry in content["defaults"]:
        if isinstance(entry, dict):
            names |= {key for key in entry if not key.startswith("override ")}
        elif entry != "_self_":
            names |= groups_of(entry)
    return names


def uses(group: str) -> list[str]:
    return [command for command in COMMANDS if group in groups_of(command)]


def require_fit(command: str, overrides: Sequence[str]) -> DictConfig:
    composition = compose(command, overrides)
    for key in GIVEN:
        # Looked up one by one: a value that refers to a missing one has no keys to list.
        parent, _, name = key.rpartition(".")
        section = OmegaConf.select(composition.config, parent) if parent else composition.config
        if section is not None and OmegaConf.is_missing(section, name):
            value = {1: "mask"} if name == "masks" else "/somewhere"
            OmegaConf.update(composition.config, key, value)
    check(composition, command=command)
    return composition.config


def targets(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if is_node(value):
            yield str(value["_target_"])
        for item in value.values():
            yield from targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from targets(item)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes_bare(command):
    composition = compose(command)

    assert composition.problems == ()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_fits_its_code_once_what_only_a_person_knows_is_given(command):
    require_fit(command, [])


def test_every_primary_configuration_has_a_schema():
    primaries = {path.stem for path in conf_dir().glob("*.yaml")}

    assert primaries == set(COMMANDS) == set(SCHEMAS)


@pytest.mark.parametrize("path", OPTION_FILES, ids=IDS)
def test_an_option_composes_and_fits_its_class(path):
    group, name = path.parent.name, path.stem
    commands = uses(group)
    assert commands, f"no command chooses from conf/{group}"
    choice = f"{group}=[{name}]" if group == "output" else f"{group}={name}"

    for command in commands:
        require_fit(command, [choice])


@pytest.mark.parametrize("path", OPTION_FILES, ids=IDS)
def test_an_option_names_classes_of_its_groups_package(path):
    group = path.parent.name

    for target in targets(yaml.safe_load(path.read_text()) or {}):
        found = resolve_target(target, where=group, packages=allowed_packages())

        assert f"{found.__module__}.".startswith(HOMES[group]), target


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_file_says_what_it_is_for_in_its_first_lines(path):
    lines = path.read_text().splitlines()
    comments = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    sentences = [line for line in comments if "@package" not in line]

    assert sentences, f"{path.name} opens without a comment"
    assert len(sentences[0]) > 15


@pytest.mark.parametrize("name", groups()["experiment"])
@pytest.mark.parametrize("command", ["train", "prepare"])
def test_an_experiment_composes_and_fits_train_and_prepare(command, name):
    config = require_fit(command, [f"+experiment={name}"])

    assert config.name == name


@pytest.mark.parametrize("name", groups()["recipe"])
def test_a_recipe_holds_overrides_only(name):
    text = (conf_dir() / "recipe" / f"{name}.yaml").read_text()

    assert text.startswith("# @package _global_")
    assert list(targets(yaml.safe_load(text) or {})) == []
    require_fit("train", [f"recipe={name}"])


@pytest.mark.parametrize("outputs", ["[nifti,dicom_seg]", "[dicom_seg]", "[nifti]"])
def test_several_outputs_stand_side_by_side(outputs):
    config = require_fit("predict", [f"output={outputs}"])

    assert sorted(config.output) == sorted(outputs.strip("[]").split(","))


def test_folder_names_hold_no_equals_sign_and_no_hydra_resolver():
    for path in sorted(conf_dir().glob("*.yaml")):
        hydra = (yaml.safe_load(path.read_text()) or {}).get("hydra", {})
        folders = [hydra.get("run", {}).get("dir", ""), *hydra.get("sweep", {}).values()]

        assert not [folder for folder in folders if "=" in folder or "hydra:" in folder], path


def test_only_train_keeps_a_record_of_hydras_own():
    for command in COMMANDS:
        hydra = compose(command).hydra

        assert (hydra.output_subdir is None) == (command != "train"), command
        assert OmegaConf.select(hydra, "job_logging.handlers") is None


def test_every_folder_of_options_is_a_group_of_the_architecture():
    folders = {path.name for path in Path(conf_dir()).iterdir() if path.is_dir()}

    assert folders - set(HOMES) <= {"paths", "experiment", "recipe", "site"}


def test_the_trainer_has_the_last_word_over_the_recipe():
    assert require_fit("train", ["trainer=debug"]).trainer.max_epochs == 2
    assert require_fit("train", []).trainer.max_epochs == 400
