"""A training that is stopped at any moment and resumed ends with the weights of one that is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import learning_cases
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from learning_cases import StopAt, Stopped, fit_blocks, small_unet
from safetensors.numpy import load_file
from torch import Tensor, nn

from medseg.core.errors import TrainingError
from medseg.training.checkpoint_files import CHECKPOINT_NAME, previous_path

pytestmark = pytest.mark.filterwarnings("ignore")


def test_training_stopped_in_several_steps_ends_with_equal_weights(tmp_path):
    whole = fit_blocks(tmp_path / "whole", epochs=5)

    for step in (3, 7, 8, 14):
        with pytest.raises(Stopped):
            fit_blocks(tmp_path / "parts", epochs=5, resume=True, callbacks=[StopAt(step)])
    parts = fit_blocks(tmp_path / "parts", epochs=5, resume=True)

    assert parts.num_steps == whole.num_steps == 15
    assert_equal_weights(parts.weights, whole.weights)
    assert parts.scores == whole.scores


def test_a_network_with_dropout_resumes_exactly(tmp_path):
    whole = fit_blocks(tmp_path / "whole", epochs=3, network=dropout_network())

    with pytest.raises(Stopped):
        fit_blocks(tmp_path / "parts", epochs=3, network=dropout_network(), callbacks=[StopAt(5)])
    parts = fit_blocks(tmp_path / "parts", epochs=3, network=dropout_network(), resume=True)

    assert_equal_weights(parts.weights, whole.weights)


def test_gradient_accumulation_and_worker_processes_resume_exactly(tmp_path):
    options = {"epochs": 3, "steps_per_epoch": 4, "accumulate_grad_batches": 2, "num_workers": 1}
    whole = fit_blocks(tmp_path / "whole", **options)

    with pytest.raises(Stopped):
        fit_blocks(tmp_path / "parts", callbacks=[StopAt(3)], **options)
    parts = fit_blocks(tmp_path / "parts", resume=True, **options)

    assert parts.num_steps == whole.num_steps == 6
    assert_equal_weights(parts.weights, whole.weights)


def test_worker_processes_change_nothing(tmp_path):
    alone = fit_blocks(tmp_path / "alone", epochs=3)

    helped = fit_blocks(tmp_path / "helped", epochs=3, num_workers=2)

    assert_equal_weights(helped.weights, alone.weights)


def test_resuming_a_finished_training_changes_nothing(tmp_path):
    first = fit_blocks(tmp_path, epochs=2)

    second = fit_blocks(tmp_path, epochs=2, resume=True)

    assert second.num_steps == first.num_steps
    assert second.scores == first.scores
    assert_equal_weights(second.weights, first.weights)


def test_a_resumed_training_can_be_made_longer(tmp_path):
    fit_blocks(tmp_path, epochs=1)

    longer = fit_blocks(tmp_path, epochs=3, resume=True)

    assert longer.num_steps == 9


@pytest.mark.parametrize("damage", ["flipped bit", "cut off", "empty", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage, caplog):
    whole = fit_blocks(tmp_path / "whole", epochs=4)
    folder = tmp_path / "damaged"
    with pytest.raises(Stopped):
        fit_blocks(folder, epochs=4, callbacks=[StopAt(11)])

    spoil(folder / CHECKPOINT_NAME, damage)
    resumed = fit_blocks(folder, epochs=4, resume=True)

    assert_equal_weights(resumed.weights, whole.weights)
    assert "going on from last.previous.ckpt" in caplog.text


def test_damage_to_both_checkpoints_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(Stopped):
        fit_blocks(tmp_path, epochs=4, callbacks=[StopAt(11)])
    spoil(tmp_path / CHECKPOINT_NAME, "flipped bit")
    spoil(previous_path(tmp_path / CHECKPOINT_NAME), "cut off")

    with pytest.raises(TrainingError) as caught:
        fit_blocks(tmp_path, epochs=4, resume=True)

    assert caught.value.where.endswith("last.ckpt")
    assert "is damaged (its sha256 does not fit)" in caught.value.what
    assert "name=<name>" in caught.value.remedy


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    fit_blocks(tmp_path, epochs=1)

    with pytest.raises(TrainingError) as caught:
        fit_blocks(tmp_path, epochs=2, resume=True, network=small_unet(base_channels=6))

    assert caught.value.where == "resume=true"
    assert "belongs to another network or plan" in caught.value.what
    assert "config.yaml" in caught.value.remedy


def test_a_training_that_is_further_than_asked_is_refused(tmp_path):
    fit_blocks(tmp_path, epochs=3)

    with pytest.raises(TrainingError) as caught:
        fit_blocks(tmp_path, epochs=2, resume=True)

    assert caught.value.where == "trainer.max_epochs"
    assert caught.value.what == "is 2, but the training to go on with has done 3"
    assert "trainer.max_epochs=3 or more" in caught.value.remedy


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    fit_blocks(tmp_path, epochs=1)

    with pytest.raises(TrainingError) as caught:
        fit_blocks(tmp_path, epochs=2, resume=True, optimizer=torch.optim.SGD)

    assert "belongs to another optimizer" in caught.value.what
    assert "name=<name>" in caught.value.remedy


def test_files_left_by_a_kill_while_saving_are_removed(tmp_path):
    unfinished = tmp_path / "checkpoints" / ".0123456789ab.last.ckpt"
    unfinished.parent.mkdir()
    unfinished.write_bytes(b"half")

    fit_blocks(tmp_path, epochs=1)

    assert sorted(path.name for path in unfinished.parent.iterdir()) == [
        "last.ckpt",
        "last.previous.ckpt",
    ]


@pytest.mark.slow
def test_kill_and_resume_on_the_command_line_gives_the_weights_of_an_unbroken_training(tmp_path):
    """SIGKILL at random moments, from the first import to the last prediction."""
    learning_cases.write_blocks(tmp_path / "blocks", 6)
    unbroken = run_to_its_end(command(tmp_path, "unbroken"))
    assert unbroken == 0
    rng = np.random.default_rng(0)
    checkpoint = tmp_path / "runs" / "broken" / "fold_0" / CHECKPOINT_NAME

    kills = 0
    while kills < 2:
        process = subprocess.Popen(
            command(tmp_path, "broken"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        kills += kill_some_time_after_a_checkpoint(process, checkpoint, wait_s=rng.uniform(0, 0.6))
    finished = run_to_its_end(command(tmp_path, "broken"))

    assert finished == 0
    weights = "fold_0/bundle/weights/fold_0.safetensors"
    wanted = load_file(tmp_path / "runs" / "unbroken" / weights)
    found = load_file(tmp_path / "runs" / "broken" / weights)
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def assert_equal_weights(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


def dropout_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.Dropout3d(0.5), nn.Conv3d(6, 3, 1)
    )


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
        return
    if damage == "flipped bit":
        content[len(content) // 2] ^= 4
    path.write_bytes({"cut off": content[: len(content) // 3], "empty": b""}.get(damage, content))


def command(folder: Path, name: str) -> list[str]:
    return [
        sys.executable, "-m", "medseg", "train", "data=folder",
        f"data.source.folder={folder / 'blocks'}", "data.labels={background: 0, box: 1, corner: 2}",
        "data.modality=MR", "data.num_folds=3", f"name={name}", "resume=true",
        f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}",
        "trainer=cpu", "trainer.deterministic=true", "trainer.max_epochs=30",
        "loader.steps_per_epoch=5", "plan.patch_size=[16,16,8]", "plan.base_channels=4",
        "plan.batch_size=2", "logger=csv",
    ]  # fmt: skip


def run_to_its_end(words: list[str]) -> int:
    return subprocess.run(words, capture_output=True, timeout=300, check=False).returncode


def kill_some_time_after_a_checkpoint(
    process: subprocess.Popen[bytes], checkpoint: Path, *, wait_s: float
) -> bool:
    """Kills the process `wait_s` after it wrote a checkpoint; False if it ended before."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while process.poll() is None:
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
            time.sleep(wait_s)
            os.kill(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.01)
    raise AssertionError(f"the training ended by itself with {process.returncode}")


def test_a_checkpoint_is_written_after_each_short_epoch(tmp_path):
    seen: list[int] = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append((tmp_path / CHECKPOINT_NAME).exists())

    fit_blocks(tmp_path, epochs=2, callbacks=[Watch()])

    assert seen == [False, True]
