"""What memory a training step takes, found out by doing one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable

import torch
from torch import nn

from medseg.core.free_memory import free_memory
from medseg.inference.live_bytes import LiveBytes, OverLimit
from medseg.inference.precision import autocast
from medseg.models.layout import in_fast_layout
from medseg.tasks.task import Task


def step_bytes(
    network: nn.Module,
    task: Task,
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    in_channels: int,
    patch_size: tuple[int, ...],
    batch_size: int,
    device: str,
    precision: str,
    limit: int,
) -> int | None:
    """Most bytes that one training step holds at once; None if they are more than `limit` or than
    the device has.

    The step is a real one: forward, loss, backward and optimizer, with the optimizer's state and
    the moving average of the weights in place. On a GPU its allocator counts. On a CPU tensors are
    counted and the step is broken off at the limit, because what a CPU's memory does not hold ends
    the process; scratch memory of libraries is not seen there.

    Args:
        network: on CPU; it is of no use afterwards.
        task: gives the loss.
        optimizer: as for a training.
        in_channels, patch_size, batch_size: of the batch.
        device, precision: as for a training.
        limit: bytes.
    """
    is_cuda = device.startswith("cuda")
    before = 0
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    most: int | None = None
    try:
        with torch.random.fork_rng(devices=[]), LiveBytes(limit=None if is_cuda else limit) as live:
            network = in_fast_layout(network.to(device).train(), device)
            live.hold([*network.parameters(), *network.buffers()])
            _step(
                network,
                task,
                optimizer=optimizer,
                shape=(batch_size, in_channels, *patch_size),
                device=device,
                precision=precision,
            )
        most = torch.cuda.max_memory_allocated(device) - before if is_cuda else live.most
    except (OverLimit, torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # what a CPU's allocator says
            raise
    if is_cuda:
        network.to("meta")  # whoever made it may hold it still
        gc.collect()  # the error held the step's tensors until here
        torch.cuda.empty_cache()
    return most if most is not None and most <= limit else None


def free_bytes(device: str) -> int:
    """Memory that nobody uses: of the GPU, or of the machine within a container's limit."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def _step(
    network: nn.Module,
    task: Task,
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    shape: tuple[int, ...],
    device: str,
    precision: str,
) -> None:
    average = [weights.detach().clone() for weights in network.parameters()]
    stepper = optimizer(network.parameters())
    # A first step of the optimizer alone makes its state, which all later steps find in place.
    for weights in network.parameters():
        weights.grad = torch.zeros_like(weights)
    stepper.step()
    stepper.zero_grad()
    batch = task.trial_batch(torch.randn(shape, device=device))
    with autocast(device, precision):
        loss = task.loss(network, batch)
    loss.backward()
    stepper.step()
    del average
