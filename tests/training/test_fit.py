import time
from functools import partial

import learning_cases
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from learning_cases import block_cases, case_of, fit_blocks, small_unet
from torch import Tensor, nn

from medseg.core.errors import ConfigError, TrainingError
from medseg.core.volume import Volume
from medseg.inference.precision import device_of
from medseg.losses.dice_ce import DiceCELoss
from medseg.training.fit import check_optimizer, check_trainer, seconds

pytestmark = pytest.mark.filterwarnings("ignore")


class Record(pl.Callback):
    """Keeps loss, learning rate and weights of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.losses.append(float(outputs["loss"]))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        state = pl_module.model.state_dict()
        self.weights.append({key: value.clone() for key, value in state.items()})


class Fails(nn.Module):
    """A loss that is not finite from the given call on."""

    def __init__(self, *, call: int, value: float) -> None:
        super().__init__()
        self.calls_left = call
        self.value = value

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls_left -= 1
        loss = DiceCELoss()(logits, target)
        return loss * self.value if self.calls_left < 0 else loss


def test_the_loss_falls_and_the_structures_are_found(tmp_path):
    record = Record()

    result = fit_blocks(tmp_path, epochs=4, steps_per_epoch=20, callbacks=[record], lr=0.02)

    assert np.mean(record.losses[-10:]) < 0.6 * np.mean(record.losses[:5])
    assert result.num_steps == 80
    # Seen once in many runs: 0.8 and more; an untrained network gives 0.1.
    assert result.scores["liver"] > 0.5
    assert set(result.scores) == {"liver", "tumour"}


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, second = (fit_blocks(tmp_path / name, epochs=1) for name in ("a", "b"))

    assert all(torch.equal(first.weights[key], second.weights[key]) for key in first.weights)


def test_patches_finished_on_the_device_train_to_the_same_weights(tmp_path):
    here = fit_blocks(tmp_path / "a", epochs=1)
    there = fit_blocks(tmp_path / "b", epochs=1, finishes=False)

    assert all(torch.equal(here.weights[key], there.weights[key]) for key in here.weights)


def test_the_learning_rate_follows_the_steps(tmp_path):
    record = Record()

    fit_blocks(tmp_path, epochs=2, steps_per_epoch=4, callbacks=[record], lr=0.5)

    assert record.rates == pytest.approx([0.5 * (1 - n / 8) ** 0.9 for n in range(8)])


def test_accumulated_batches_count_as_one_step(tmp_path):
    record = Record()

    result = fit_blocks(
        tmp_path, epochs=1, steps_per_epoch=6, callbacks=[record], accumulate_grad_batches=3
    )

    assert result.num_steps == 2
    assert record.rates == pytest.approx([0.01] * 3 + [0.01 * 0.5**0.9] * 3)


def test_the_weights_given_back_are_the_moving_average(tmp_path):
    record = Record()
    start = {key: value.clone() for key, value in small_unet().state_dict().items()}

    result = fit_blocks(tmp_path, epochs=1, callbacks=[record], decay=0.15)

    wanted = start
    for step, weights in enumerate(record.weights, start=1):
        keep = min(0.15, (1 + step) / (10 + step))
        wanted = {key: keep * wanted[key] + (1 - keep) * weights[key] for key in weights}
    for key, value in wanted.items():
        torch.testing.assert_close(result.weights[key], value)


def test_without_decay_the_last_weights_are_given_back(tmp_path):
    record = Record()

    result = fit_blocks(tmp_path, epochs=1, callbacks=[record], decay=0.0)

    for key, value in record.weights[-1].items():
        torch.testing.assert_close(result.weights[key], value)


def test_validation_uses_the_average_and_training_goes_on_with_its_own_weights(tmp_path):
    seen: list[Tensor] = []

    class Watch(pl.Callback):
        def on_validation_batch_start(self, trainer, pl_module, *_):
            seen.append(pl_module.model.heads[0].weight.detach().clone())

        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(pl_module.model.heads[0].weight.detach().clone())

    record = Record()
    result = fit_blocks(tmp_path, epochs=1, callbacks=[record, Watch()], decay=0.9)

    assert torch.equal(seen[0], result.weights["heads.0.weight"])
    assert torch.equal(seen[1], record.weights[-1]["heads.0.weight"])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_step_and_cases(tmp_path, value):
    with pytest.raises(TrainingError) as caught:
        fit_blocks(tmp_path, epochs=2, loss=Fails(call=4, value=value))

    assert caught.value.code == "E_LOSS_NOT_FINITE"
    assert caught.value.where == "step 4"
    assert f"the loss is {value}" in caught.value.what
    assert "case_00" in caught.value.what
    assert "optimizer.lr" in caught.value.remedy
    assert "resume=true" in caught.value.remedy


def test_training_goes_on_from_the_checkpoint_before_the_bad_step(tmp_path):
    whole = fit_blocks(tmp_path / "whole", epochs=3)
    with pytest.raises(TrainingError):
        fit_blocks(tmp_path / "parts", epochs=3, loss=Fails(call=7, value=float("nan")))

    resumed = fit_blocks(tmp_path / "parts", epochs=3, resume=True)

    assert all(torch.equal(resumed.weights[key], whole.weights[key]) for key in whole.weights)


def test_training_ends_when_its_time_is_over(tmp_path):
    start = time.monotonic()

    result = fit_blocks(tmp_path, epochs=100_000, max_time_s=1.5)

    assert result.num_steps < 300_000
    assert 1.4 < result.elapsed_s < time.monotonic() - start
    assert result.scores  # the end is validated whatever it costs


def test_time_before_an_interruption_counts_and_the_pause_does_not(tmp_path):
    first = fit_blocks(tmp_path, epochs=100_000, max_time_s=1.0)

    longer = fit_blocks(tmp_path, epochs=100_000, max_time_s=2.0, resume=True)

    assert longer.num_steps > first.num_steps
    assert longer.elapsed_s < 2.0 + 1.0


def test_resuming_after_the_time_is_over_changes_nothing(tmp_path):
    first = fit_blocks(tmp_path, epochs=100_000, max_time_s=0.5)

    second = fit_blocks(tmp_path, epochs=100_000, max_time_s=0.4, resume=True)

    assert second.num_steps == first.num_steps
    assert all(torch.equal(second.weights[key], first.weights[key]) for key in first.weights)


def test_the_rate_has_fallen_to_almost_nothing_when_the_time_is_over(tmp_path):
    record = Record()
    fit_blocks(tmp_path / "first", epochs=1, steps_per_epoch=1)  # the first of a process loads much

    fit_blocks(tmp_path, epochs=100_000, max_time_s=2.0, callbacks=[record], lr=1.0)

    assert record.rates[0] > 0.95
    assert record.rates[-1] < 0.3


class SlowToValidate(nn.Module):
    """A network that takes 0.4 s for each case that it is shown in evaluation, each one window."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_unet()
        self.stride = self.network.stride  # windows may grow to the whole case
        self.num_shown = 0

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        if not self.training:
            time.sleep(0.4)
            self.num_shown += 1
        return self.network(image)


def test_a_running_validation_is_cut_to_the_cases_that_it_has_time_for(tmp_path):
    network = SlowToValidate()

    result = fit_blocks(
        tmp_path,
        epochs=1,
        network=network,
        cases=block_cases(9),
        num_validation=6,
        always_validate=False,
    )

    # A second is not cut, so two cases of 0.4 s are looked at, fewer on a busy machine.
    assert network.num_shown in (1, 2)
    assert result.scored_cases == (network.num_shown, 6)
    assert set(result.scores) == {"liver", "tumour"}


class Looks(pl.Callback):
    """Notes how many cases each look took in, and was meant to."""

    def __init__(self) -> None:
        self.cases: list[tuple[int, int]] = []

    def on_validation_end(self, trainer, pl_module):
        self.cases.append(pl_module.scored_cases)


def test_the_last_look_takes_in_all_validation_cases(tmp_path):
    looks = Looks()

    result = fit_blocks(
        tmp_path, epochs=2, cases=block_cases(5), num_validation=3, num_shown=1, callbacks=[looks]
    )

    assert looks.cases == [(1, 1), (3, 3)]
    assert result.scored_cases == (3, 3)


def test_a_training_that_must_be_repeatable_validates_all_cases(tmp_path):
    network = SlowToValidate()

    result = fit_blocks(tmp_path, epochs=1, network=network, cases=block_cases(7), num_validation=4)

    assert network.num_shown == 4
    assert result.scored_cases == (4, 4)


def test_patches_of_two_channels_train(tmp_path):
    cases = []
    for case in block_cases(3):
        volume = case.read_image()
        double = Volume(np.concatenate([volume.array, -volume.array]), volume.geometry)
        cases.append(case_of(double, case.read_reference(), key=case.key))
    network = partial(learning_cases.UNet, 2, 3, base_channels=4, strides=(1, 2))

    result = fit_blocks(
        tmp_path,
        epochs=1,
        cases=cases,
        network=network(),
        plan={"normalisation": ({"kind": "zscore"},) * 2},
    )

    assert result.num_steps == 3


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        ("00:00:10:00", 600.0),
        ("01:02:03:04", 93784.0),
        ({"minutes": 3, "seconds": 1}, 181.0),
    ],
)
def test_time_limits_are_read_as_lightning_writes_them(given, wanted):
    assert seconds(given) == wanted


@pytest.mark.parametrize(
    "given",
    ["10:00", "ten minutes", "00:00:-1:00", "", 10, -1.5, "00:00:00:00", {"minuts": 1}],
)
def test_a_time_that_cannot_be_read_is_named(given):
    with pytest.raises(ConfigError) as caught:
        seconds(given)

    assert caught.value.where == "trainer.max_time"
    assert f"'{given}'" in caught.value.what
    assert "00:00:10:00" in caught.value.remedy


def test_the_device_follows_the_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert device_of("cpu") == device_of("auto") == "cpu"
    with pytest.raises(ConfigError) as caught:
        device_of("gpu")
    assert caught.value.where == "trainer.accelerator"
    assert caught.value.remedy == "set trainer=cpu"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("gpu") == device_of("cuda") == device_of("auto") == "cuda"
    assert device_of("cpu") == "cpu"


TRAINER = {
    "_target_": "lightning.pytorch.Trainer",
    "accelerator": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": None,
    "max_epochs": 5,
    "max_time": None,
    "accumulate_grad_batches": 1,
    "enable_progress_bar": True,
    "log_every_n_steps": 10,
}


def test_a_trainer_that_can_be_made_passes():
    check_trainer(TRAINER)
    check_trainer({**TRAINER, "devices": 2, "strategy": "ddp", "max_time": "00:00:00:10"})


@pytest.mark.parametrize(
    ("option", "value", "where"),
    [
        ("max_epochs", 0, "trainer.max_epochs"),
        ("max_epochs", -1, "trainer.max_epochs"),
        ("max_epochs", None, "trainer.max_epochs"),
        ("accumulate_grad_batches", 0, "trainer.accumulate_grad_batches"),
        ("max_time", "banana", "trainer.max_time"),
        ("num_nodes", 2, "trainer.num_nodes"),
        ("accelerator", "gpuu", "trainer"),
        ("devices", 0, "trainer"),
        ("strategy", "ddpp", "trainer"),
    ],
)
def test_a_wrong_option_of_the_trainer_is_named(option, value, where, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    with pytest.raises(ConfigError) as caught:
        check_trainer({**TRAINER, option: value})

    assert caught.value.where == where
    assert str(value) in caught.value.what
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_wrong_option_of_the_optimizer_is_named():
    with pytest.raises(ConfigError) as caught:
        check_optimizer(partial(torch.optim.AdamW, lr=-1.0))

    assert caught.value.where == "optimizer"
    assert "-1.0" in caught.value.what
    assert "optimizer" in caught.value.remedy
