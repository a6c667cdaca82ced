import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from medseg.core.errors import MedsegError
from medseg.inference import memory
from medseg.inference.live_bytes import LiveBytes
from medseg.inference.memory import GIB, patch_bytes, plan_memory
from medseg.inference.tiling import tile
from medseg.models.unet import UNet


@pytest.fixture(autouse=True)
def _a_process_of_one_gib(monkeypatch):
    class Process:
        def memory_info(self):
            return type("Info", (), {"rss": GIB})

    monkeypatch.setattr(memory.psutil, "Process", Process)
    monkeypatch.setattr(memory.torch, "get_num_threads", lambda: 2)


def planned(budget_gib, *, length=600, patch=100 * 2**20):
    tiling = tile((300, 300, length), (96, 96, 96), overlap=0.5, stride=None)
    return plan_memory(
        tiling,
        channels=100,
        result_bytes=0.1 * GIB,
        patch_bytes=patch,
        batch=4,
        budget_gib=budget_gib,
        where="case",
    )


def test_a_slab_takes_the_same_memory_whatever_the_length_of_the_scan():
    short, long = planned(8, length=400), planned(8, length=4000)

    assert short.parts["slab of logits"] == long.parts["slab of logits"]
    # 97 planes of 300x300 voxels, 100 logits and a weight in single precision.
    assert short.parts["slab of logits"] == 97 * 300 * 300 * (100 * 4 + 4)


def test_less_memory_takes_fewer_patches_at_once_and_then_half_precision():
    uses = [planned(budget) for budget in (5.5, 5.1, 4.0)]

    assert [(use.dtype, use.batch) for use in uses] == [
        (torch.float32, 4),
        (torch.float32, 1),
        (torch.float16, 4),
    ]
    assert all(use.total <= budget * GIB for use, budget in zip(uses, (5.5, 5.1, 4.0), strict=True))


def test_a_budget_that_cannot_be_kept_is_refused_with_the_one_that_can():
    with pytest.raises(MedsegError) as caught:
        planned(2)

    assert caught.value.where == "case"
    assert "inference.memory_budget_gib allows 2" in caught.value.what
    wanted = float(caught.value.remedy.split("memory_budget_gib=")[1].split(",")[0])
    assert planned(wanted).total <= wanted * GIB


def test_without_a_budget_the_least_is_tried_even_if_less_is_free(monkeypatch, caplog):
    monkeypatch.setattr(memory, "free_memory", lambda: 0)

    use = planned(None)

    assert (use.dtype, use.batch) == (torch.float16, 1)
    assert "are free" in caplog.text


def test_the_memory_of_a_patch_is_found_without_computing_it():
    network = nn.Sequential(nn.Conv3d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 5, 1))

    found = patch_bytes([network], in_channels=2, out_channels=5, window=(64, 64, 64))

    voxels = 64**3
    live = 4 * voxels * 32  # the convolution's result and the activation's at one moment
    blending = 3 * 4 * 5 * voxels
    assert found == pytest.approx(live + blending, rel=0.1)


def test_networks_that_compute_no_shapes_alone_get_an_estimate():
    class Fixed(nn.Module):
        def forward(self, patches):
            return torch.from_numpy(patches.numpy())

    assert patch_bytes([Fixed()], in_channels=1, out_channels=2, window=(8, 8, 8)) > 0


def test_windows_go_along_the_axis_that_is_longest_in_windows():
    assert tile((90, 300, 200), (32, 64, 32), overlap=0.5, stride=None).axis == 2
    assert tile((500, 400, 20), (64, 64), overlap=0.5, stride=None).axis == 2

    tiling = tile((16, 40, 16), (16, 16, 16), overlap=0.5, stride=None)

    assert tiling.axis == 1
    assert tiling.slab_shape == (17, 16, 16)
    assert [start for start, _ in tiling.layers] == [0, 8, 16, 24]
    assert np.sum([len(layer) for _, layer in tiling.layers]) == len(tiling.starts)


def test_what_a_network_takes_is_the_same_without_content():
    network = UNet(1, 3, base_channels=4, strides=[1, 2, 2]).eval()
    with torch.no_grad(), LiveBytes() as computed:
        network(torch.zeros(1, 1, 16, 24, 8))

    network.to("meta")
    with torch.no_grad(), LiveBytes() as imagined:
        network(torch.empty(1, 1, 16, 24, 8, device="meta"))

    assert imagined.most == pytest.approx(computed.most, rel=0.01)


def test_nothing_is_compiled_to_find_out_what_a_network_takes():
    program = """
import sys
from medseg.inference.memory import patch_bytes
from medseg.models.unet import UNet
network = UNet(1, 3, base_channels=4, strides=[1, 2, 2])
assert patch_bytes([network], in_channels=1, out_channels=3, window=(16, 24, 8)) > 0
print("torch._dynamo" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.strip() == "False", done.stderr
