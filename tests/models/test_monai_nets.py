import pytest
import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.losses.deep_supervision import DeepSupervision
from medseg.models.build import build_model
from medseg.models.monai_nets import AttentionUNet, DynUNet, SegResNet, SwinUNETR

ANISOTROPIC = ((1, 1, 1), (2, 2, 1), (2, 2, 2))

NETWORKS = [
    (DynUNet, {"strides": (1, 2, 2), "base_channels": 4}, (8, 12, 16)),
    (DynUNet, {"strides": ANISOTROPIC, "base_channels": 4, "block": "residual"}, (8, 16, 6)),
    (DynUNet, {"spatial_dims": 2, "strides": (1, 2, 2), "base_channels": 4}, (16, 24)),
    (SegResNet, {"base_channels": 8, "blocks_per_stage": (1, 1, 1)}, (8, 12, 16)),
    (SegResNet, {"base_channels": 8, "spacing_mm": (1.0, 1.0, 4.0)}, (16, 24, 6)),
    (SegResNet, {"base_channels": 8, "spatial_dims": 2, "spacing_mm": (1, 1, 4)}, (16, 24)),
    (AttentionUNet, {"strides": (1, 2, 2), "base_channels": 4}, (8, 12, 16)),
    (AttentionUNet, {"strides": ANISOTROPIC, "base_channels": 4}, (8, 16, 6)),
    (AttentionUNet, {"spatial_dims": 2, "strides": (1, 2), "base_channels": 4}, (16, 24)),
    (SwinUNETR, {"feature_size": 12, "window_size": 2}, (32, 32, 64)),
    (SwinUNETR, {"spatial_dims": 2, "feature_size": 12}, (32, 64)),
]
IDS = [f"{kind.__name__} {len(shape)}D {n}" for n, (kind, _, shape) in enumerate(NETWORKS)]


@pytest.mark.parametrize(("kind", "options", "shape"), NETWORKS, ids=IDS)
def test_logits_have_the_shape_of_the_image(kind, options, shape):
    network = kind(2, 3, **options).eval()

    with torch.no_grad():
        logits = network(torch.randn(1, 2, *shape))

    assert logits.shape == (1, 3, *shape)


@pytest.mark.parametrize(("kind", "options", "shape"), NETWORKS, ids=IDS)
def test_every_parameter_learns_from_the_loss_at_every_resolution(kind, options, shape):
    network = kind(1, 2, **options).train()
    target = torch.randint(0, 2, (1, *shape))

    DeepSupervision(nn.CrossEntropyLoss())(network(torch.randn(1, 1, *shape)), target).backward()

    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not is_unused(name):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def is_unused(name: str) -> bool:
    """SegResNetDS makes a head for every resolution, also for those without deep supervision."""
    return ".head." in name


@pytest.mark.parametrize(("kind", "options", "shape"), NETWORKS, ids=IDS)
def test_the_stride_is_the_smallest_extent_that_fits(kind, options, shape):
    network = kind(1, 2, **options).eval()

    assert len(network.stride) == len(shape)
    assert all(extent % step == 0 for extent, step in zip(shape, network.stride, strict=True))


def test_the_stride_follows_the_strides_and_the_spacing():
    assert DynUNet(1, 2, strides=ANISOTROPIC, base_channels=4).stride == (4, 4, 2)
    assert AttentionUNet(1, 2, strides=ANISOTROPIC, base_channels=4).stride == (4, 4, 2)
    # Three halvings; 4 mm slices wait until the others have reached 4 mm, after two.
    assert SegResNet(1, 2, base_channels=8, spacing_mm=(1.0, 1.0, 4.0)).stride == (8, 8, 2)
    assert SwinUNETR(1, 2, spatial_dims=2, feature_size=12).stride == (32, 32)


@pytest.mark.parametrize("kind", [DynUNet, SegResNet])
def test_deep_supervision_gives_a_list_only_while_training(kind):
    network = kind(1, 2, base_channels=8, deep_supervision=2)
    image = torch.randn(1, 1, 16, 16, 16)

    training = network.train()(image)
    predicting = network.eval()(image)

    assert isinstance(training, list)
    assert len(training) == 2
    assert training[0].shape == (1, 2, 16, 16, 16)
    assert isinstance(predicting, Tensor)
    torch.testing.assert_close(predicting, training[0])


@pytest.mark.parametrize("kind", [DynUNet, SegResNet])
def test_without_deep_supervision_training_gives_one_tensor(kind):
    network = kind(1, 2, base_channels=8, deep_supervision=1).train()

    assert isinstance(network(torch.randn(1, 1, 16, 16, 16)), Tensor)


@pytest.mark.parametrize("name", ["dynunet", "segresnet", "swin_unetr", "attention_unet"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_they_are_built_by_name(name, spatial_dims):
    network = build_model(name, spatial_dims=spatial_dims, in_channels=1, out_channels=3)

    assert type(network).__module__ == "medseg.models.monai_nets"


@pytest.mark.parametrize(
    ("kind", "options", "where", "what"),
    [
        (DynUNet, {"strides": (1, 2)}, "model.strides", "names 2 stages"),
        (DynUNet, {"strides": (2, 2, 2)}, "model.strides", "must begin with 1"),
        (DynUNet, {"kernel_sizes": (3, 3)}, "model.kernel_sizes", "has 2 entries"),
        (AttentionUNet, {"strides": (1,)}, "model.strides", "names 1 stages"),
        (AttentionUNet, {"spatial_dims": 1}, "model.spatial_dims", "is 1"),
        (SegResNet, {"blocks_per_stage": (2,)}, "model.blocks_per_stage", "is [2]"),
        (SwinUNETR, {"feature_size": 16}, "model.feature_size", "is 16"),
        (SwinUNETR, {"spatial_dims": 4}, "model.spatial_dims", "is 4"),
    ],
)
def test_what_does_not_fit_is_named(kind, options, where, what):
    with pytest.raises(ConfigError) as caught:
        kind(1, 2, **options)

    assert caught.value.where == where
    assert what in caught.value.what
    assert caught.value.remedy
