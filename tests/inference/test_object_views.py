"""Objects as several networks, or one with mirrored images, see them together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from learning_cases import small_plan
from object_networks import BrightObjects

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError, MedsegError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.volume import Volume
from medseg.inference.bundle_predictor import predictor_of
from medseg.inference.ensemble import BundleGroup
from medseg.inference.object_merge import FoundObject, flipped, merge_views, without_overlaps
from medseg.inference.object_predictor import ObjectPredictor
from medseg.inference.object_windows import ObjectWindows
from medseg.inference.sliding_window import SlidingWindow, mirror_combinations

LABELS = LabelSet.from_mapping({"background": 0, "lesion": {"id": 1, "thing": True}})
AS_IT_IS = {"kind": "clip_zscore", "low": 0.0, "high": 10.0, "mean": 0.0, "std": 1.0}
BOXES = ((2, 3, 4), (20, 9, 14)), ((9, 8, 9), (27, 15, 20))
"""First voxels of two bright boxes, and their ends."""


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "object_networks")


def volume(values=(6.0, 8.0)) -> Volume:
    array = np.zeros((1, 36, 20, 28), np.float32)
    for value, corner, end in zip(values, *BOXES, strict=True):
        array[(0, *(slice(a, b) for a, b in zip(corner, end, strict=True)))] = value
    return Volume(array, Geometry.from_spacing((36, 20, 28), spacing_mm=(1.0, 1.0, 1.0)))


def bundle(
    folder: Path,
    *,
    network="object_networks.BrightObjects",
    level=1.0,
    task="instances",
    best_score=0.5,
    labels=LABELS,
    **plan,
):
    dims = plan.get("spatial_dims", 3)
    options = {"in_channels": 1, "spatial_dims": dims, "level": level}
    entries = {
        "spatial_dims": dims, "spacing_mm": (1.0, 1.0, 1.0), "patch_size": (16,) * dims,
        "strides": ((1,) * dims, (2,) * dims), "kernel_sizes": ((3,) * dims,) * 2,
        "normalisation": (AS_IT_IS,), **plan,
    }  # fmt: skip
    return ModelBundle.write(
        folder,
        weights={"fold_0": BrightObjects(1, 2, spatial_dims=dims).state_dict()},
        plan=small_plan(**entries),
        labels=labels,
        config={},
        card={
            "name": "bright",
            "task": task,
            "best_score": best_score,
            "mirror_axes": "RAS",
            "network": {"class": network, "options": options},
        },
    )


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_an_object_is_flipped_with_its_image(axes):
    rng = np.random.default_rng(0)
    probabilities = rng.random((7, 6, 5), dtype=np.float32)
    found = FoundObject((3, 1, 2), probabilities[1:-1, 1:-1, 1:-1] >= 0.5, 1, 0.9, probabilities)
    image = np.zeros((12, 9, 8), np.float32)
    image[2:9, 0:6, 1:6] = probabilities

    moved = flipped(found, axes, image.shape)

    around = tuple(slice(part.start - 1, part.stop + 1) for part in moved.region)
    assert np.array_equal(np.flip(image, axes)[around], moved.probabilities)
    assert np.array_equal(moved.probabilities[1:-1, 1:-1, 1:-1] >= 0.5, moved.mask)
    back = flipped(moved, axes, image.shape)
    assert back.start == found.start
    assert np.array_equal(back.mask, found.mask)


def test_an_object_that_not_all_views_have_is_doubted():
    square = np.ones((6, 6), np.bool_)
    first = [FoundObject((4, 4), square, 1, 0.9), FoundObject((20, 4), square, 1, 0.6)]
    second = [FoundObject((4, 4), square, 1, 0.7)]

    found = merge_views([first, second], (32, 16))

    assert [(one.start, pytest.approx(one.score)) for one in found] == [
        ((4, 4), 0.8),
        ((20, 4), 0.3),
    ]


@pytest.mark.parametrize("dims", [2, 3])
def test_mirrored_images_show_the_same_objects(dims):
    image = torch.from_numpy(volume().array)
    network = BrightObjects(1, 2, spatial_dims=dims)
    find = {"patch_size": (16,) * dims, "class_ids": [1], "num_classes": 2}

    plain, logits = ObjectWindows().find(network, image, **find)
    num_windows = len(network.windows)
    views, mean = ObjectWindows().find(
        network, image, **find, mirrors=mirror_combinations(tuple(range(dims)))
    )

    assert len(network.windows) == num_windows * (1 + 2**dims)
    assert len(plain) == 2
    for one, other in zip(plain, views, strict=True):
        assert one.start == other.start
        assert np.array_equal(one.mask, other.mask)
        assert one.score == pytest.approx(other.score)
    assert torch.allclose(logits, mean, atol=1e-5)


class SeesTheFirstHalf(BrightObjects):
    """Finds objects in the first half of an image alone."""

    def detect(self, outputs, *, shape, max_objects=1000, min_score=0.05):
        (found,) = super().detect(
            outputs, shape=shape, max_objects=max_objects, min_score=min_score
        )
        return [found.select((found.boxes[:, 0] < shape[0] / 2).nonzero()[:, 0])]


def test_what_one_of_two_mirrored_images_shows_has_half_the_score():
    image = torch.from_numpy(volume().array)
    windows = ObjectWindows(window_growth=100.0, min_score=0.0)

    found, _ = windows.find(
        SeesTheFirstHalf(1, 2, spatial_dims=3), image, patch_size=(16,) * 3, class_ids=[1],
        mirrors=[(), (0,)],
    )  # fmt: skip

    assert sorted(round(one.score, 3) for one in found) == [0.3, 0.4]


def test_bundles_together_give_the_mean_score(tmp_path):
    # The second one takes the dimmer box for background.
    group = BundleGroup((bundle(tmp_path / "a"), bundle(tmp_path / "b", level=7.0)))

    sure = ObjectPredictor(group, device="cpu").predict_volume(volume())
    unsure = ObjectPredictor(
        group, objects=ObjectWindows(min_score=0.2), device="cpu"
    ).predict_volume(volume())

    assert sure.scores.tolist() == pytest.approx([0.8])
    assert unsure.scores.tolist() == pytest.approx([0.8, 0.3])
    for n, (low, high) in ((1, (20, 27)), (2, (2, 9))):
        box, mask = unsure.mask(n)
        assert (box[0].start, box[0].stop) == (low, high)
        assert mask.all()


def test_what_one_bundle_doubts_others_may_be_sure_of(tmp_path):
    # 0.8 and 0.6 as they are; as odds against a best score of 0.9, 0.31 and 0.14.
    bundles = (bundle(tmp_path / "a"), bundle(tmp_path / "b", best_score=0.9))

    found = ObjectPredictor(BundleGroup(bundles), device="cpu").predict_volume(volume((9.0, 8.0)))

    odds = [(0.9, 0.5), (0.8, 4 / 13)]
    assert found.scores.tolist() == pytest.approx([sum(pair) / 2 for pair in odds], abs=1e-5)


def test_bundles_with_plans_of_their_own_agree_on_the_grid_of_the_scan(tmp_path):
    bundles = (
        bundle(tmp_path / "a"),
        bundle(tmp_path / "b", spacing_mm=(2.0, 1.0, 1.0)),
    )

    found = ObjectPredictor(BundleGroup(bundles), device="cpu").predict_volume(volume())

    assert len(found) == 2
    assert np.array_equal(found.geometry.affine, volume().geometry.affine)
    for n, (corner, end) in enumerate(zip(BOXES[0][::-1], BOXES[1][::-1], strict=True), start=1):
        box, mask = found.mask(n)
        whole = np.prod(np.subtract(end, corner))
        assert abs(int(mask.sum()) - whole) <= 0.1 * whole
        assert all(
            abs(part.start - a) <= 1 and abs(part.stop - b) <= 1
            for part, a, b in zip(box, corner, end, strict=True)
        )


@pytest.mark.parametrize("keeps_overlaps", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_outlines_between_voxels_share_none_on_the_grid_of_the_scan(
    tmp_path, keeps_overlaps, count
):
    coarse = {"spacing_mm": (2.7, 2.7, 2.7), "network": "object_networks.TouchingBalls"}
    bundles = tuple(bundle(tmp_path / str(n), **coarse) for n in range(count))
    image = Volume(
        np.zeros((1, 36, 32, 34), np.float32),
        Geometry.from_spacing((36, 32, 34), spacing_mm=(1.0, 1.0, 1.0)),
    )

    found = ObjectPredictor(
        bundles[0] if count == 1 else BundleGroup(bundles),
        objects=ObjectWindows(keeps_overlaps=keeps_overlaps),
        device="cpu",
    ).predict_volume(image)

    owners = np.zeros(image.geometry.shape, int)
    for number in (1, 2):
        box, mask = found.mask(number)
        assert mask.sum() > 800
        owners[box] += mask
    assert (owners.max() == 2) == keeps_overlaps


def test_a_lesion_of_a_few_voxels_may_be_outlined_differently():
    small, larger = np.ones((4, 4), np.bool_), np.ones((6, 6), np.bool_)

    for other in (FoundObject((9, 9), small, 1, 0.6), FoundObject((7, 7), larger, 1, 0.6)):
        (found,) = merge_views([[FoundObject((8, 8), small, 1, 0.6)], [other]], (32, 16))
        assert found.score == pytest.approx(0.6)
    apart = FoundObject((10, 10), small, 1, 0.6)
    assert len(merge_views([[FoundObject((8, 8), small, 1, 0.6)], [apart]], (32, 16))) == 2


def test_a_view_that_joins_two_neighbours_does_not_doubt_either():
    def part(first, last, score):
        mask = np.ones((6, last - first), np.bool_)
        return FoundObject((4, first), mask, 1, score, np.pad(np.full(mask.shape, 0.9), 1))

    apart, joined = [part(4, 10, 0.9), part(10, 15, 0.8)], [part(4, 15, 0.95)]

    tie = without_overlaps(merge_views([apart, joined], (16, 24)), (16, 24))
    one = without_overlaps(merge_views([apart, joined, joined], (16, 24)), (16, 24))
    elsewhere = merge_views([[part(4, 10, 0.9)], [part(8, 18, 0.9)]], (16, 24))

    assert [(found.start[1], found.stop[1]) for found in tie] == [(4, 10), (10, 15)]
    assert [found.score for found in tie] == pytest.approx([0.925, 0.8])
    assert [(found.start[1], found.stop[1]) for found in one] == [(4, 15)]
    assert [found.score for found in elsewhere] == pytest.approx([0.45, 0.45])


def test_thousands_of_objects_find_their_partners():
    rng = np.random.default_rng(0)
    cells = [(10 * i, 10 * j) for i in range(60) for j in range(50)]
    square = np.ones((6, 6), np.bool_)
    views = [
        [FoundObject((i + int(di), j + int(dj)), square, 1, float(score))
         for (i, j), (di, dj), score in zip(
             cells, rng.integers(0, 2, (3000, 2)), scores, strict=True)]
        for scores in rng.random((2, 3000))
    ]  # fmt: skip
    order = rng.permutation(3000)

    found = merge_views([views[0], [views[1][n] for n in order]], (600, 500))

    assert len(found) == 3000
    scores = {(one.start[0] // 10, one.start[1] // 10): one.score for one in found}
    for (i, j), first, second in zip(cells, *views, strict=True):
        assert scores[i // 10, j // 10] == pytest.approx((first.score + second.score) / 2)


def test_bundles_that_do_not_belong_together_are_refused(tmp_path):
    one = bundle(tmp_path / "a")

    for other, what, remedy in (
        (bundle(tmp_path / "b", task="panoptic"), "finds objects and classes", "alone"),
        (bundle(tmp_path / "c", task="label_map"), "gives the class of every voxel", "one kind"),
        (bundle(tmp_path / "d", orientation="ASR"), "sees images as ASR", "same `orientation`"),
    ):
        with pytest.raises(ConfigError) as caught:
            BundleGroup((one, other))
        assert what in caught.value.what
        assert str(other.folder) in caught.value.what
        assert remedy in caught.value.remedy
    organs, lesions = (
        bundle(
            tmp_path / name,
            labels=LabelSet.from_mapping(
                {
                    "background": 0,
                    "organ": {"id": 1, "thing": is_thing},
                    "lesion": {"id": 2, "thing": True},
                }
            ),
        )
        for name, is_thing in (("f", True), ("g", False))
    )
    with pytest.raises(ConfigError, match=r"finds lesion one by one, but .* finds organ, lesion"):
        BundleGroup((organs, lesions))
    group = BundleGroup((one, bundle(tmp_path / "e")))
    with pytest.raises(ConfigError, match=r"inference\.weights"):
        predictor_of(group, inference=SlidingWindow(weights=(2.0, 1.0)))


def test_a_bundle_without_mirrored_images_says_that_mirroring_changes_nothing(tmp_path, caplog):
    card = bundle(tmp_path / "a").card
    plain = ModelBundle.write(
        tmp_path / "b",
        weights={"fold_0": BrightObjects(1, 2, spatial_dims=3).state_dict()},
        plan=bundle(tmp_path / "c").plan,
        labels=LABELS,
        config={},
        card={**card, "mirror_axes": ""},
    )

    found = predictor_of(plain, inference=SlidingWindow(tta="mirror"), device="cpu")

    assert "inference.tta=mirror changes nothing" in caplog.text
    assert len(found.predict_volume(volume())) == 2


def test_maps_that_are_not_finite_are_refused(tmp_path):
    broken = bundle(tmp_path / "a", network="object_networks.Overflowing")
    alone, together = broken, BundleGroup((bundle(tmp_path / "b"), broken))

    for given in (alone, together):
        with pytest.raises(MedsegError, match="not finite with precision 32-true") as caught:
            ObjectPredictor(given, device="cpu", precision="32-true").predict_volume(volume())
        assert caught.value.code == "E_PREDICTION"
        assert "inference.precision=32-true" in caught.value.remedy


def test_a_2d_network_twice_is_the_network_once(tmp_path):
    plan = {"spatial_dims": 2, "patch_size": (16, 16), "strides": ((1, 1), (2, 2))}
    one = bundle(tmp_path / "a", kernel_sizes=((3, 3),) * 2, **plan)
    image = volume()
    image.array[0, 3:8, 4:8, 9:12] = 1.5  # slices that the network doubts

    alone = ObjectPredictor(one, device="cpu").predict_volume(image)
    twice = ObjectPredictor(BundleGroup((one, one)), device="cpu").predict_volume(image)

    assert np.array_equal(alone.array, twice.array)
    assert alone.scores.tolist() == pytest.approx(twice.scores.tolist())
    assert alone.scores.max() == pytest.approx(0.8)


def test_an_object_of_one_coarse_voxel_keeps_all_of_it(tmp_path):
    image = volume((0.0, 0.0))
    image.array[0, 10:12, 6:8, 20:22] = 9.0
    coarse = {"spacing_mm": (2.0, 2.0, 2.0)}
    options = ObjectWindows(min_score=0.0)

    alone = ObjectPredictor(bundle(tmp_path / "a", **coarse), objects=options, device="cpu")
    group = BundleGroup((bundle(tmp_path / "b"), bundle(tmp_path / "c", **coarse)))
    both = ObjectPredictor(group, objects=options, device="cpu")

    for predictor in (alone, both):
        found = predictor.predict_volume(image)
        assert len(found) == 1
        assert np.array_equal(found.array > 0, image.array[0] > 0)
