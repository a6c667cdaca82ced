from __future__ import annotations

import warnings

import brute_force
import numpy as np
import pytest
import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.models.detection.roi_align import roi_align

BY_TAPS, BY_PRODUCTS = 0, 10**9
CASES = [
    pytest.param(0, 15, BY_TAPS),
    pytest.param(0, 15, BY_PRODUCTS),
    pytest.param(15, 1000, BY_TAPS, marks=pytest.mark.slow),
    pytest.param(15, 1000, BY_PRODUCTS, marks=pytest.mark.exhaustive),
]


def random_case(seed, dims):
    """Boxes within, across and beyond the borders of small maps, of no extent as well."""
    rng = np.random.default_rng(seed)
    extents = rng.integers(1, 8, dims)
    stride = rng.choice([1, 2, 4], dims)
    features = rng.normal(size=(2, 2, *extents))
    boxes = []
    for _ in range(2):
        centres = rng.uniform(-0.3, 1.3, (int(rng.integers(0, 3)), dims)) * extents * stride
        sizes = rng.uniform(0, 1.2, centres.shape) * extents * stride
        sizes[rng.random(sizes.shape) < 0.1] = 0
        if rng.random() < 0.3:
            centres, sizes = centres.round(), 2 * sizes.round()
        boxes.append(np.concatenate([centres - sizes / 2, centres + sizes / 2], 1))
    output_size = tuple(int(n) for n in rng.integers(1, 4, dims))
    return features, boxes, output_size, tuple(int(n) for n in stride), int(rng.integers(1, 4))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("first", "last", "products_per_tap"), CASES)
def test_values_and_gradients_are_those_of_the_definition(
    dims, first, last, products_per_tap, monkeypatch
):
    monkeypatch.setattr("medseg.models.detection.roi_align.PRODUCTS_PER_TAP", products_per_tap)
    for seed in range(first, last):
        values, boxes, output_size, stride, ratio = random_case(seed, dims)
        features = torch.tensor(values, requires_grad=True)
        count = sum(map(len, boxes))
        gradient = np.random.default_rng(seed + 1).normal(size=(count, 2, *output_size))

        cells = roi_align(
            features,
            [torch.tensor(rows) for rows in boxes],
            output_size=output_size,
            stride=stride,
            sampling_ratio=ratio,
        )
        cells.backward(torch.tensor(gradient))

        wanted, back, n = np.zeros(cells.shape), np.zeros(values.shape), 0
        for image, rows in enumerate(boxes):
            for box in rows:
                wanted[n], part = brute_force.roi_align(
                    values[image], box, output_size, stride, ratio, gradient[n]
                )
                back[image] += part
                n += 1
        np.testing.assert_allclose(
            cells.detach().numpy(), wanted, rtol=0, atol=1e-12, err_msg=str(seed)
        )
        np.testing.assert_allclose(
            features.grad.numpy(), back, rtol=0, atol=1e-12, err_msg=str(seed)
        )


@pytest.mark.parametrize("dims", [2, 3])
def test_a_box_reads_the_voxels_that_it_covers(dims):
    features = torch.arange(4.0**dims).reshape(1, 1, *(4,) * dims)
    box = torch.tensor([[1.0] * dims + [3.0] * dims])

    cells = roi_align(features, [box], output_size=(2,) * dims, stride=(1,) * dims)

    # Two points per cell and axis lie a quarter of a voxel around the voxel's centre.
    inner = features[(0, 0, *(slice(1, 3),) * dims)]
    torch.testing.assert_close(cells[0, 0], inner)


def test_half_precision_is_read_at_the_right_places():
    features = torch.randn(1, 2, 200, 200, generator=torch.Generator().manual_seed(0))
    box = [torch.tensor([[100.3, 150.2, 131.7, 188.9]])]

    exact = roi_align(features, box, output_size=(7, 7), stride=(1, 1))
    rough = roi_align(features.bfloat16(), box, output_size=(7, 7), stride=(1, 1))

    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.03, rtol=0)


def test_no_points_at_all_are_refused():
    with pytest.raises(ConfigError, match="sampling_ratio"):
        roi_align(
            torch.zeros(1, 1, 4, 4), [torch.zeros(1, 4)], output_size=(2, 2), stride=(1, 1),
            sampling_ratio=0,
        )  # fmt: skip


class Heads(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, features, boxes):
        return roi_align(features, [boxes], output_size=(3,) * self.dims, stride=(2,) * self.dims)


def example(dims):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 3, *(8,) * dims, generator=generator)
    lower = torch.rand(5, dims, generator=generator) * 8
    return features, torch.cat([lower, lower + 1 + 6 * torch.rand(5, dims, generator=generator)], 1)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_a_compiled_program_gives_the_same(dims):
    heads, (features, boxes) = Heads(dims), example(dims)

    compiled = torch.compile(heads, fullgraph=True)(features, boxes)

    torch.testing.assert_close(compiled, heads(features, boxes))


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_onnx_runtime_gives_the_same_for_another_number_of_boxes(dims, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    heads, (features, boxes) = Heads(dims), example(dims)
    path = tmp_path / "roi_align.onnx"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            heads, (features, boxes), path, dynamo=True, external_data=False, verbose=False,
            opset_version=20, dynamic_shapes=({}, {0: torch.export.Dim("count", min=2, max=1000)}),
        )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fewer = boxes[:3]
    names = [entry.name for entry in session.get_inputs()]
    given = session.run(None, dict(zip(names, (features.numpy(), fewer.numpy()), strict=True)))[0]

    np.testing.assert_allclose(given, heads(features, fewer).numpy(), atol=1e-5)
