"""Every network of conf/model that finds objects, in 2D and 3D."""

from __future__ import annotations

import pytest
import torch
from network_options import DETECTORS, accepted, every_detector, random_image, small_network
from object_images import agreement, class_maps, disc_images
from safetensors.torch import load, save

from medseg.core.errors import TrainingError
from medseg.models.detection.objects import Detector, Objects

ACCEPTANCE = {"mask_rcnn", "yolact", "mask2former", "panoptic_fpn"}

SHAPES = {2: (32, 48), 3: (16, 24, 16)}
SMALL = {"pyramid_channels": 8, "mask_layers": 1, "num_samples": 16, "max_proposals": 50,
         "num_queries": 6, "num_layers": 3, "strides": [1, 2, 2, 2]}  # fmt: skip


def small_detector(name, dims, **options):
    chosen = {**SMALL, "object_sizes": [[8.0] * dims], **options}
    arguments = accepted(name)
    return small_network(name, dims, **{key: chosen[key] for key in chosen if key in arguments})


def blocks(shape, *spans, classes):
    """Objects that are cubes, from (start, end) along every axis."""
    masks = torch.zeros(len(spans), *shape, dtype=torch.bool)
    for n, (start, end) in enumerate(spans):
        masks[(n, *(slice(start, end),) * len(shape))] = True
    return Objects.from_masks(masks, torch.tensor(classes, dtype=torch.long))


def semantic_of(shape, references):
    return class_maps(torch.zeros(len(references), 1, *shape), references)


def total_loss(network, image, references):
    semantic = semantic_of(tuple(image.shape[2:]), references)
    terms = network.losses(network(image), references, semantic)
    return sum(terms.values()), terms


def require_sound(found, shape, *, out_channels=3, max_objects=1000):
    """What the contract says of detections."""
    dims = len(shape)
    assert len(found) <= max_objects
    assert found.boxes.shape == (len(found), 2 * dims)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([*shape, *shape])).all()
    assert (found.scores >= 0).all()
    assert (found.scores <= 1).all()
    assert (found.scores.diff() <= 0).all()
    assert ((found.classes >= 1) & (found.classes < out_channels)).all()
    for n in range(len(found)):
        assert found.masks[n].any()
        assert int(found.mask(n, shape).sum()) == int(found.masks[n].sum())


def test_every_architecture_has_an_option():
    assert set(DETECTORS) >= ACCEPTANCE


@every_detector
def test_every_parameter_learns_and_objects_are_found(name, dims):
    shape, channels = SHAPES[dims], 2
    network = small_detector(name, dims, in_channels=channels).train()
    image = random_image(2, channels, *shape)
    references = [
        blocks(shape, (2, 9), (8, 15), classes=[1, 2]), blocks(shape, (3, 12), classes=[2])
    ]  # fmt: skip

    loss, terms = total_loss(network, image, references)
    loss.backward()

    assert isinstance(network, Detector)
    assert all(term.ndim == 0 for term in terms.values())
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    with torch.no_grad():
        outputs = network.eval()(image)
        found = network.detect(outputs, shape=shape, max_objects=7, min_score=0.0)
        logits = network.semantic_logits(outputs, shape=shape)
    assert len(found) == 2
    assert any(len(part) for part in found)
    for part in found:
        require_sound(part, shape, max_objects=7)
    if logits is not None:
        assert logits.shape == (2, 3, *shape)
        assert torch.isfinite(logits).all()


@every_detector
def test_odd_extents_and_a_single_voxel_per_feature_do(name, dims):
    for shape in {2: [(31, 45), (5, 3)], 3: [(13, 22, 9), (3, 5, 2)]}[dims]:
        network = small_detector(name, dims).train()
        image = random_image(1, 1, *shape)

        loss, _ = total_loss(network, image, [blocks(shape, (0, 2), classes=[1])])
        with torch.no_grad():
            outputs = network.eval()(image)
            found = network.detect(outputs, shape=shape, max_objects=20, min_score=0.0)[0]
            logits = network.semantic_logits(outputs, shape=shape)

        assert torch.isfinite(loss)
        require_sound(found, shape)
        assert logits is None or logits.shape == (1, 3, *shape)


@every_detector
def test_images_without_objects_full_of_them_and_of_one_voxel_each_can_be_learnt(name, dims):
    shape = SHAPES[dims]
    crowded = blocks(shape, *((n, n + 4) for n in range(12)), classes=[1, 2] * 6)
    whole = Objects.from_masks(torch.ones(1, *shape, dtype=torch.bool), torch.tensor([1]))
    dots = blocks(shape, (0, 1), (15, 16), classes=[1, 1])
    nothing = blocks(shape, classes=[])

    for references in ([nothing, nothing], [crowded, nothing], [whole, dots]):
        network = small_detector(name, dims).train()
        loss, _ = total_loss(network, random_image(2, 1, *shape), references)
        loss.backward()

        assert torch.isfinite(loss)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


@every_detector
def test_one_class_and_half_precision_do(name, dims):
    shape = SHAPES[dims]
    network = small_detector(name, dims, out_channels=2).train()
    image, references = random_image(1, 1, *shape), [blocks(shape, (2, 9), classes=[1])]

    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = total_loss(network, image, references)
        loss.backward()
        with torch.no_grad():
            found = network.eval().detect(
                network(image), shape=shape, max_objects=20, min_score=0.0
            )[0]

    assert torch.isfinite(loss)
    require_sound(found, shape, out_channels=2)


@every_detector
def test_a_file_of_weights_gives_the_same_objects(name, dims):
    first, second = small_detector(name, dims).eval(), small_detector(name, dims)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    shape = SHAPES[dims]
    image = random_image(1, 1, *shape)

    second.load_state_dict(load(save({k: v.clone() for k, v in first.state_dict().items()})))

    with torch.no_grad():
        wanted = first.detect(first(image), shape=shape, max_objects=20, min_score=0.0)[0]
        found = second.eval().detect(second(image), shape=shape, max_objects=20, min_score=0.0)[0]
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=0, atol=0)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(found.masks, wanted.masks, strict=True))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_thin_axis_is_left_alone_where_the_plan_says_so(name):
    strides = [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    network = small_detector(name, 3, strides=strides, object_sizes=[[16.0, 16.0, 3.0]])

    loss, _ = total_loss(network.train(), random_image(1, 1, 32, 32, 4), [
        blocks((32, 32, 4), (1, 4), classes=[1])
    ])  # fmt: skip

    assert torch.isfinite(loss)
    assert network.stride == (8, 8, 2)


def test_panoptic_fpn_wants_a_class_for_every_voxel():
    network = small_detector("panoptic_fpn", 2).train()
    shape = SHAPES[2]

    with pytest.raises(TrainingError) as caught:
        network.losses(network(random_image(1, 1, *shape)), [blocks(shape, (2, 9), classes=[1])])

    assert caught.value.where == "model=panoptic_fpn"
    assert "set task=panoptic" in caught.value.remedy


LONG = pytest.mark.exhaustive

# Enough steps in 2D and 3D and width for each to tell the discs of four images apart: 20 to 90 s on
# one core in 2D, four minutes in 3D.
LEARNING = {
    "mask_rcnn": ((80, 200), {"num_samples": 64, "mask_layers": 2}),
    "yolact": ((200,), {}),  # in 3D not found out yet
    "mask2former": ((300, 300), {"num_queries": 20, "num_layers": 3, "lr": 1e-3}),
    "panoptic_fpn": ((80, 200), {"num_samples": 64, "mask_layers": 2}),
}


LEARNT = [
    pytest.param(name, dims, marks=() if (name, dims) == ("mask_rcnn", 2) else LONG)
    for name in LEARNING
    for dims in (2, 3)[: len(LEARNING[name][0])]
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims"), LEARNT)
def test_the_objects_of_four_images_are_learnt(name, dims):
    shape = {2: (64, 64), 3: (24, 24, 24)}[dims]
    num_discs, radii = {2: (4, (5, 9)), 3: (2, (4, 6))}[dims]
    images, references = disc_images(4, shape, num_discs=num_discs, radii=radii, num_classes=2)
    semantic = class_maps(images, references)
    per_dims, options = LEARNING[name]
    steps = per_dims[dims - 2]
    rate = options.get("lr", 3e-3)
    options = {key: value for key, value in options.items() if key != "lr"}
    network = small_detector(
        name, dims, base_channels=8, pyramid_channels=32, max_proposals=200,
        object_sizes=[[10.0] * dims, [16.0] * dims], **options,
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)

    values = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps) ** 0.9
        loss = sum(network.losses(network(images), references, semantic).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        values.append(float(loss.detach()))
    with torch.no_grad():
        found = network.eval().detect(network(images), shape=shape, min_score=0.5)

    assert sum(values[-5:]) < 0.5 * sum(values[:5])
    shares = [agreement(*pair, shape) for pair in zip(found, references, strict=True)]
    assert min(shares) > 0.99, shares


def test_larger_images_have_more_queries_and_patches_as_many_as_asked_for():
    network = small_detector("mask2former", 2, patch_size=[32, 48]).eval()

    counts = [
        network(torch.zeros(1, 1, *shape))["classes"].shape[1]
        for shape in ((16, 16), (32, 48), (64, 48), (128, 192))
    ]

    assert SMALL["num_queries"] == 6  # three of them learnt
    assert counts == [6, 6, 3 + 2 * 3, 3 + 4 * 3]


def test_queries_that_began_where_nobody_annotated_teach_nothing():
    network = small_detector("mask2former", 2, num_queries=40).train()
    image = torch.randn(1, 1, *SHAPES[2])
    semantic = torch.zeros(1, *SHAPES[2], dtype=torch.long)
    semantic[:, SHAPES[2][0] // 2 :] = -1
    outputs = network(image)
    outputs["classes"].retain_grad()

    sum(network.losses(outputs, [Objects.none(SHAPES[2])], semantic).values()).backward()

    began = outputs["starts"][0, :, 0] >= SHAPES[2][0] // 2
    taught = outputs["classes"].grad[0, len(network.queries) :].abs().sum(1) > 0
    assert began.any()
    assert not began.all()
    assert torch.equal(taught, ~began)


@pytest.mark.parametrize("num_queries", [1, 2])
def test_a_single_query_is_enough_to_learn_and_to_detect(num_queries):
    network = small_detector("mask2former", 2, num_queries=num_queries)
    image = torch.randn(1, 1, *SHAPES[2])
    references = [blocks(SHAPES[2], (4, 12), classes=[1])]

    total, _ = total_loss(network.train(), image, references)
    total.backward()
    (found,) = network.eval().detect(network(image), shape=SHAPES[2], min_score=0.0)

    assert torch.isfinite(total)
    assert len(found) <= num_queries
