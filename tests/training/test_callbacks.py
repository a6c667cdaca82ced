import logging

import lightning.pytorch as pl
import numpy as np
import pytest
from learning_cases import StopAt, Stopped, fit_blocks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medseg.training.callbacks import Monitor

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> EventAccumulator:
    """What a training of two epochs of ten steps writes for TensorBoard."""
    folder = tmp_path_factory.mktemp("run")
    fit_blocks(
        folder,
        epochs=2,
        steps_per_epoch=10,
        log_every_n_steps=5,
        callbacks=[Monitor(batch_size=2, spacing_mm=(1.0, 1.25, 2.0), every_n_steps=5)],
        loggers=[pl.loggers.TensorBoardLogger(folder, name="tensorboard", version="")],
    )
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_curves_of_loss_rate_dice_and_throughput_are_drawn(events):
    curves = {
        tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }

    assert {
        "loss/train_step", "loss/train_epoch", "learning_rate", "throughput/patches_per_s",
        "dice/liver", "dice/tumour", "dice/mean",
    } <= set(curves)  # fmt: skip
    assert len(curves["dice/mean"]) == 2
    assert curves["dice/mean"][1] == pytest.approx(
        (curves["dice/liver"][1] + curves["dice/tumour"][1]) / 2
    )
    # Read after every fifth step.
    assert curves["learning_rate"] == pytest.approx(
        [0.01 * (1 - n / 20) ** 0.9 for n in (4, 9, 14, 19)]
    )
    assert all(value > 0 for value in curves["throughput/patches_per_s"])


def test_pictures_of_the_first_validation_case_are_shown(events):
    (tag,) = events.Tags()["images"]

    assert tag == "validation/case_003"
    assert len(events.Images(tag)) == 2
    assert events.Images(tag)[0].width >= 3 * 8


def test_training_ends_early_when_dice_no_longer_rises(tmp_path):
    stop = pl.callbacks.EarlyStopping(monitor="dice/mean", mode="max", patience=2)

    result = fit_blocks(tmp_path, epochs=50, lr=0.0, callbacks=[stop])

    # Nothing is learnt at rate 0, so the first epoch stays the best and two more are waited for.
    assert result.num_steps == 3 * 3


def test_patience_is_remembered_over_an_interruption(tmp_path):
    def stop() -> pl.Callback:
        return pl.callbacks.EarlyStopping(monitor="dice/mean", mode="max", patience=3)

    with pytest.raises(Stopped):
        fit_blocks(tmp_path, epochs=50, lr=0.0, callbacks=[stop(), StopAt(7)])
    result = fit_blocks(tmp_path, epochs=50, lr=0.0, callbacks=[stop()], resume=True)

    assert result.num_steps == 4 * 3


def test_progress_is_logged_where_there_is_no_terminal(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="medseg.training.callbacks"):
        fit_blocks(tmp_path, epochs=1, shows_progress=True)

    (message,) = [r.getMessage() for r in caplog.records if "epoch" in r.getMessage()]
    assert "step 3" in message
    assert "loss" in message
    assert "Dice liver" in message
    assert "left" in message
    assert np.isfinite(float(message.split("loss ")[1].split()[0]))
