from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import phantoms
import pytest
import torch
from learning_cases import case_of, one_hot, perfect_bundle, small_plan
from phantoms import ALL_48_ORIENTATIONS

from medseg.bundle import ModelBundle
from medseg.core.errors import BundleError, InputError, MedsegError
from medseg.core.labels import LabelSet
from medseg.core.volume import Volume
from medseg.inference import bundle_networks
from medseg.inference.bundle_networks import mirror_axes_in_network
from medseg.inference.bundle_predictor import predictor_of
from medseg.inference.engines import SteadyEngine
from medseg.inference.postprocess import Postprocess
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.sliding_window import SlidingWindow


@pytest.fixture(autouse=True)
def _allow_the_perfect_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "learning_cases")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., NetworkPredictor]:
    """Makes a predictor on the CPU from entries of the plan; each bundle is written once."""
    folders: dict[str, Path] = {}

    def make(
        *,
        inference: SlidingWindow | None = None,
        postprocess: Postprocess | None = None,
        **options,
    ) -> NetworkPredictor:
        key = repr(sorted(options.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("bundle")
            perfect_bundle(folders[key], **options)
        bundle = ModelBundle.load(folders[key])
        return NetworkPredictor(
            bundle,
            inference=inference,
            postprocess=postprocess,
            device="cpu",
            precision="32-true",
        )

    return make


@pytest.mark.parametrize("orientation", ALL_48_ORIENTATIONS)
def test_a_perfect_network_gives_the_reference_on_the_inputs_own_grid(predictor, orientation):
    reference = phantoms.labelled_boxes(orientation=orientation)
    spacing = reference.geometry.reoriented("ASR").spacing_mm
    perfect = predictor(orientation="ASR", spacing_mm=spacing)

    result = perfect.predict(case_of(one_hot(reference), None))

    assert result.geometry is not None
    assert np.array_equal(result.geometry.affine, reference.geometry.affine)
    assert np.array_equal(result.array, reference.array)
    assert result.labels.names == ("background", "liver", "tumour")


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("spacing_mm", [(1.1, 1.3, 1.9), (2.9, 2.4, 3.1)])
def test_resampling_there_and_back_keeps_structures_in_place(predictor, orientation, spacing_mm):
    reference = phantoms.labelled_boxes(orientation=orientation)
    perfect = predictor(orientation="RAS", spacing_mm=spacing_mm)

    result = perfect.predict_volume(one_hot(reference))

    for class_id in (1, 2):
        found, wanted = result.array == class_id, reference.array == class_id
        dice = 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
        # On coarser voxels a face may move by a voxel of 3.5 mm in boxes of 9 to 36 mm.
        assert dice > (0.97 if spacing_mm[0] < 2 else 0.85)
        assert phantoms.centre_of_mass_mm(result, class_id=class_id) == pytest.approx(
            phantoms.centre_of_mass_mm(reference, class_id=class_id),
            abs=0.2 if spacing_mm[0] < 2 else 1.0,
        )


@pytest.mark.parametrize("orientation", ["LPS", "SRA"])
def test_a_2d_network_gives_the_reference_too(predictor, orientation):
    reference = phantoms.labelled_boxes(orientation=orientation)
    perfect = predictor(
        spatial_dims=2,
        orientation="RAS",
        spacing_mm=reference.geometry.reoriented("RAS").spacing_mm,
        patch_size=(16, 16),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3), (3, 3)),
    )

    assert np.array_equal(perfect.predict_volume(one_hot(reference)).array, reference.array)


def test_pictures_are_predicted_as_they_are_stored(predictor):
    reference = phantoms.labelled_boxes(orientation="LPS", shape=(36, 30, 1))
    assert (reference.array > 0).any()
    perfect = predictor(
        spatial_dims=2,
        orientation=None,
        spacing_mm=reference.geometry.spacing_mm,
        patch_size=(16, 16),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3), (3, 3)),
    )

    assert np.array_equal(perfect.predict_volume(one_hot(reference)).array, reference.array)


@pytest.mark.parametrize("num_fitting", [2, 0])
def test_running_out_of_gpu_memory_changes_nothing_but_the_time(
    predictor, num_fitting, monkeypatch
):
    reference = phantoms.labelled_boxes(orientation="RAS")
    perfect = predictor(
        orientation="RAS",
        spacing_mm=reference.geometry.spacing_mm,
        inference=SlidingWindow(window_batch=8),
    )
    volume = one_hot(reference)
    wanted = perfect.predict_volume(volume)
    usual = perfect.networks.engine.engine

    class Full:
        """A device whose memory holds some patches, and the sums of no slab."""

        name, device, precision = "torch", "cpu", "32-true"

        def __call__(self, patches: torch.Tensor) -> torch.Tensor:
            if len(patches) > num_fitting:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return usual(patches)

        def on_cpu(self):
            return usual

    monkeypatch.setattr(perfect.networks, "engine", SteadyEngine(Full()))

    result = perfect.predict_volume(volume)

    assert np.array_equal(result.array, wanted.array)
    assert isinstance(perfect.networks.engine.engine, Full) == (num_fitting > 0)


def test_logits_are_added_up_on_the_cpu_where_the_gpu_cannot_hold_them(predictor, monkeypatch):
    reference = phantoms.labelled_boxes(orientation="RAS")
    perfect = predictor(orientation="RAS", spacing_mm=reference.geometry.spacing_mm)
    monkeypatch.setattr(
        perfect.networks, "device", "meta"
    )  # stands for a GPU, which tests cannot count on
    monkeypatch.setattr(bundle_networks, "on_device", lambda image, device: image)
    slabs = SlidingWindow.slabs

    def on_a_small_gpu(self, *arguments, device, **options):
        if device == "meta":
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from slabs(self, *arguments, device=device, **options)

    monkeypatch.setattr(SlidingWindow, "slabs", on_a_small_gpu)

    result = perfect.predict_volume(one_hot(reference))

    assert np.array_equal(result.array, reference.array)


def test_progress_is_told_from_before_the_first_window_to_the_last(predictor):
    reference = phantoms.labelled_boxes(orientation="RAS")
    perfect = predictor(orientation="RAS", spacing_mm=reference.geometry.spacing_mm)
    told = []
    perfect.on_progress = told.append

    perfect.predict_volume(one_hot(reference))

    assert told[0].done == 0
    assert told[-1].done == told[-1].total > 1
    assert told[-1].expected_seconds == pytest.approx(told[-1].seconds)
    assert told[0].memory.total > 0


def test_a_budget_that_cannot_be_kept_is_said_before_anything_is_computed(predictor, monkeypatch):
    reference = phantoms.labelled_boxes(orientation="RAS")
    perfect = predictor(
        orientation="RAS",
        spacing_mm=reference.geometry.spacing_mm,
        inference=SlidingWindow(memory_budget_gib=0.01),
    )
    monkeypatch.setattr(perfect.networks, "engine", None)

    with pytest.raises(MedsegError, match="memory_budget_gib allows"):
        perfect.predict_volume(one_hot(reference))


def test_mirroring_at_test_time_is_undone(predictor):
    reference = phantoms.labelled_boxes(orientation="PIR")
    perfect = predictor(
        mirror_axes="RAS",
        orientation="ASR",
        spacing_mm=reference.geometry.reoriented("ASR").spacing_mm,
        inference=SlidingWindow(tta="mirror"),
    )

    assert np.array_equal(perfect.predict_volume(one_hot(reference)).array, reference.array)


def test_folds_are_averaged_as_logits(predictor):
    reference = phantoms.labelled_boxes()
    both = predictor(values=(1.0, 2.5))
    image = torch.from_numpy(one_hot(reference).array)

    torch.testing.assert_close(both.logits(image), 1.75 * image, rtol=1e-4, atol=1e-3)


def test_predicting_twice_gives_the_same_and_leaves_the_image_alone(predictor):
    reference = phantoms.labelled_boxes(orientation="RAS")
    perfect = predictor(spacing_mm=reference.geometry.spacing_mm)
    volume = one_hot(reference)
    before = volume.array.copy()

    first, second = perfect.predict_volume(volume), perfect.predict_volume(volume)

    assert np.array_equal(first.array, second.array)
    assert np.array_equal(volume.array, before)


def test_half_precision_on_the_cpu_gives_the_same_labels(tmp_path):
    reference = phantoms.labelled_boxes()
    bundle = perfect_bundle(tmp_path, spacing_mm=reference.geometry.spacing_mm)

    result = NetworkPredictor(bundle, device="cpu", precision="bf16-mixed").predict_volume(
        one_hot(reference)
    )

    assert np.array_equal(result.array, reference.array)


def test_the_option_for_the_precision_is_followed_unless_one_is_given(tmp_path):
    bundle = perfect_bundle(tmp_path)
    half = SlidingWindow(precision="bf16-mixed")

    assert predictor_of(bundle, inference=half, device="cpu").precision == "bf16-mixed"
    given = NetworkPredictor(bundle, inference=half, device="cpu", precision="32-true")
    assert given.networks.engine.engine.precision == "32-true"


def test_another_number_of_channels_is_refused(predictor):
    with pytest.raises(InputError) as caught:
        predictor().predict_volume(phantoms.sphere())

    assert "has 1 channels, the model expects 3" in caught.value.what


def test_an_image_with_nan_is_refused(predictor):
    reference = phantoms.labelled_boxes()
    volume = one_hot(reference)
    volume.array[0, 0, 0, 0] = np.nan

    with pytest.raises(InputError, match="NaN"):
        predictor().predict_volume(volume)


def test_logits_that_are_not_finite_are_an_error(predictor):
    broken = predictor(values=(float("inf"),))

    with pytest.raises(MedsegError) as caught:
        broken.predict_volume(one_hot(phantoms.labelled_boxes()))

    assert caught.value.where == "network"
    assert "not finite with precision 32-true" in caught.value.what
    assert "set inference.precision=32-true" in caught.value.remedy


def test_integer_images_are_predicted(predictor):
    reference = phantoms.labelled_boxes()
    volume = one_hot(reference)
    integers = Volume(volume.array.astype(np.int16), volume.geometry)
    perfect = predictor(spacing_mm=reference.geometry.spacing_mm)

    assert np.array_equal(perfect.predict_volume(integers).array, reference.array)


@pytest.mark.parametrize(
    ("orientation", "dims", "letters", "wanted"),
    [
        ("RAS", 3, "RAS", (0, 1, 2)),
        ("ASR", 3, "R", (2,)),
        ("LIP", 3, "AS", (1, 2)),
        ("ASR", 2, "R", ()),
        ("ASR", 2, "AS", (0, 1)),
        (None, 2, "RA", (0, 1)),
        ("RAS", 3, "", ()),
    ],
)
def test_patient_axes_are_found_in_network_space(orientation, dims, letters, wanted):
    entries = {"orientation": orientation, "spatial_dims": dims}
    if dims == 2:
        entries |= {
            "patch_size": (16, 16), "strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (3, 3))
        }  # fmt: skip

    assert mirror_axes_in_network(small_plan(**entries), letters) == wanted


def test_probabilities_lie_on_the_inputs_grid_and_agree_with_the_label_map(predictor):
    reference = phantoms.labelled_boxes(orientation="PIR")
    perfect = predictor(
        orientation="ASR",
        spacing_mm=reference.geometry.reoriented("ASR").spacing_mm,
        card={"temperature": 2.0},
    )

    result, shares = perfect.predict_with_probabilities(case_of(one_hot(reference), None))

    assert np.array_equal(result.array, reference.array)
    assert np.array_equal(shares.geometry.affine, reference.geometry.affine)
    assert shares.labels.names == ("background", "liver", "tumour")
    # The logits are 1 in the channel of the class and 0 elsewhere; halved by the temperature.
    inside = np.exp(0.5) / (np.exp(0.5) + 2)
    wanted = np.stack([reference.array == n for n in range(3)])
    np.testing.assert_allclose(shares.array[wanted], inside, rtol=1e-3)
    np.testing.assert_allclose(shares.array.sum(axis=0), 1, rtol=1e-5)


def test_the_bundles_rules_are_followed_unless_others_are_given(predictor):
    reference = phantoms.labelled_boxes()
    array = reference.array.copy()
    array[35, 29, 21] = 1
    image = one_hot(replace(reference, array=array))
    options = {"orientation": "RAS", "spacing_mm": reference.geometry.spacing_mm}
    card = {"postprocess": {"largest_component": ["liver"]}}

    followed = predictor(**options, card=card).predict_volume(image)
    overridden = predictor(postprocess=Postprocess(), **options, card=card).predict_volume(image)

    assert np.array_equal(followed.array, reference.array)
    assert np.array_equal(overridden.array, array)


def test_a_threshold_moves_the_border_between_classes(predictor):
    reference = phantoms.labelled_boxes()
    options = {"orientation": "RAS", "spacing_mm": reference.geometry.spacing_mm}

    # A logit of 1 against 0 is a probability of 0.73 of one class against another.
    kept, lost = (
        predictor(postprocess=Postprocess(threshold={"tumour": t}), **options).predict_volume(
            one_hot(reference)
        )
        for t in (0.7, 0.75)
    )

    assert (kept.array == 2).sum() == (reference.array == 2).sum()
    assert (lost.array == 2).sum() == 0


def test_a_random_field_takes_a_stray_voxel_away(predictor):
    reference = phantoms.labelled_boxes()
    array = reference.array.copy()
    array[35, 29, 21] = 1
    image = one_hot(replace(reference, array=array))
    options = {"orientation": "RAS", "spacing_mm": reference.geometry.spacing_mm}
    field = {"iterations": 3, "radius": 1, "appearance": 0.0, "smoothness": 3.0}

    result = predictor(**options, card={"postprocess": {"random_field": field}}).predict_volume(
        image
    )

    # Boxes keep all but what lies at their edges.
    changed = result.array != reference.array
    assert result.array[35, 29, 21] == 0
    assert changed.sum() < 0.1 * (reference.array > 0).sum()


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ({"largest": True}, "postprocess"),
        ({"minimum_volume_mm3": "all"}, "postprocess"),
        ({"threshold": {"livr": 0.4}}, "did you mean 'liver'"),
        ({"random_field": {"iteration": 5}}, "is no option of a random field"),
    ],
)
def test_rules_that_a_bundle_cannot_mean_are_refused(predictor, rules, what):
    with pytest.raises(BundleError, match=what):
        predictor(card={"postprocess": rules})


@pytest.mark.parametrize("temperature", [0, -1.0, "hot", float("nan")])
def test_a_temperature_that_is_none_is_refused(predictor, temperature):
    with pytest.raises(BundleError, match="has the temperature"):
        predictor(card={"temperature": temperature})


@pytest.mark.parametrize("score", [0, 1, "high", float("nan")])
def test_a_best_score_that_is_none_is_refused(predictor, score):
    with pytest.raises(BundleError, match="has the best score"):
        predictor(card={"best_score": score})


def test_regions_are_painted_into_one_label_map(predictor):
    labels = LabelSet.from_mapping(
        {"background": 0, "liver": 1, "tumour": 2, "regions": {"organ": [1, 2], "lesion": [2]}}
    )
    reference = phantoms.labelled_boxes(orientation="LPS")
    masks = np.stack([reference.array > 0, reference.array == 2]).astype(np.float32)
    perfect = predictor(
        orientation="RAS",
        spacing_mm=reference.geometry.reoriented("RAS").spacing_mm,
        normalisation=({"kind": "scale_255"},) * 2,
        labels=labels,
        options={"in_channels": 2},
    )
    image = Volume(255.0 * (2 * masks - 1), reference.geometry)  # logits of 1 and -1

    result, shares = perfect.predict_with_probabilities(case_of(image, None))

    assert np.array_equal(result.array, reference.array)
    assert result.labels.names == ("background", "liver", "tumour")
    assert shares.labels.names == ("background", "organ", "lesion")
    likely = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(shares.array[1][masks[0] > 0], likely, rtol=1e-3)
    np.testing.assert_allclose(shares.array[2][masks[1] == 0], 1 - likely, rtol=1e-3)


def cascade(folder: Path, *, coarse_values=(20.0,), **plan) -> NetworkPredictor:
    """A perfect network that looks where a perfect one at twice the spacing sees something."""
    spacing = plan.pop("spacing_mm", (1.5, 1.7, 2.9))
    inner = perfect_bundle(
        folder / "coarse", values=coarse_values, spacing_mm=tuple(2 * mm for mm in spacing)
    )
    bundle = perfect_bundle(
        folder, coarse=inner, values=(20.0,), spacing_mm=spacing, patch_size=(8, 8, 8),
        cascade=True, coarse_margin_mm=4.0, **plan,
    )  # fmt: skip
    return NetworkPredictor(bundle, device="cpu", precision="32-true")


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PSR", "ILA"])
def test_a_cascade_gives_the_reference_on_the_inputs_own_grid(tmp_path, orientation):
    reference = phantoms.labelled_boxes(orientation=orientation)
    predictor = cascade(tmp_path, spacing_mm=reference.geometry.reoriented("RAS").spacing_mm)
    windows = []
    predictor.on_progress = lambda progress: windows.append(progress.total)
    plain = NetworkPredictor(
        replace(predictor.bundle, coarse=None),
        device="cpu",
        on_progress=lambda progress: windows.append(progress.total),
    )

    result, shares = predictor.predict_with_probabilities(case_of(one_hot(reference), None))
    looked = windows[-1]
    plain.predict(case_of(one_hot(reference), None))

    assert np.array_equal(result.array, reference.array)
    assert result.geometry == reference.geometry
    assert np.isfinite(shares.array).all()
    np.testing.assert_array_equal(shares.array.argmax(0), reference.array)
    assert 0 < looked < 0.8 * windows[-1]


def test_logits_as_a_whole_are_those_of_the_slabs(tmp_path):
    reference = phantoms.labelled_boxes()
    predictor = cascade(tmp_path, spacing_mm=reference.geometry.reoriented("RAS").spacing_mm)

    output = predictor.network_output(one_hot(reference))

    assert np.array_equal(predictor.label_map(output).array, reference.array)


def test_where_the_coarse_network_sees_nothing_the_fine_one_does_not_look(tmp_path):
    predictor = cascade(tmp_path)
    reference = phantoms.labelled_boxes()
    empty = replace(reference, array=np.zeros_like(reference.array))
    predictor.networks.engine = lambda patches: pytest.fail("looked")

    result = predictor.predict(case_of(one_hot(empty), None))

    assert not result.array.any()


def test_folds_of_a_cascade_are_averaged_at_both_stages(tmp_path):
    reference = phantoms.labelled_boxes()
    # One fold of the coarse network is wrong, and the other is sure enough to outweigh it.
    predictor = cascade(
        tmp_path, coarse_values=(60.0, -20.0),
        spacing_mm=reference.geometry.reoriented("RAS").spacing_mm,
    )  # fmt: skip

    assert len(predictor.networks.coarse.networks) == 2
    found = predictor.predict(case_of(one_hot(reference), None)).array
    assert np.array_equal(found, reference.array)
