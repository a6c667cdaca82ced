"""A training that begins with a file of weights."""

from __future__ import annotations

from learning_cases import perfect_bundle
from network_options import small_network
from omegaconf import OmegaConf
from safetensors.torch import save_file

from medseg.cli.starting import adopted_plan, start_bundle, take_file
from medseg.data.plan import Plan


def test_a_file_of_weights_is_no_bundle_and_is_taken_by_its_names(tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    first, second = small_network("segnet", 2), small_network("segnet", 2)
    save_file({key: value + 1.0 for key, value in first.state_dict().items()}, path)
    config = OmegaConf.create({"start_from": str(path), "model": {"spatial_dims": 2}})

    bundle = start_bundle(config)
    take_file(second, path, inflate=False)

    assert bundle is None
    for key, value in first.state_dict().items():
        assert (second.state_dict()[key] == value + 1.0).all(), key
    assert "weights taken as they are" in capsys.readouterr().out


def test_a_bundle_older_than_the_light_finest_stage_keeps_its_whole_one(tmp_path):
    older = perfect_bundle(tmp_path)
    assert older.plan.light_finest is None

    plan = adopted_plan(Plan(), older, num_channels=3, channel_names=())
    by_hand = adopted_plan(Plan(light_finest=True), older, num_channels=3, channel_names=())

    assert plan.light_finest is False
    assert by_hand.light_finest is True


def test_2d_weights_go_into_a_3d_network_on_request(tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    save_file(dict(small_network("segnet", 2).state_dict()), path)

    take_file(small_network("segnet", 3), path, inflate=True)

    assert "26 taken in part or brought to this network's shape" in " ".join(
        capsys.readouterr().out.split()
    )
