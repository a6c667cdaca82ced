import numpy as np
import phantoms
import pytest
from learning_cases import small_plan
from phantoms import ALL_48_ORIENTATIONS

from medseg.core.errors import ConfigError, InputError
from medseg.core.volume import Volume
from medseg.transforms.preprocess import network_shape, normalise, preprocess, preprocess_labels


@pytest.mark.parametrize("orientation", ALL_48_ORIENTATIONS)
def test_a_structure_stays_where_it_is_in_the_patient(orientation):
    volume = phantoms.sphere(centre_mm=(10, -20, 30), radius_mm=12, orientation=orientation)
    plan = small_plan(
        orientation="RAS", spacing_mm=(1.6, 2.1, 2.7), normalisation=({"kind": "scale_255"},)
    )

    ready = preprocess(volume, plan)

    assert ready.geometry.orientation == "RAS"
    found = phantoms.centre_of_mass_mm(Volume(ready.array, ready.geometry))
    # A tenth of a millimetre is a twentieth of a voxel.
    assert found == pytest.approx((10, -20, 30), abs=0.1)


@pytest.mark.parametrize("orientation", ["LPS", "SRA", "PIR"])
def test_image_and_reference_end_on_the_same_voxels(orientation):
    reference = phantoms.labelled_boxes(orientation=orientation)
    image = Volume(reference.array[None].astype(np.float32) * 255, reference.geometry)
    plan = small_plan(
        orientation="ASR",
        spacing_mm=reference.geometry.reoriented("ASR").spacing_mm,
        normalisation=({"kind": "scale_255"},),
    )

    ready = preprocess(image, plan)
    labels = preprocess_labels(reference, plan)

    # Nothing is resampled here, so both must be equal.
    assert labels.shape == ready.array.shape[1:]
    assert np.array_equal(np.round(ready.array[0]), labels)


def test_the_image_given_is_left_as_it_is():
    geometry = phantoms.grid()
    array = np.random.default_rng(0).normal(50, 9, (1, *geometry.shape)).astype(np.float32)
    volume = Volume(array.copy(), geometry)

    preprocess(volume, small_plan(spacing_mm=geometry.spacing_mm))

    assert np.array_equal(volume.array, array)


def test_slices_keep_their_number_in_2d():
    geometry = phantoms.grid(shape=(20, 30, 7), spacing_mm=(2.0, 1.0, 9.0))
    plan = small_plan(
        spatial_dims=2,
        spacing_mm=(1.0, 1.0, 3.0),
        patch_size=(16, 16),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3), (3, 3)),
    )

    assert network_shape(geometry, plan) == (40, 30, 7)


def test_rounding_errors_of_a_header_cost_no_resampling():
    geometry = phantoms.grid(shape=(300, 20, 20), spacing_mm=(0.9995, 1.0, 1.0))

    assert network_shape(geometry, small_plan(spacing_mm=(1.0, 1.0, 1.0))) == (300, 20, 20)


def test_ct_is_clipped_and_scaled_by_the_plans_values():
    image = np.array([-2000.0, 0.0, 40.0, 3000.0], np.float32)

    normalise(image, {"kind": "clip_zscore", "low": -20, "high": 100, "mean": 40, "std": 30})

    assert image.tolist() == pytest.approx([-2.0, -40 / 30, 0.0, 2.0])


def test_mr_is_scaled_by_its_own_values():
    image = np.array([1.0, 3.0], np.float32)

    normalise(image, {"kind": "zscore"})

    assert image.tolist() == pytest.approx([-1.0, 1.0])


def test_a_constant_image_becomes_zero():
    image = np.full((3, 3, 3), 7.0, np.float32)

    normalise(image, {"kind": "zscore"})

    assert (image == 0).all()


def test_an_unknown_normalisation_is_named():
    with pytest.raises(ConfigError) as caught:
        normalise(np.zeros(3, np.float32), {"kind": "minmax"})

    assert caught.value.where == "plan.normalisation"
    assert "'minmax'" in caught.value.what
    assert "clip_zscore, zscore or scale_255" in caught.value.remedy


def test_another_number_of_channels_is_refused():
    geometry = phantoms.grid()
    volume = Volume(np.zeros((2, *geometry.shape), np.float32), geometry)

    with pytest.raises(InputError) as caught:
        preprocess(volume, small_plan())

    assert caught.value.code == "E_CHANNELS"
    assert "has 2 channels, the model expects 1" in caught.value.what
    assert "trained on" in caught.value.remedy


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_refused(value):
    volume = phantoms.sphere()
    volume.array[0, 3, 4, 5] = value

    with pytest.raises(InputError) as caught:
        preprocess(volume, small_plan())

    assert caught.value.code == "E_IMAGE_NAN"
    assert "NaN" in caught.value.what
    assert "replace them" in caught.value.remedy
