"""Every network of conf/model, in 2D and 3D, does what planning, training and prediction need."""

from __future__ import annotations

import pytest
import torch
from network_options import (
    NETWORKS,
    SHAPES,
    accepted,
    as_list,
    every_network,
    random_image,
    small_network,
)
from safetensors.torch import load, save
from torch import nn

from medseg.core.errors import ConfigError
from medseg.inference.sliding_window import SlidingWindow
from medseg.losses.deep_supervision import DeepSupervision

ACCEPTANCE = {
    "fcn_32s", "fcn_16s", "fcn_8s", "fcn_resnet50", "unet", "unet_residual", "attention_unet",
    "segnet", "deeplab_v1", "deeplab_v2", "deeplab_v3", "deeplab_v3plus", "pspnet", "hrnet_w18",
    "hrnet_w32", "hrnet_w48", "segresnet", "swin_unetr", "unetr", "mednext", "vnet", "dynunet",
}  # fmt: skip

# MONAI makes a head for every resolution, also for those without deep supervision.
UNUSED = (".head.",)


def test_every_architecture_has_an_option():
    assert set(NETWORKS) >= ACCEPTANCE


@every_network
def test_every_parameter_learns_with_four_channels_and_twenty_classes(name, dims):
    shape, channels, classes = SHAPES[dims], 4, 20
    network = small_network(name, dims, in_channels=channels, out_channels=classes).train()
    target = torch.randint(0, classes, (2, *shape), generator=torch.Generator().manual_seed(2))

    logits = network(random_image(2, channels, *shape))
    DeepSupervision(nn.CrossEntropyLoss())(logits, target).backward()

    assert as_list(logits)[0].shape == (2, classes, *shape)
    for key, parameter in network.named_parameters():
        if not any(part in key for part in UNUSED):
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key


@every_network
def test_a_few_steps_lower_the_loss_with_one_channel_two_classes_and_one_patch(name, dims):
    shape = SHAPES[dims]
    options = {"strides": [1, 2, 2]} if "strides" in accepted(name) else {}
    network = small_network(name, dims, out_channels=2, **options).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0
    image = random_image(1, 1, *shape)
    target = torch.zeros((1, *shape), dtype=torch.long)
    target[:, : shape[0] // 2] = 1  # a half: coarse networks can learn it as well
    image[0, 0] += target[0]
    loss = DeepSupervision(nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)

    values = []
    for _ in range(10):
        value = loss(network(image), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))

    assert min(values[5:]) < 0.8 * values[0], values


@every_network
def test_several_outputs_come_only_while_training_and_the_first_is_the_answer(name, dims):
    network = small_network(name, dims).eval()
    image = random_image(1, 1, *SHAPES[dims])

    with torch.no_grad():
        predicted = network(image)
        network.train()
        for module in network.modules():
            if type(module).__name__.startswith(("Dropout", "BatchNorm")):
                module.eval()
        trained = as_list(network(image))

    assert isinstance(predicted, torch.Tensor)
    torch.testing.assert_close(trained[0], predicted)


@every_network
def test_odd_extents_give_logits_of_that_shape_or_a_clear_error(name, dims):
    shape = {2: (31, 45), 3: (15, 31, 13)}[dims]
    network = small_network(name, dims).eval()
    image = random_image(1, 1, *shape)

    if any(n % step for n, step in zip(shape, network.min_size, strict=True)):
        wanted = [-(-n // step) * step for n, step in zip(shape, network.stride, strict=True)]
        with pytest.raises(ConfigError) as caught:
            network(image)
        assert caught.value.where == "plan.patch_size"
        assert "the network's" in caught.value.what
        assert caught.value.remedy == f"set plan.patch_size=[{','.join(map(str, wanted))}]"
        return
    with torch.no_grad():
        logits = network(image)

    assert logits.shape == (1, 3, *shape)
    assert torch.isfinite(logits).all()


@every_network
def test_the_stride_and_the_least_extents_are_stated_and_hold(name, dims):
    network = small_network(name, dims)
    least = [-(-n // step) * step for n, step in zip(network.min_size, network.stride, strict=True)]

    logits = as_list(small_network(name, dims, shape=least).train()(random_image(1, 1, *least)))

    assert len(network.stride) == len(network.min_size) == dims
    assert all(isinstance(n, int) and n >= 1 for n in (*network.stride, *network.min_size))
    assert logits[0].shape == (1, 3, *least)
    assert all(torch.isfinite(part).all() for part in logits)


@every_network
def test_one_patch_is_batch_enough_with_any_normalisation(name, dims):
    shape = SHAPES[dims]

    for norm in ("batch", "instance", "group", "none"):
        logits = small_network(name, dims, norm=norm).train()(random_image(1, 1, *shape))

        assert all(torch.isfinite(part).all() for part in as_list(logits)), norm


@every_network
def test_bf16_gives_nearly_the_same_and_can_be_trained(name, dims):
    options = {"strides": [1, 2, 2]} if "strides" in accepted(name) else {}
    network = small_network(name, dims, **options).eval()
    image = random_image(1, 1, *SHAPES[dims])

    with torch.no_grad():
        exact = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(image)
    rough.float().square().mean().backward()

    # bf16 has 8 bits of mantissa, and dozens of layers of random weights make more of it: maxima
    # may even be found elsewhere.
    both = torch.stack([exact.flatten(), rough.detach().float().flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@every_network
def test_a_file_of_weights_gives_the_same_network(name, dims):
    first = small_network(name, dims).eval()
    second = small_network(name, dims)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    image = random_image(1, 1, *SHAPES[dims])

    second.load_state_dict(load(save({k: v.clone() for k, v in first.state_dict().items()})))

    with torch.no_grad():
        torch.testing.assert_close(second.eval()(image), first(image), rtol=0, atol=0)


@every_network
def test_an_image_is_covered_with_windows(name, dims):
    patch = SHAPES[dims]
    network = small_network(name, dims).eval()
    extents = (*patch, 2) if dims == 2 else tuple(n + 5 for n in patch)

    with torch.no_grad():
        logits = SlidingWindow(overlap=0.25).logits(
            network, random_image(1, *extents), patch_size=patch, out_channels=3
        )

    assert logits.shape == (3, *extents)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_thin_axis_is_left_alone_where_the_plan_says_so(name):
    patch = (32, 32, 4)
    strides = [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    options = {"strides": strides} if "strides" in accepted(name) else {}
    network = small_network(name, 3, shape=patch, **options).train()

    logits = as_list(network(random_image(1, 1, *patch)))

    assert logits[0].shape == (1, 3, *patch)
    if options:
        assert network.stride[2] <= 2


@pytest.mark.parametrize("name", NETWORKS)
def test_norm_activation_and_initialisation_are_options_of_the_same_names(name):
    network = small_network(name, 2, norm="group", activation="silu", initialisation="xavier")
    kinds = {type(module) for module in network.modules()}

    assert {nn.SiLU, nn.GroupNorm} <= kinds
    assert not kinds & {nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.BatchNorm2d}
