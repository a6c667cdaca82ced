import json
import logging

import lightning.pytorch as pl
import numpy as np
import pytest
from learning_cases import StopAt, Stopped, fit_blocks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from medseg.training.callbacks import Monitor
from medseg.training.history import RunHistory, read_history
from medseg.training.inspection import StepProfile, WeightHistograms
from medseg.training.run_board import RunBoard

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
        callbacks=[
            Monitor(batch_size=2, every_n_steps=5),
            RunBoard(
                spacing_mm=(1.0, 1.25, 2.0), folder=folder / "samples", texts={"plan": "a: 1\nb: 2"}
            ),
            RunHistory(folder / "history.csv"),
            WeightHistograms(every_n_epochs=2),
            StepProfile(folder=str(folder / "profile"), first_step=2, num_steps=2),
        ],
        loggers=[pl.loggers.TensorBoardLogger(folder, name="tensorboard", version="")],
    )
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    found.folder = folder
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
    names = sorted(path.name for path in (events.folder / "samples").iterdir())
    assert names == ["step_0000010.png", "step_0000020.png"]


def test_long_trainings_show_no_more_pictures(tmp_path):
    board = RunBoard(spacing_mm=(1.0, 1.25, 2.0), folder=tmp_path / "samples", max_pictures=3)

    fit_blocks(tmp_path, epochs=12, steps_per_epoch=1, callbacks=[board])

    names = sorted(path.stem for path in (tmp_path / "samples").iterdir())
    assert len(names) == 3
    assert names[-1] == "step_0000012"


def test_precision_is_drawn_against_recall_for_every_structure(events):
    for name in ("liver", "tumour"):
        first, last = events.Tensors(f"precision_recall/{name}")
        positives, negatives, *_ = tensor_util.make_ndarray(last.tensor_proto)

        assert first.step < last.step
        assert positives.shape == (64,)
        assert (np.diff(positives) <= 0).all()  # fewer voxels at higher thresholds
        assert positives[0] > 0
        assert negatives[0] > 0


def test_the_plan_stands_there_as_text(events):
    (event,) = events.Tensors("plan/text_summary")

    assert event.tensor_proto.string_val[0].decode() == "    a: 1\n    b: 2"


def test_histograms_of_weights_and_gradients_come_on_request(events):
    tags = events.Tags()["histograms"]

    assert len([tag for tag in tags if tag.startswith("weights/")]) > 5
    assert len([tag for tag in tags if tag.startswith("gradients/")]) > 5
    assert len(events.Histograms(tags[0])) == 1  # of two epochs, every second


def test_a_profile_of_the_chosen_steps_is_left(events):
    trace = json.loads((events.folder / "profile" / "trace.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}

    assert any("conv" in name for name in names)
    assert any("backward" in name.lower() for name in names)


def test_the_history_has_a_row_for_every_epoch(events):
    rows = read_history(events.folder / "history.csv")

    losses = [event.value for event in events.Scalars("loss/train_epoch")]
    dice = [event.value for event in events.Scalars("dice/liver")]
    assert [row["step"] for row in rows] == ["10", "20"]
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses, rel=1e-5)
    assert [float(row["liver"]) for row in rows] == pytest.approx(dice, rel=1e-5)
    assert all(float(row["memory_gib"]) > 0.01 for row in rows)


def test_a_resumed_training_goes_on_in_the_history(tmp_path):
    with pytest.raises(Stopped):
        fit_blocks(tmp_path, epochs=4, callbacks=[RunHistory(tmp_path / "h.csv"), StopAt(8)])
    fit_blocks(tmp_path, epochs=4, callbacks=[RunHistory(tmp_path / "h.csv")], resume=True)

    assert [row["step"] for row in read_history(tmp_path / "h.csv")] == ["3", "6", "9", "12"]


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
