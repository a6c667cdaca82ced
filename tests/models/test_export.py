"""Every network leaves PyTorch: torch.export and ONNX Runtime give its logits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from network_options import CASES, IDS, SHAPES, accepted, marks_of, random_image, small_network

SLOW = pytest.mark.slow

# The converter takes half a minute to five for each.
LONG_TO_CONVERT = ("hrnet", "swin_unetr", "unetr", "vnet", "pspnet", "mednext")

TOLERANCE = 1e-3
"""Runtimes sum in another order, which fp32 shows in the sixth digit; more would be an error."""

# Which voxel of a block is largest may turn on the last digit, and unpooling then moves a value.
FEW_MAY_DIFFER = {"segnet": 0.001}


def planned_network(name, dims):
    """A small network with strides like a plan's.

    The papers' strides leave one or two voxels of these patches, which instance normalisation
    stretches to -1 and 1 however near they are: PyTorch itself then differs by 1 % of the logits
    between fp32 and fp64.
    """
    options = {"strides": [1, 2, 2]} if "strides" in accepted(name) else {}
    return small_network(name, dims, **options)


def require_parity(name, given, wanted):
    difference = np.abs(given - wanted)
    share = float((difference > TOLERANCE * max(1.0, float(wanted.std()))).mean())
    assert share <= FEW_MAY_DIFFER.get(name, 0.0), (name, difference.max())


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        pytest.param(
            name,
            dims,
            marks=() if (name, dims) == ("unet", 2) else marks_of(name, dims, usual=SLOW),
        )
        for name, dims in CASES
    ],
    ids=IDS,
)
def test_an_exported_program_gives_the_same(name, dims):
    network = planned_network(name, dims).eval()
    image = random_image(1, 1, *SHAPES[dims])

    program = torch.export.export(network, (image,))

    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), network(image))


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        pytest.param(
            name,
            dims,
            marks=pytest.mark.exhaustive
            if name.startswith(LONG_TO_CONVERT)
            else marks_of(name, dims, usual=SLOW),
        )
        for name, dims in CASES
    ],
    ids=IDS,
)
def test_onnx_gives_the_same_on_another_image(name, dims, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = planned_network(name, dims).eval()
    image = random_image(1, 1, *SHAPES[dims])
    other = torch.flip(image, (-1,)) + 0.5
    path = tmp_path / "network.onnx"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (image,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = session.run(None, {session.get_inputs()[0].name: other.numpy()})[0]

    with torch.no_grad():
        require_parity(name, given, network(other).numpy())
