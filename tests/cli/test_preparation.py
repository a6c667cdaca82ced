from pathlib import Path

import nibabel
import numpy as np
import pytest
from learning_cases import write_blocks

from medseg.cli.preparation import prepare_data
from medseg.cli.train import run
from medseg.config.check import load_config
from medseg.core.errors import ConfigError, LabelError


def options(folder: Path, *more: str, labels: str = "{background: 0, box: 1, corner: 2}"):
    return load_config(
        "train",
        [
            "data=folder", f"data.source.folder={folder / 'blocks'}", f"data.labels={labels}",
            "data.modality=MR", "data.num_folds=3", "name=blocks", f"paths.runs={folder / 'runs'}",
            f"paths.cache={folder / 'cache'}", "trainer=cpu", "plan.base_channels=4", *more,
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "where"),
    [
        ("trainer.max_time=banana", "trainer.max_time"),
        ("trainer.max_epochs=0", "trainer.max_epochs"),
        ("trainer.devices=0", "trainer"),
        ("optimizer.lr=-1", "optimizer"),
        ("loader.foreground_fraction=2", "loader.foreground_fraction"),
        ("plan.patch_size=[16,16]", "plan.patch_size"),
        ("plan.base_channels=0", "plan.base_channels"),
        ("data.modality=ct", "data.modality"),
    ],
)
def test_a_wrong_setting_is_told_before_any_data_is_read(tmp_path, option, where):
    cfg = options(tmp_path, option)  # the folder does not exist

    with pytest.raises(ConfigError) as caught:
        run(cfg)

    assert caught.value.where == where
    assert caught.value.remedy


def test_a_channel_without_an_image_is_an_error(tmp_path):
    write_blocks(tmp_path / "blocks", 3)

    with pytest.raises(ConfigError) as caught:
        prepare_data(options(tmp_path, "data.channel_names=[T1,T2]"))

    assert caught.value.where == "data.channel_names"
    assert caught.value.what == "names 2 channels, but the images have 1"
    assert "one name per channel" in caught.value.remedy


def test_references_that_are_all_empty_are_an_error(tmp_path):
    write_blocks(tmp_path / "blocks", 3)

    for path in (tmp_path / "blocks" / "labels").iterdir():
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)

    with pytest.raises(LabelError) as caught:
        prepare_data(options(tmp_path))

    assert caught.value.where == "data.source"
    assert caught.value.what == "no training case has a voxel of box, corner"
    assert "data.labels" in caught.value.remedy


def test_a_label_that_no_case_has_is_told_and_the_others_are_prepared(tmp_path, capsys):
    write_blocks(tmp_path / "blocks", 3)

    prepared = prepare_data(
        options(tmp_path, labels="{background: 0, box: 1, corner: 2, ghost: 3}")
    )

    assert len(prepared.split.train) == 2
    assert "no training case has a voxel of ghost" in capsys.readouterr().out


def test_a_spacing_that_no_memory_holds_is_an_error(tmp_path):
    write_blocks(tmp_path / "blocks", 3)

    with pytest.raises(ConfigError) as caught:
        prepare_data(options(tmp_path, "plan.spacing_mm=[0.0001,0.0001,0.0001]"))

    assert caught.value.where == "plan.spacing_mm"
    assert "the largest case has" in caught.value.what
    assert "coarser" in caught.value.remedy


def test_all_folds_have_the_same_plan(tmp_path):
    write_blocks(tmp_path / "blocks", 3)

    first, second = (
        prepare_data(options(tmp_path, "data.modality=CT", f"fold={fold}")) for fold in (0, 1)
    )

    assert first.split.train != second.split.train
    assert first.plan.normalisation[0]["kind"] == "clip_zscore"
    assert first.plan == second.plan
