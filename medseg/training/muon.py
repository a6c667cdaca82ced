"""Muon: gradient descent with momentum whose steps are orthogonalised, for convolution weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from medseg.core.errors import ConfigError

MIN_CHANNELS = 9
"""Weights with fewer channels on either side (first convolution, logits of few classes) hold too
few directions to be worth orthogonalising, and take AdamW's steps.
"""
MAX_EXTENT = 1024
"""Weights that are larger than this along both sides of their matrix (the classifier of VGG-16)
take AdamW's steps: the time of orthogonalising grows with the cube of the smaller side and would
exceed that of everything else.
"""
MAX_LINEAR_EXTENT = 256
"""The same for linear layers: a transformer of 384 to 768 features has a few dozen tokens in a
patch, and orthogonalising took four fifths of a step of UNETR.
"""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration X <- aX + b(XX')X + c(XX')^2 X (Jordan et al. 2024)."""
NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for weights that mix channels, AdamW for everything else.

    A convolution weight (out, in, *kernel) counts as a matrix (out, in * kernel); its Nesterov
    momentum is replaced by the nearest matrix with equal singular values, so that rare directions
    move as far as common ones. Biases, normalisation, weights with fewer than MIN_CHANNELS
    channels on a side, matrices above MAX_EXTENT and linear layers above MAX_LINEAR_EXTENT are
    updated by AdamW.

    Args:
        params: of the network.
        lr: length of a step as a root-mean-square share of a weight matrix's spectral norm.
        adam_lr: learning rate of the parameters that AdamW updates; the schedule scales both.
        momentum: of the orthogonalised part.
        weight_decay: decoupled, for both parts.

    Raises:
        ConfigError: a rate is negative, or momentum is not within 0 to 1.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Loshchilov and Hutter
        2019, ICLR.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 0.02,
        adam_lr: float = 0.002,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        for name, value in (("lr", lr), ("adam_lr", adam_lr), ("weight_decay", weight_decay)):
            if value < 0:
                raise ConfigError(f"optimizer.{name}", f"is {value}", "use 0 or more")
        if not 0 <= momentum < 1:
            raise ConfigError("optimizer.momentum", f"is {momentum}", "use 0 to below 1")
        given = list(params)
        matrices = [p for p in given if _is_matrix(p)]
        others = [p for p in given if not _is_matrix(p)]
        groups: list[dict[str, Any]] = []
        if matrices:
            groups.append({"params": matrices, "lr": lr, "orthogonal": True})
        if others:
            groups.append({"params": others, "lr": adam_lr, "orthogonal": False})
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters with a gradient; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (self._orthogonal if group["orthogonal"] else self._adamw)(group)
        return loss

    def _orthogonal(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            buffer = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            update = parameter.grad.lerp(buffer, group["momentum"])
            matrix = update.reshape(update.shape[0], -1).float()
            by_shape.setdefault((matrix.shape[0], matrix.shape[1]), []).append((parameter, matrix))
        for (rows, columns), members in by_shape.items():
            steps = orthogonalised(torch.stack([matrix for _, matrix in members]))
            scale = group["lr"] * max(1.0, rows / columns) ** 0.5
            for (parameter, _), step in zip(members, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.view(parameter.shape).to(parameter.dtype), alpha=-scale)

    def _adamw(self, group: dict[str, Any]) -> None:
        beta1, beta2, eps = 0.9, 0.999, 1e-8
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["mean"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros_like(parameter)
            state["step"] += 1
            count = float(state["step"])
            state["mean"].lerp_(parameter.grad, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            root = (state["square"] / (1 - beta2**count)).sqrt_().add_(eps)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.addcdiv_(state["mean"], root, value=-group["lr"] / (1 - beta1**count))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1, shape (N, rows, columns).

    The quintic iteration is done on the small Gram matrices, X = P X0 with G = XX': two large
    products instead of two per iteration, the same numbers but for rounding.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices
    norm = wide.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]
    wide = wide / norm
    gram = wide @ wide.mT  # (N, n, n) with n the smaller extent
    a, b, c = COEFFICIENTS
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product = identity.expand_as(gram)
    for n in range(NUM_ITERATIONS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        if n < NUM_ITERATIONS - 1:
            gram = factor @ gram @ factor
    result = product @ wide
    return result.mT if is_tall else result


def _is_matrix(parameter: Tensor) -> bool:
    if parameter.ndim < 2 or min(parameter.shape[:2]) < MIN_CHANNELS:
        return False
    rows = parameter.shape[0]
    limit = MAX_LINEAR_EXTENT if parameter.ndim == 2 else MAX_EXTENT
    return min(rows, parameter.numel() // rows) <= limit
