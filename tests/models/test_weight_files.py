"""Weights from elsewhere: torchvision's, other shapes, 2D in 3D."""

from __future__ import annotations

import pytest
import torch
from network_options import random_image, small_network
from safetensors.torch import save_file
from torch import nn
from torchvision_networks import TorchvisionNetwork

from medseg.core.errors import InputError
from medseg.models.build import build_model
from medseg.models.weight_files import load_weights, read_weights

NAMES = {"fcn": "fcn_resnet50", "deeplabv3": "deeplab_v3"}


def reference(kind, depth):
    torch.manual_seed(0)
    network = TorchvisionNetwork(kind, depth)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(
    ("kind", "depth"),
    [
        ("fcn", 50),
        ("deeplabv3", 50),
        pytest.param("fcn", 101, marks=pytest.mark.slow),
        pytest.param("deeplabv3", 101, marks=pytest.mark.slow),
    ],
)
def test_torchvisions_weights_give_torchvisions_outputs(kind, depth):
    theirs = reference(kind, depth)
    ours = build_model(
        NAMES[kind], spatial_dims=2, in_channels=3, out_channels=21, norm="batch", depth=depth
    )
    image = random_image(1, 3, 57, 73)

    report = load_weights(ours, theirs.state_dict())

    assert report.missing == report.unused == report.misfits == report.adapted == ()
    assert len(report.copied) == len(theirs.state_dict())
    with torch.no_grad():
        wanted = theirs(image)
        predicted = ours.eval()(image)
        ours.train()
        for module in ours.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Dropout):
                module.eval()
        both = ours(image)
    for given, expected in ((predicted, wanted[0]), (both[0], wanted[0]), (both[1], wanted[1])):
        # Random weights make logits of any size: compare relative to the largest.
        assert (given - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))


def test_grey_images_and_other_classes_take_what_fits_and_the_report_says_so():
    theirs = reference("fcn", 50).state_dict()
    ours = build_model("fcn_resnet50", spatial_dims=2, in_channels=1, out_channels=3, norm="batch")
    before = ours.head[4].weight.clone()

    report = load_weights(ours, theirs)

    assert report.adapted == ("encoder.conv.weight",)
    torch.testing.assert_close(
        ours.encoder.conv.weight[:, 0], theirs["backbone.conv1.weight"].sum(1)
    )
    assert report.misfits[0] == "head.4.weight: 21x512x1x1 for 3x512x1x1"
    assert {text.partition(":")[0] for text in report.misfits} == {
        "head.4.weight", "head.4.bias", "auxiliary.4.weight", "auxiliary.4.bias",
    }  # fmt: skip
    torch.testing.assert_close(ours.head[4].weight, before)
    assert "4 of another shape, so the network keeps its own: head.4.weight" in str(report)


def test_inflated_kernels_give_for_equal_slices_what_the_slice_gave():
    options = {"norm": "none", "deep_supervision": 1, "depth": 18}
    flat = small_network("fcn_resnet50", 2, strides=[1, 2, 2, 2], **options).eval()
    # Strides along the slices stay 1, and the borders of the volume are far from its middle.
    strides = [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1]]
    deep = small_network("fcn_resnet50", 3, strides=strides, **options).eval()
    image = random_image(1, 1, 16, 16)

    report = load_weights(deep, flat.state_dict(), inflate=True)

    # The first 3D kernel is 7x7x3, all others have the 2D kernels' width along the slices.
    assert "encoder.conv.weight" in report.adapted
    assert report.misfits == report.missing == report.unused == ()
    with torch.no_grad():
        wanted = flat(image)
        volume = image[..., None].expand(-1, -1, -1, -1, 81)
        got = deep(volume)[..., 40]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_without_being_asked_2d_kernels_stay_out_of_a_3d_network():
    flat, deep = small_network("segnet", 2), small_network("segnet", 3)

    report = load_weights(deep, flat.state_dict())

    assert len(report.misfits) == 26  # the convolutions; normalisation has no axes
    assert "encoder.0.0.conv.weight: 8x1x3x3 for 8x1x3x3x3" in report.misfits


def test_weights_of_another_network_are_refused():
    with pytest.raises(InputError) as caught:
        load_weights(small_network("segnet", 2), small_network("swin_unetr", 2).state_dict())

    assert caught.value.where == "weights"
    assert "not one of them fits" in caught.value.what
    assert "choose the network" in caught.value.remedy


def test_files_of_weights_are_read_whatever_their_format(tmp_path):
    state = {key: value.clone() for key, value in small_network("unet", 2).state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pth")

    for name in ("a.safetensors", "a.pth", "b.pth"):
        found = read_weights(tmp_path / name)

        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_files_that_are_no_weights_are_refused_and_run_no_code(tmp_path, capsys):
    torch.save(Evil(), tmp_path / "evil.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 20)

    for name, what in (
        ("evil.pth", "is no plain file of weights"),
        ("other.pth", "holds other things than weights"),
        ("broken.safetensors", "cannot be read"),
        ("absent.pth", "cannot be read"),
    ):
        with pytest.raises(InputError) as caught:
            read_weights(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
        assert what in caught.value.what
        assert caught.value.remedy
    assert "code ran" not in capsys.readouterr().out
