import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from learning_cases import LABELS, block, case_of, perfect_bundle, small_plan

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.core.segmentation import ProbabilityMap
from medseg.core.volume import Volume
from medseg.inference.ensemble import BundleGroup, EnsemblePredictor, load_bundles
from medseg.inference.postprocess import Postprocess
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.sliding_window import SlidingWindow
from medseg.models.unet import UNet

REGIONS = LabelSet.from_mapping(
    {"background": 0, "liver": 1, "tumour": 2, "regions": {"organ": [1, 2], "lesion": [2]}}
)
FLAT = {
    "spatial_dims": 2,
    "orientation": "ASR",
    "spacing_mm": (1.1, 1.9, 1.0),
    "patch_size": (16, 8),
    "strides": ((1, 1), (2, 2)),
    "kernel_sizes": ((3, 3), (3, 3)),
}


def bundle(
    folder: Path,
    *,
    seed: int = 0,
    num_folds: int = 1,
    labels: LabelSet = LABELS,
    card: dict | None = None,
    **plan,
) -> ModelBundle:
    """A U-Net as its seed left it, with logits that are spread as those of a trained one are."""
    entries = small_plan(**plan)
    options = {
        "in_channels": 1,
        "spatial_dims": entries.spatial_dims,
        "base_channels": 4,
        "strides": entries.to_dict()["strides"],
        "kernel_sizes": entries.to_dict()["kernel_sizes"],
    }
    weights = {}
    for fold in range(num_folds):
        torch.manual_seed(100 * seed + fold)
        state = UNet(out_channels=labels.num_outputs, **options).state_dict()
        weights[f"fold_{fold}"] = {
            name: 3 * value if value.ndim > 1 else value for name, value in state.items()
        }
    return ModelBundle.write(
        folder,
        weights=weights,
        plan=entries,
        labels=labels,
        config={},
        card={
            "name": folder.name,
            "network": {"class": "medseg.models.unet.UNet", "options": options},
            **(card or {}),
        },
    )


def alone(one: ModelBundle, volume: Volume, **options) -> ProbabilityMap:
    predictor = NetworkPredictor(one, device="cpu", precision="32-true", **options)
    return predictor.predict_with_probabilities(case_of(volume, None))[1]


def together(bundles: list[ModelBundle], **options) -> EnsemblePredictor:
    group = BundleGroup(tuple(bundles))
    return EnsemblePredictor(group, device="cpu", precision="32-true", **options)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return block(0, shape=(22, 19, 17), orientation="LPS")[0]


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 2.0)])
def test_probabilities_of_different_plans_and_networks_are_averaged(tmp_path, volume, weights):
    bundles = [
        bundle(tmp_path / "a"),
        bundle(tmp_path / "b", seed=1, card={"temperature": 1.7}, **FLAT),
        bundle(
            tmp_path / "c", seed=2, num_folds=2, spacing_mm=(2.0, 1.5, 1.8), patch_size=(8, 8, 8)
        ),
    ]
    inference = SlidingWindow(weights=weights)

    label_map, shares = together(bundles, inference=inference).predict_with_probabilities(
        case_of(volume, None)
    )

    parts = [alone(one, volume).array for one in bundles]
    mean = np.average(parts, axis=0, weights=weights)
    np.testing.assert_allclose(shares.array, mean, atol=1e-5)
    first, second = np.sort(mean, axis=0)[[-1, -2]]
    clear = first - second > 1e-5
    assert clear.mean() > 0.99
    # Each differs from the others in many voxels, or nothing would be shown.
    assert all((a.argmax(0) != b.argmax(0)).mean() > 0.05 for a, b in itertools.pairwise(parts))
    assert np.array_equal(label_map.array[clear], mean.argmax(0)[clear])
    assert label_map.geometry == volume.geometry


def test_each_class_can_have_weights_of_its_own(tmp_path, volume):
    bundles = [bundle(tmp_path / "a"), bundle(tmp_path / "b", seed=1, **FLAT)]
    weights = [[1.0, 1.0, 4.0], [1.0, 3.0, 1.0]]

    label_map, shares = together(
        bundles, inference=SlidingWindow(weights=weights)
    ).predict_with_probabilities(case_of(volume, None))

    parts = [alone(one, volume).array for one in bundles]
    tables = np.array(weights)[:, :, None, None, None] * parts
    mean = tables.sum(0) / np.sum(weights, axis=0)[:, None, None, None]
    mean /= mean.sum(0)
    np.testing.assert_allclose(shares.array, mean, atol=1e-5)
    first, second = np.sort(mean, axis=0)[[-1, -2]]
    clear = first - second > 1e-5
    assert np.array_equal(label_map.array[clear], mean.argmax(0)[clear])
    # Some voxels get a class that both bundles find less likely than another one.
    agreed = parts[0].argmax(0) == parts[1].argmax(0)
    assert (mean.argmax(0) != parts[0].argmax(0))[agreed].any()


def test_each_region_can_have_weights_of_its_own(tmp_path, volume):
    bundles = [bundle(tmp_path / str(n), seed=n, labels=REGIONS) for n in range(2)]
    weights = [[1.0, 4.0], [3.0, 1.0]]

    label_map, _ = together(
        bundles, inference=SlidingWindow(weights=weights)
    ).predict_with_probabilities(case_of(volume, None))

    parts = [alone(one, volume).array[1:] for one in bundles]
    organ = (parts[0][0] + 3 * parts[1][0]) / 4
    lesion = (4 * parts[0][1] + parts[1][1]) / 5
    clear = (np.abs(organ - 0.5) > 1e-5) & (np.abs(lesion - 0.5) > 1e-5)
    wanted = np.where(lesion > 0.5, 2, np.where(organ > 0.5, 1, 0))
    assert len(np.unique(wanted)) == 3
    assert np.array_equal(label_map.array[clear], wanted[clear])


@pytest.mark.parametrize("weights", [None, [[1.0, 1.0, 4.0], [1.0, 3.0, 1.0]]])
def test_labels_alone_are_those_with_probabilities(tmp_path, volume, weights):
    bundles = [bundle(tmp_path / "a"), bundle(tmp_path / "b", seed=1, **FLAT)]
    ensemble = together(bundles, inference=SlidingWindow(weights=weights))
    case = case_of(volume, None)

    assert np.array_equal(
        ensemble.predict(case).array, ensemble.predict_with_probabilities(case)[0].array
    )


def test_regions_are_painted_from_their_mean_probabilities(tmp_path, volume):
    bundles = [bundle(tmp_path / str(n), seed=n, labels=REGIONS) for n in range(2)]
    threshold = {"lesion": 0.4}

    label_map, _ = together(
        bundles, postprocess=Postprocess(threshold=threshold)
    ).predict_with_probabilities(case_of(volume, None))

    organ, lesion = np.mean([alone(one, volume).array[1:] for one in bundles], axis=0)
    wanted = np.where(lesion > 0.4, 2, np.where(organ > 0.5, 1, 0))
    clear = (np.abs(organ - 0.5) > 1e-5) & (np.abs(lesion - 0.4) > 1e-5)
    assert len(np.unique(wanted)) == 3
    assert np.array_equal(label_map.array[clear], wanted[clear])


def test_thresholds_hold_for_the_mean_of_calibrated_probabilities(tmp_path, volume):
    bundles = [bundle(tmp_path / str(n), seed=n, card={"temperature": 1.0 + n}) for n in range(2)]

    label_map, shares = together(
        bundles, postprocess=Postprocess(threshold={"tumour": 0.3})
    ).predict_with_probabilities(case_of(volume, None))

    odds = np.log(shares.array) + np.array([0, 0, np.log(0.7 / 0.3)])[:, None, None, None]
    first, second = np.sort(odds, axis=0)[[-1, -2]]
    clear = first - second > 1e-4
    assert (odds.argmax(0) != shares.array.argmax(0)).mean() > 0.01
    assert np.array_equal(label_map.array[clear], odds.argmax(0)[clear])


def test_entropy_and_disagreement_are_those_of_the_bundles(tmp_path, volume):
    bundles = [bundle(tmp_path / "a"), bundle(tmp_path / "b", seed=1, **FLAT)]
    ensemble = together(bundles, inference=SlidingWindow(weights=[1, 2]))

    found = ensemble.segment_prepared(ensemble.prepare(volume), wants=["uncertainty"]).uncertainty

    parts = [alone(one, volume).array for one in bundles]
    mean = np.average(parts, axis=0, weights=[1, 2])
    np.testing.assert_allclose(found.entropy, entropy(mean), atol=1e-4)
    inner = np.average([entropy(part) for part in parts], axis=0, weights=[1, 2])
    np.testing.assert_allclose(found.disagreement, entropy(mean) - inner, atol=1e-4)
    assert found.disagreement.max() > 0.05
    assert found.geometry == volume.geometry


def test_folds_and_mirrored_images_disagree_by_their_mutual_information(tmp_path):
    # One window at the image's own spacing: nothing is blended or interpolated.
    volume, _ = block(1, shape=(16, 16, 8), spacing_mm=(1.0, 1.25, 2.0))
    one = bundle(tmp_path / "a", num_folds=2, card={"mirror_axes": "RA", "temperature": 1.3})
    predictor = NetworkPredictor(
        one, device="cpu", precision="32-true", inference=SlidingWindow(tta="mirror")
    )
    prepared = predictor.prepare(volume)

    found = predictor.segment_prepared(prepared, wants=["uncertainty", "probabilities"])

    passes = []
    image = torch.from_numpy(prepared.array)[None]
    with torch.no_grad():
        for network in one.build_networks():
            for axes in ((), (2,), (3,), (2, 3)):
                logits = torch.flip(network.eval()(torch.flip(image, axes)), axes)
                passes.append((logits[0] / 1.3).softmax(0).numpy())
    wanted = entropy(np.mean(passes, axis=0)) - np.mean([entropy(p) for p in passes], axis=0)
    np.testing.assert_allclose(found.uncertainty.disagreement, wanted, atol=1e-4)
    assert wanted.max() > 0.01
    np.testing.assert_allclose(
        found.uncertainty.entropy, entropy(found.probabilities.array), atol=1e-4
    )


def test_one_network_that_sees_each_image_once_disagrees_with_nothing(tmp_path, volume):
    predictor = NetworkPredictor(bundle(tmp_path / "a"), device="cpu", precision="32-true")

    found = predictor.segment_prepared(predictor.prepare(volume), wants=["uncertainty"])

    assert found.uncertainty.disagreement is None
    assert found.uncertainty.entropy.max() > 0.1


def entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log(np.maximum(shares, 1e-30))).sum(0) / np.log(len(shares))


def test_bundles_that_do_not_belong_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "learning_cases")
    one = bundle(tmp_path / "a")
    others = LabelSet.from_names(["background", "liver", "cyst"])

    for other, what, remedy in (
        (bundle(tmp_path / "b", labels=others), "segments liver, cyst, but", "same classes"),
        (bundle(tmp_path / "c", orientation="LPS"), "sees images as LPS", "same `orientation`"),
        (perfect_bundle(tmp_path / "d"), "takes images of 3 channels", "same images"),
        (bundle(tmp_path / "e", card={"task": "instances"}), "gives objects, but", "one kind"),
    ):
        with pytest.raises(ConfigError) as caught:
            BundleGroup((one, other))
        assert caught.value.where == "bundle"
        assert what in caught.value.what
        assert str(other.folder) in caught.value.what
        assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "weights",
    [
        (1.0,),
        (1.0, 0.0),
        (1.0, -1.0),
        (1.0, float("inf")),
        ((1.0, 1.0), (1.0, 1.0)),
        ((1.0, 1.0, 1.0), (1.0,)),
        ((1.0, 1.0, 1.0), (1.0, 0.0, 1.0)),
    ],
)
def test_weights_that_do_not_fit_the_bundles_are_refused(tmp_path, weights):
    bundles = [bundle(tmp_path / str(n), seed=n) for n in range(2)]

    with pytest.raises(ConfigError, match=r"inference\.weights.* for 2 bundles"):
        together(bundles, inference=SlidingWindow(weights=weights))
    with pytest.raises(ConfigError, match=r"inference\.weights.* for 1 bundles"):
        alone(bundles[0], None, inference=SlidingWindow(weights=(1.0, 2.0)))


def test_results_name_all_bundles(tmp_path):
    bundles = [bundle(tmp_path / name, card={"notice": "not for patients"}) for name in "ab"]

    group = load_bundles([one.folder for one in bundles])

    assert group.name == "a + b"
    assert group.notice == "not for patients"
    assert len(group.sha256) == 64
    assert group.sha256 != load_bundles([one.folder for one in bundles[::-1]]).sha256
    assert isinstance(load_bundles([bundles[0].folder]), ModelBundle)


def test_numbers_are_names_of_bundles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        bundle(tmp_path / str(number), seed=number)

    assert len(load_bundles([0, 1]).bundles) == 2


def test_rules_that_the_bundles_do_not_share_are_left_out(tmp_path, volume, caplog):
    rules = {"postprocess": {"largest_component": ["tumour", "liver"]}}
    bundles = [bundle(tmp_path / "a", card=rules), bundle(tmp_path / "b", seed=1)]
    shared = [bundles[0], bundle(tmp_path / "c", seed=1, card=rules)]
    case = case_of(volume, None)

    plain = together(bundles).predict(case).array
    corrected = together(shared).predict(case).array

    assert "post-processed differently" in caplog.text
    assert np.array_equal(plain, together(bundles, postprocess=Postprocess()).predict(case).array)
    assert (corrected > 0).sum() < (plain > 0).sum()


def test_windows_of_all_bundles_are_counted_together(tmp_path, volume):
    told = []
    ensemble = together(
        [bundle(tmp_path / "a"), bundle(tmp_path / "b", seed=1)], on_progress=told.append
    )

    ensemble.predict(case_of(volume, None))

    assert told[0].done == 0
    assert told[-1].done == told[-1].total == told[0].total
    assert told[0].memory.parts["other bundles"] > 0
