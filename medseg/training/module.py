"""Task and model as Lightning sees them; no science of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from medseg.core.errors import TrainingError
from medseg.data.loader import ShownCases
from medseg.inference.network_space import predict_image
from medseg.inference.sliding_window import SlidingWindow
from medseg.tasks.task import Task
from medseg.training.validation_time import ValidationTime


class TrainingModule(pl.LightningModule):
    """Trains one network on one task.

    Args:
        model: network, logits or a list of logits while training.
        task: gives loss and validation scores.
        optimizer: parameters to optimizer.
        schedule: progress in [0, 1] to a factor on the optimizer's learning rate.
        inference: sliding window for validation.
        patch_size: of the plan.
        total_steps: steps after which training ends.
        max_time_s: seconds after which it ends; None if steps alone count.
        always_validate: validate all cases after every epoch whatever it costs; else as
            `ValidationTime` allows.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        schedule: Callable[[float], float],
        inference: SlidingWindow,
        patch_size: tuple[int, ...],
        total_steps: int,
        max_time_s: float | None,
        always_validate: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.inference = inference
        self.patch_size = patch_size
        self.total_steps = total_steps
        self.max_time_s = max_time_s
        self.validation_time = ValidationTime(is_unlimited=always_validate)
        self.elapsed_s = 0.0
        self.scores: dict[str, float] = {}
        self.scored_cases = (0, 0)
        """Cases that the scores rest on, and those that such a look takes in if it has time."""
        self.best_score = 0.5
        self._last_tick = 0.0
        self._training_s_per_voxel = 0.0
        self._seed = 0
        self._skips_validation = False
        self._is_last_validation = False
        self._num_scored = 0
        self._counts: Tensor | None = None
        self.last_shown: tuple[dict[str, Any], Any] | None = None

    @property
    def progress(self) -> float:
        """Share of the training that is over, by steps or by time, whichever is further."""
        share = self.global_step / max(1, self.total_steps)
        if self.max_time_s:
            share = max(share, self.elapsed_s / self.max_time_s)
        return min(1.0, share)

    @property
    def elapsed_now_s(self) -> float:
        """Seconds of training, the running step included."""
        return self.elapsed_s + time.monotonic() - self._last_tick

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer_factory(self.parameters())

    def on_train_start(self) -> None:
        self._last_tick = time.monotonic()
        self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        now = time.monotonic()
        self.elapsed_s += now - self._last_tick
        self._last_tick = now
        # What dropout draws in a step depends on the seed and the step alone, as the batches do, so
        # that a resumed training goes on as if it had not stopped.
        where = [self._seed, self.global_rank, self.current_epoch, batch_idx]
        torch.manual_seed(int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0]))
        for group in self.trainer.optimizers[0].param_groups:
            base = group.setdefault("base_lr", group["lr"])
            group["lr"] = base * self.schedule(self.progress)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Finishes patches that were left to this device."""
        if "raw" not in batch:
            return batch
        image, target = batch["raw"].finish()
        others = {key: value for key, value in batch.items() if key != "raw"}
        return {**others, "image": image, "target": target}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.task.loss(self.model, batch)
        if not torch.isfinite(loss.detach()):
            raise TrainingError(
                f"step {self.global_step}",
                f"the loss is {float(loss.detach())} on the cases {', '.join(batch['keys'])}",
                "look at these cases with doctor, lower optimizer.lr, or set "
                "trainer.precision=32-true; resume=true goes on from the last checkpoint",
                code="E_LOSS_NOT_FINITE",
            )
        self.log("loss/train", loss.detach(), on_step=True, on_epoch=True, batch_size=1)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        seconds = time.monotonic() - self._last_tick
        self._training_s_per_voxel = seconds / batch["target"].numel()

    def on_validation_epoch_start(self) -> None:
        last_epoch = self.trainer.current_epoch + 1 >= (self.trainer.max_epochs or 0)
        self._is_last_validation = last_epoch or self.trainer.should_stop
        is_due = self._is_last_validation or self.validation_time.is_due(self.elapsed_now_s)
        self._skips_validation = not self._all_agree(is_due)
        self._take_all_cases(self._is_last_validation)
        self._counts, self._num_scored = None, 0
        self.validation_time.begin(
            elapsed_s=self.elapsed_now_s,
            progress=self.progress,
            training_s_per_voxel=self._training_s_per_voxel,
        )

    def _take_all_cases(self, takes_all: bool) -> None:
        """The last look takes in cases that are not shown before: the score that objects are best
        kept from, and what the training came to, should rest on as many as there is time for.
        """
        if self._sampler is not None:
            self._sampler.takes_all = takes_all

    def _num_to_score(self) -> int:
        count = int(sum(self.trainer.num_val_batches))
        if self._sampler is not None and not self._is_last_validation:
            return min(count, self._sampler.num_shown)
        return count

    @property
    def _sampler(self) -> ShownCases | None:
        """Of the validation cases, where it leaves some out."""
        sampler = getattr(self.trainer.val_dataloaders, "sampler", None)
        return sampler if isinstance(sampler, ShownCases) else None

    def _all_agree(self, decision: bool) -> bool:
        """The first process's decision: clocks differ, but all must validate a case or none."""
        return bool(self.trainer.strategy.broadcast(decision))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if self._skips_validation:
            return
        is_first = self._num_scored == 0
        must = self._is_last_validation and is_first
        num_voxels = batch["target"].numel()
        if not self._all_agree(must or self.validation_time.affords(num_voxels)):
            self._take_all_cases(False)  # nor would there be time for many others
            return
        start = time.monotonic()
        prediction = predict_image(
            self.task,
            self.model,
            batch["image"],
            inference=self.inference,
            patch_size=self.patch_size,
        )
        counts = self.task.counts(prediction, batch)
        self._counts = counts if self._counts is None else self._counts + counts
        self._num_scored += 1
        if is_first:
            self.last_shown = (batch, prediction)
        self.validation_time.add(time.monotonic() - start, num_voxels=num_voxels)

    def on_validation_epoch_end(self) -> None:
        if self._skips_validation or self._counts is None:
            return
        counts = self._counts
        if self.trainer.world_size > 1:
            counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        self.scores = self.task.scores(counts)
        self.best_score = self.task.best_score(counts)
        self.scored_cases = (self._num_scored, self._num_to_score())
        kind = self.task.score_name
        for name, value in self.scores.items():
            self.log(f"{kind}/{name}", value, sync_dist=False)
        known = [value for value in self.scores.values() if not math.isnan(value)]
        mean = sum(known) / len(known) if known else 0.0
        self.log(f"{kind}/mean", mean, prog_bar=True)
        self.log("score/mean", mean)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["medseg"] = {
            "elapsed_s": self.elapsed_s,
            "validation_s": self.validation_time.spent_s,
            "scores": self.scores,
            "scored_cases": self.scored_cases,
            "best_score": self.best_score,
            "optimizer": type(self.trainer.optimizers[0]).__name__,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint["medseg"]
        self.elapsed_s = stored["elapsed_s"]
        self.validation_time.spent_s = stored["validation_s"]
        self.scores = stored["scores"]
        self.scored_cases = tuple(stored.get("scored_cases", (0, 0)))  # not in older checkpoints
        self.best_score = float(stored.get("best_score", 0.5))  # nor this
        done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        if 0 < (self.trainer.max_epochs or 0) < done:
            raise TrainingError(
                "trainer.max_epochs",
                f"is {self.trainer.max_epochs}, but the training to go on with has done {done}",
                f"set trainer.max_epochs={done} or more, or name=<name> to start another training",
                code="E_CHECKPOINT_DIFFERS",
            )
        if self.trainer.strategy.restore_checkpoint_after_setup:
            return  # each process holds a part of the network by now
        found = {key: value.shape for key, value in checkpoint["state_dict"].items()}
        wanted = {key: value.shape for key, value in self.state_dict().items()}
        optimizer = type(self.configure_optimizers()).__name__
        if found != wanted or stored["optimizer"] != optimizer:
            raise TrainingError(
                "resume=true",
                "the checkpoint belongs to another "
                f"{'network or plan' if found != wanted else 'optimizer'}",
                "resume with the options and data of the run's config.yaml, or set name=<name> to "
                "start another training",
                code="E_CHECKPOINT_DIFFERS",
            )
