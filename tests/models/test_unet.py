import pytest
import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import norm_layer
from medseg.models.build import build_model
from medseg.models.unet import UNet

SMALL = {"base_channels": 4, "max_channels": 16}


def total(outputs: list[Tensor] | Tensor) -> Tensor:
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return torch.stack([output.square().mean() for output in outputs]).sum()


@pytest.mark.parametrize("block", ["plain", "residual"])
@pytest.mark.parametrize(
    ("dims", "strides", "size"),
    [
        (3, (1, 2, 2), (8, 12, 16)),
        (2, (1, 2, 2, 2), (16, 24)),
        (3, ((1, 1, 1), (2, 2, 1), (2, 2, 2)), (8, 16, 6)),
        (3, ((1, 1, 1), (1, 2, 2)), (1, 4, 4)),
    ],
)
def test_logits_have_the_shape_of_the_image(block, dims, strides, size):
    network = UNet(3, 5, spatial_dims=dims, strides=strides, block=block, **SMALL).eval()

    logits = network(torch.randn(2, 3, *size))

    assert logits.shape == (2, 5, *size)


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "gelu", "silu"])
def test_every_norm_and_activation_learns(norm, activation):
    network = UNet(1, 2, strides=(1, 2), norm=norm, activation=activation, **SMALL)

    total(network(torch.randn(2, 1, 8, 8, 8))).backward()

    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_deep_supervision_gives_a_list_only_while_training():
    network = UNet(1, 3, strides=(1, 2, 2, (2, 1, 2)), deep_supervision=3, **SMALL)
    image = torch.randn(1, 1, 16, 16, 16)

    training = network(image)
    network.eval()
    predicting = network(image)

    assert [tuple(output.shape[2:]) for output in training] == [
        (16, 16, 16),
        (8, 8, 8),
        (4, 4, 4),
    ]
    assert predicting.shape == (1, 3, 16, 16, 16)
    torch.testing.assert_close(predicting, training[0])


def test_without_deep_supervision_training_gives_one_tensor():
    network = UNet(1, 2, strides=(1, 2), deep_supervision=1, **SMALL)

    assert network(torch.randn(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)


def test_every_parameter_is_used_in_training():
    network = UNet(2, 3, spatial_dims=2, strides=(1, 2, 2), deep_supervision=5, **SMALL)

    total(network(torch.randn(2, 2, 16, 16))).backward()

    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_stride_is_the_product_of_the_strides():
    assert UNet(1, 2, strides=(1, (2, 2, 1), (2, 2, 2)), **SMALL).stride == (4, 4, 2)


def test_channels_double_up_to_their_maximum():
    network = UNet(1, 2, base_channels=6, max_channels=20, strides=(1, 2, 2, 2))

    widths = [stage[-1].conv.out_channels for stage in network.encoder]

    assert widths == [6, 12, 20, 20]


def test_the_class_of_a_voxel_depends_on_its_neighbours_alone():
    # Without normalisation the far corner must not see a change in this one: 2 stages, 8
    # convolutions of width 3 reach 4 * 1 + 2 * 2 * 2 = 12 voxels and a bit, and the patch has 40.
    torch.manual_seed(0)
    network = UNet(1, 2, spatial_dims=2, strides=(1, 2), norm="none", **SMALL).eval()
    image = torch.randn(1, 1, 40, 40)
    changed = image.clone()
    changed[..., 0, 0] += 10

    difference = (network(image) - network(changed)).abs().amax((0, 1))

    assert difference[0, 0] > 0
    assert (difference[20:, 20:] == 0).all()


@pytest.mark.parametrize(
    ("options", "where", "what"),
    [
        ({"strides": (1,)}, "model.strides", "fewer than two"),
        ({"strides": (2, 2)}, "model.strides", "must begin with 1"),
        ({"strides": (1, (2, 2))}, "model.strides", "has 2 axes"),
        ({"kernel_sizes": (3, 3, 3)}, "model.kernel_sizes", "has 3 entries for 4 stages"),
        ({"kernel_sizes": (3, 3, 4, 3)}, "model.kernel_sizes", "is"),
        ({"norm": "layer"}, "model.norm", "'layer'"),
        ({"activation": "tanh"}, "model.activation", "'tanh'"),
        ({"spatial_dims": 4}, "model.spatial_dims", "is 4"),
    ],
)
def test_what_does_not_fit_is_named(options, where, what):
    with pytest.raises(ConfigError) as caught:
        UNet(1, 2, **{**SMALL, **options})

    assert caught.value.where == where
    assert what in caught.value.what


def test_networks_are_built_by_name():
    network = build_model(
        "unet",
        spatial_dims=2,
        in_channels=2,
        out_channels=4,
        base_channels=4,
        strides=[1, 2],
    )

    assert isinstance(network, UNet)
    assert network.eval()(torch.zeros(1, 2, 8, 8)).shape == (1, 4, 8, 8)


def test_the_residual_network_is_built_by_name():
    network = build_model("unet_residual", spatial_dims=3, in_channels=1, out_channels=2)

    assert any(type(module).__name__ == "ResidualBlock" for module in network.modules())


def test_an_unknown_network_gives_the_names_there_are():
    with pytest.raises(ConfigError) as caught:
        build_model("unett", spatial_dims=3, in_channels=1, out_channels=2)

    assert caught.value.where == "model=unett"
    assert "unet, unet_residual" in caught.value.remedy


def test_instance_normalisation_has_the_values_of_pytorchs_own():
    image = torch.randn(2, 6, 5, 4, 3, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(norm_layer("instance", 3, 6)(image), nn.InstanceNorm3d(6)(image))
