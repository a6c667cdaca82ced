import pytest
import torch
from torch import nn

from medseg.models.unet import UNet
from medseg.models.weights import matches, start_from

WIDTHS = {"base_channels": 4, "strides": (1, 2, 2), "deep_supervision": 2}


def unet(in_channels: int, out_channels: int, *, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return UNet(in_channels, out_channels, **{**WIDTHS, **options})


def started(old: nn.Module, new: nn.Module, *, channels, outputs, **options):
    return start_from(
        new,
        old.state_dict(),
        make=lambda ins, outs: UNet(ins, outs, **{**WIDTHS, **options}),
        channels=channels,
        outputs=outputs,
    )


def test_an_equal_network_is_copied_whole():
    old, new = unet(2, 3, seed=1), unet(2, 3, seed=2)

    report = started(old, new, channels=[0, 1], outputs=[0, 1, 2])

    assert report.adapted == report.misfits == report.missing == report.unused == ()
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, old.state_dict()[name])


def test_heads_keep_the_rows_of_the_labels_that_both_have():
    old, new = unet(1, 3, seed=1), unet(1, 4, seed=2)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    outputs = matches(["background", "liver", "tumour"], ["background", "tumour", "cyst", "liver"])

    report = started(old, new, channels=[0], outputs=outputs)

    assert outputs == [0, 2, None, 1]
    heads = {f"heads.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")}
    assert set(report.adapted) == heads
    assert report.misfits == report.missing == report.unused == ()
    for name in heads:
        found, given = new.state_dict()[name], old.state_dict()[name]
        for row, source in enumerate(outputs):
            assert torch.equal(found[row], before[name][row] if source is None else given[source])


def test_labels_in_another_order_are_sorted_although_the_shapes_agree():
    old, new = unet(1, 3, seed=1), unet(1, 3, seed=2)

    report = started(old, new, channels=[0], outputs=[0, 2, 1])

    assert "heads.0.weight" in report.adapted
    found, given = new.state_dict()["heads.0.weight"], old.state_dict()["heads.0.weight"]
    assert torch.equal(found, given[[0, 2, 1]])


@pytest.mark.parametrize("block", ["plain", "residual"])
def test_a_new_channel_begins_with_the_mean_of_the_others(block):
    old, new = unet(2, 2, seed=1, block=block), unet(3, 2, seed=2, block=block)
    channels = matches(["T1", "FLAIR"], ["FLAIR", "T2", "T1"])

    report = started(old, new, channels=channels, outputs=[0, 1], block=block)

    assert report.adapted
    for name in report.adapted:
        found, given = new.state_dict()[name], old.state_dict()[name]
        assert torch.equal(found[:, 0], given[:, 1])
        assert torch.equal(found[:, 2], given[:, 0])
        torch.testing.assert_close(found[:, 1], given.mean(dim=1))


def test_tensors_of_another_shape_are_left_as_they_were_and_named():
    old, new = unet(1, 2, seed=1), unet(1, 2, seed=2, base_channels=8)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}

    report = started(old, new, channels=[0], outputs=[0, 1], base_channels=8)

    assert report.copied == ("heads.0.bias", "heads.1.bias")
    assert "encoder.1.0.conv.weight: 8x4x3x3x3 for 16x8x3x3x3" in report.misfits
    kept = {text.partition(":")[0] for text in report.misfits}
    assert kept | set(report.copied) == set(before)
    for name in kept:
        assert torch.equal(new.state_dict()[name], before[name])


def test_what_only_one_network_has_is_told():
    old, new = unet(1, 2, seed=1), unet(1, 2, seed=2, deep_supervision=1)

    report = started(old, new, channels=[0], outputs=[0, 1], deep_supervision=1)

    assert report.unused == ("heads.1.weight", "heads.1.bias")
    assert report.misfits == report.missing == ()
    assert "2 of the other network alone, left out: heads.1.weight, heads.1.bias" in str(report)


def test_the_random_start_does_not_depend_on_the_comparison():
    old, new = unet(1, 2, seed=1), unet(1, 3, seed=2)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)

    started(old, new, channels=[0], outputs=[0, 1, None])

    assert torch.equal(torch.rand(1), wanted)
