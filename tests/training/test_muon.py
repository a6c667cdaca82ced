import copy

import numpy as np
import pytest
import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.training.muon import COEFFICIENTS, Muon, orthogonalised


def plain_iteration(matrix: np.ndarray) -> np.ndarray:
    """The published iteration word for word, in float64."""
    x = matrix / np.linalg.norm(matrix)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize(("rows", "columns"), [(16, 432), (64, 64), (128, 27 * 64)])
def test_gram_iteration_equals_the_published_one(rows, columns):
    matrix = np.random.default_rng(0).normal(size=(rows, columns))

    result = orthogonalised(torch.from_numpy(matrix).float()[None])[0].numpy()

    assert np.abs(result - plain_iteration(matrix)).max() < 1e-4


def test_tall_matrices_are_treated_as_their_transpose():
    matrix = torch.randn(2, 200, 20, generator=torch.Generator().manual_seed(1))

    assert torch.allclose(orthogonalised(matrix), orthogonalised(matrix.mT).mT, atol=1e-6)


def test_singular_values_end_near_one_even_when_they_differ_a_hundredfold():
    rng = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(24, 24, generator=rng))
    v, _ = torch.linalg.qr(torch.randn(300, 24, generator=rng))
    matrix = u @ torch.diag(torch.logspace(-1, 1, 24)) @ v.T

    values = torch.linalg.svdvals(orthogonalised(matrix[None])[0])

    # The iteration's coefficients trade exactness for speed: values within 0.7 and 1.2.
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_a_zero_gradient_gives_a_finite_zero_step():
    assert torch.equal(orthogonalised(torch.zeros(1, 12, 40)), torch.zeros(1, 12, 40))


def test_weights_of_many_channels_are_orthogonalised_and_the_rest_is_not():
    model = nn.Sequential(nn.Conv3d(1, 16, 3), nn.GroupNorm(16, 16), nn.Conv3d(16, 16, 3))

    groups = Muon(model.parameters()).param_groups

    assert [p.shape for p in groups[0]["params"]] == [model[2].weight.shape]
    assert len(groups[1]["params"]) == 5


def test_matrices_that_would_take_longer_than_the_network_are_not_orthogonalised():
    kept = [nn.Conv2d(64, 1024, 3), nn.Linear(1024, 256)]
    left = [nn.Conv2d(256, 1025, 3), nn.Linear(1024, 257)]

    groups = Muon([layer.weight for layer in kept + left]).param_groups

    assert [p.shape for p in groups[0]["params"]] == [layer.weight.shape for layer in kept]
    assert [p.shape for p in groups[1]["params"]] == [layer.weight.shape for layer in left]


def test_the_part_without_matrices_equals_adamw():
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(7))
    theirs = nn.Parameter(ours.detach().clone())
    muon = Muon([ours], adam_lr=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)

    for n in range(5):
        for parameter, optimizer in ((ours, muon), (theirs, adamw)):
            parameter.grad = torch.arange(7.0) * (n - 2) + parameter.detach()
            optimizer.step()

    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_convolution_learns_a_known_filter():
    torch.manual_seed(0)
    wanted, found = nn.Conv2d(12, 12, 3), nn.Conv2d(12, 12, 3)
    optimizer = Muon(found.parameters(), lr=0.05)
    image = torch.randn(4, 12, 10, 10)
    first = (found(image) - wanted(image)).square().mean().item()

    for n in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - n / 200)
        loss = (found(image) - wanted(image)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert loss.item() < 0.01 * first


def test_a_resumed_optimizer_goes_on_as_if_it_had_not_stopped():
    def trained(num_steps, optimizer, weight):
        for n in range(num_steps):
            weight.grad = torch.sin(torch.arange(weight.numel()).float() * (n + 1)).view_as(weight)
            optimizer.step()

    weight = nn.Parameter(torch.ones(16, 16, 3))
    optimizer = Muon([weight])
    trained(3, optimizer, weight)
    again = nn.Parameter(weight.detach().clone())
    resumed = Muon([again])
    # Loading takes tensors as they are, so a copy stands for what a checkpoint holds.
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    trained(2, optimizer, weight)
    trained(2, resumed, again)

    assert torch.equal(weight, again)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"lr": -1.0}, "optimizer.lr"),
        ({"adam_lr": -1.0}, "optimizer.adam_lr"),
        ({"momentum": 1.0}, "optimizer.momentum"),
    ],
)
def test_impossible_numbers_are_refused(options, where):
    with pytest.raises(ConfigError) as caught:
        Muon([nn.Parameter(torch.zeros(1))], **options)

    assert caught.value.where == where
    assert caught.value.remedy
