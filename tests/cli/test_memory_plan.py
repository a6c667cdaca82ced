import json
from pathlib import Path

import pytest
from learning_cases import write_blocks

from medseg.cli import memory_plan
from medseg.cli.preparation import prepare_data
from medseg.config.check import load_config
from medseg.core.errors import ConfigError, OutputError


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("memory") / "blocks"
    write_blocks(folder, 3, shape=(40, 36, 24))
    return folder


def prepare(blocks: Path, folder: Path, *more: str):
    cfg = load_config(
        "train",
        [
            "data=folder", f"data.source.folder={blocks}", "data.modality=MR", "data.num_folds=3",
            "data.labels={background: 0, box: 1, corner: 2}", "name=blocks", "trainer=cpu",
            f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}",
            "plan.base_channels=4", *more,
        ],
    )  # fmt: skip
    return prepare_data(cfg).plan


def test_the_plan_says_what_a_step_takes_and_of_what(blocks, tmp_path):
    plan = prepare(blocks, tmp_path, "plan.memory_budget_gib=0.5")

    reason = plan.reasons["memory_budget_gib"]
    assert plan.memory_budget_gib == 0.5
    assert reason.startswith("a training step takes ")
    assert "MiB of 0.5 GiB, measured; set by hand" in reason


def test_without_a_budget_a_share_of_the_free_memory_is_one(blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 3 * 2**30)

    plan = prepare(blocks, tmp_path)

    assert plan.memory_budget_gib == 1.5
    assert plan.reasons["memory_budget_gib"].endswith("50% of what was free")


def test_a_small_budget_gives_smaller_patches(blocks, tmp_path):
    usual = prepare(blocks, tmp_path, "plan.memory_budget_gib=0.5")
    small = prepare(blocks, tmp_path, "plan.memory_budget_gib=0.008")

    assert usual.patch_size == (40, 32, 24)
    assert small.patch_size < usual.patch_size
    assert small.batch_size == usual.batch_size == 2
    assert "takes more than 0.008 GiB, measured" in small.reasons["patch_size"]
    stored = (tmp_path / "runs" / "blocks" / "fold_0" / "plan.yaml").read_text()
    assert "measured" in stored


def test_a_budget_that_nothing_fits_is_an_error(blocks, tmp_path):
    with pytest.raises(ConfigError) as caught:
        prepare(blocks, tmp_path, "plan.memory_budget_gib=0.0001")

    assert caught.value.where == "plan.memory_budget_gib"
    assert "even with 1 of the smallest patches" in caught.value.what


def test_numbers_set_by_hand_are_kept_with_a_warning(blocks, tmp_path, capsys):
    plan = prepare(
        blocks, tmp_path, "plan.memory_budget_gib=0.001", "plan.patch_size=[32,32,16]",
        "plan.batch_size=3",
    )  # fmt: skip

    assert (plan.patch_size, plan.batch_size) == ((32, 32, 16), 3)
    printed = " ".join(capsys.readouterr().out.split())
    assert "a training step of 3 x 32x32x16 voxels, set by hand, takes more than" in printed
    assert plan.reasons["memory_budget_gib"] == "measured more than 0.001 GiB; set by hand"


def test_numbers_set_by_hand_that_fit_are_no_matter(blocks, tmp_path, capsys):
    prepare(blocks, tmp_path, "plan.patch_size=[32,32,16]", "plan.batch_size=3")

    assert "set by hand" not in capsys.readouterr().out


def test_a_measurement_is_used_again_while_it_fits(blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 3 * 2**30)
    first = prepare(blocks, tmp_path)
    (stored,) = (tmp_path / "cache" / "trials").iterdir()
    monkeypatch.setattr(memory_plan, "step_bytes", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 2 * 2**30)

    assert prepare(blocks, tmp_path, "fold=1") == first

    monkeypatch.undo()
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 2**24)
    assert prepare(blocks, tmp_path).patch_size < first.patch_size
    assert json.loads(stored.read_text())["budget_bytes"] == 2**23


def test_further_processes_take_the_first_ones_measurement(blocks, tmp_path, monkeypatch):
    first = prepare(blocks, tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 2**20)

    assert prepare(blocks, tmp_path) == first

    monkeypatch.setattr(memory_plan, "WAIT_S", 0.1)
    with pytest.raises(OutputError) as caught:
        prepare(blocks, tmp_path, "plan.base_channels=5")
    assert "no measurement of the training's first process" in caught.value.what


def test_shared_out_networks_are_not_tried_on_one_device(blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_plan, "step_bytes", lambda *_, **__: pytest.fail("measured"))

    plan = prepare(blocks, tmp_path, "trainer.strategy=fsdp")

    assert plan.memory_budget_gib is None
    assert plan.reasons["memory_budget_gib"].startswith("not measured: with trainer.strategy=fsdp")


def test_networks_that_find_objects_are_tried_with_objects(blocks, tmp_path):
    plan = prepare(blocks, tmp_path, "model=mask_rcnn", "task.instances_from=components")

    assert plan.memory_budget_gib is not None
    assert plan.reasons["memory_budget_gib"].startswith("a training step takes")
