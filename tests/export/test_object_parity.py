"""Exported networks that find objects: what counts as the same, and that runtimes find the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detector_bundles import SIZES, detector_bundle
from network_options import DETECTORS

from medseg.bundle import ModelBundle
from medseg.core.errors import BundleError, ConfigError, MedsegError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import InstanceSet
from medseg.core.volume import Volume
from medseg.export.object_parity import num_unpaired, require_same_objects
from medseg.export.write import export_bundle
from medseg.inference.object_predictor import ObjectPredictor
from medseg.inference.object_windows import ObjectWindows
from medseg.models.detection.objects import Detections, boxes_of


def detections(*places, scores=None, classes=None):
    """Squares of 6 voxels' extent in an image of 20 x 20."""
    masks = torch.zeros(len(places), 20, 20, dtype=torch.bool)
    for n, (i, j) in enumerate(places):
        masks[n, i : i + 6, j : j + 6] = True
    corners = torch.tensor(places).reshape(-1, 2)
    return Detections(
        boxes_of(masks) if len(places) else torch.zeros(0, 4),
        torch.tensor(scores or [0.9 - 0.1 * n for n in range(len(places))]),
        torch.tensor(classes or [1] * len(places)),
        corners,
        tuple(m[i : i + 6, j : j + 6] for m, (i, j) in zip(masks, places, strict=True)),
    )


@pytest.mark.parametrize(
    ("other", "unpaired"),
    [
        (detections((0, 0), (10, 10)), 0),
        (detections((10, 10), (0, 0), scores=[0.8, 0.9]), 0),
        (detections((0, 0)), 1),
        (detections((0, 0), (10, 10), (3, 12)), 1),
        (detections((0, 0), (11, 10)), 2),
        (detections((0, 0), (10, 10), scores=[0.9, 0.79]), 2),
        (detections((0, 0), (10, 10), classes=[1, 2]), 2),
        (detections(), 2),
    ],
)
def test_objects_are_the_same_by_class_score_and_mask(other, unpaired):
    assert num_unpaired(detections((0, 0), (10, 10)), other, (20, 20)) == unpaired


def test_one_voxel_may_differ():
    one, other = detections((0, 0)), detections((0, 0))
    other.masks[0][0, 0] = False

    assert num_unpaired(one, other, (20, 20)) == 0


class Fixed:
    """Finds the same in every image.

    Args:
        found: what.
        value: of its output.
    """

    def __init__(self, found, value=0.0):
        self.found, self.value = found, value

    def __call__(self, image):
        return {"maps": [torch.tensor([0.0, 1.0 + self.value])]}

    def detect(self, outputs, *, shape, max_objects, min_score):
        return [self.found]


@pytest.mark.parametrize(
    "other",
    [
        Fixed(detections((0, 0))),
        Fixed(detections((0, 0), (10, 10)), 0.01),
        Fixed(detections((0, 0), (10, 10)), torch.nan),
    ],
    ids=["an object is missing", "an output deviates", "an output is no number"],
)
def test_an_export_that_finds_others_is_refused(other):
    wanted = Fixed(detections((0, 0), (10, 10)))
    patches = [torch.zeros(1, 1, 20, 20)]

    assert require_same_objects("onnx", wanted, wanted, patches).num_objects == 4
    with pytest.raises(MedsegError, match="deviates from PyTorch") as caught:
        require_same_objects("onnx", other, wanted, patches)
    assert caught.value.code == "E_EXPORT"


def picture(dims: int) -> Volume:
    """Larger than a patch along the first axis, and smaller along the second."""
    shape = (50, 40, 3) if dims == 2 else (20, 20, 18)
    rng = np.random.default_rng(0)
    array = rng.normal(size=(1, *shape)).astype(np.float32)
    array[:, 4:12, 5:13] += 3
    return Volume(array, Geometry.from_spacing(shape, spacing_mm=(1.0, 1.0, 1.0)))


def test_a_bundle_of_several_folds_is_refused(tmp_path):
    bundle = detector_bundle(tmp_path / "plain", "yolact", 2, folds=2)

    with pytest.raises(BundleError, match="cannot be averaged") as caught:
        export_bundle(bundle, ["onnx"], tmp_path / "exported")

    assert caught.value.remedy.startswith("take the bundles of single folds")


def test_an_engine_that_the_bundle_does_not_carry_is_refused_with_the_command(tmp_path):
    bundle = detector_bundle(tmp_path / "plain", "yolact", 2)

    with pytest.raises(ConfigError) as caught:
        ObjectPredictor(bundle, engine="openvino", device="cpu")

    assert caught.value.where == "inference.engine"
    assert "medseg export bundle=" in caught.value.remedy


def test_of_many_objects_one_may_be_another():
    places = [(i, j) for i in (0, 7, 14) for j in (0, 7, 14)]
    many, moved = detections(*places), detections(*places[:-1], (13, 13))
    patches = [torch.zeros(1, 1, 20, 20)] * 2
    moved_once = Fixed(many)
    answers = iter([many, moved])
    moved_once.detect = lambda outputs, **_: [next(answers)]

    parity = require_same_objects("onnx", moved_once, Fixed(many), patches)

    assert parity.num_objects == 36
    assert parity.changed == pytest.approx(2 / 36)
    with pytest.raises(MedsegError, match="deviates from PyTorch"):
        require_same_objects("onnx", Fixed(moved), Fixed(many), patches)


EVERY = [(name, dims) for name in DETECTORS for dims in (2, 3)]
USUAL = {("yolact", 2), ("panoptic_fpn", 3)}  # the others take up to half a minute each
ON_U_NET = {"backbone": "unet", "dense_weight": 1.0}


@pytest.mark.parametrize(
    ("name", "dims", "options"),
    [
        pytest.param("mask_rcnn", 3, ON_U_NET, id="mask_rcnn-3D-unet", marks=pytest.mark.slow),
        pytest.param(
            "panoptic_fpn",
            2,
            {"backbone": "unet"},
            id="panoptic_fpn-2D-unet",
            marks=pytest.mark.slow,
        ),
        *(
            pytest.param(
                *case,
                {},
                id=f"{case[0]}-{case[1]}D",
                marks=pytest.mark.slow if case in USUAL else pytest.mark.exhaustive,
            )
            for case in EVERY
        ),
    ],
)
def test_every_engine_finds_the_objects_that_pytorch_finds(name, dims, options, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    plain = detector_bundle(tmp_path / "plain", name, dims, **options)
    kept = ObjectWindows(min_score=0.0, max_objects=10, window_growth=1.0, keeps_overlaps=True)

    parity = export_bundle(plain, ["onnx", "openvino"], tmp_path / "exported")

    bundle = ModelBundle.load(tmp_path / "exported")
    found = {
        engine: ObjectPredictor(
            bundle, objects=kept, engine=engine, device="cpu", precision="32-true"
        )
        for engine in ("torch", "onnx", "openvino", "auto")
    }
    # By itself PyTorch sees the smaller axis as it is: let it see what the others do.
    found["torch"].members[0].detector = Padded(found["torch"].members[0].detector, SIZES[dims])
    results = {
        engine: predictor.predict_volume(picture(dims)) for engine, predictor in found.items()
    }

    assert all(value.num_objects > 0 for value in parity.values())
    wanted = instances_of(results["torch"])
    assert len(wanted)
    for engine in ("onnx", "openvino", "auto"):
        assert_same(instances_of(results[engine]), wanted)


class Padded:
    """A detector in PyTorch that sees whole patches."""

    def __init__(self, network, size):
        self.network, self.size = network, size
        self.detect, self.semantic_logits = network.detect, network.semantic_logits

    def __call__(self, image):
        sides = [(0, size - n) for n, size in zip(image.shape[2:], self.size, strict=True)]
        return self.network(torch.nn.functional.pad(image, [n for s in sides[::-1] for n in s]))


def instances_of(result) -> InstanceSet:
    return result if isinstance(result, InstanceSet) else result.instances


def assert_same(found: InstanceSet, wanted: InstanceSet) -> None:
    assert len(found) == len(wanted)
    np.testing.assert_array_equal(found.class_ids, wanted.class_ids)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    assert (found.layers != wanted.layers).mean() < 1e-3
