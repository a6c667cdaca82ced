import numpy as np
import phantoms
import pytest
from learning_cases import small_plan

from medseg.core.errors import InputError
from medseg.core.volume import Volume
from medseg.transforms.colour import as_colour
from medseg.transforms.preprocess import preprocess

GREY = np.random.default_rng(0).integers(0, 255, (1, 6, 5, 1)).astype(np.uint8)


def volume(array: np.ndarray) -> Volume:
    return Volume(array, phantoms.grid(shape=array.shape[1:], spacing_mm=(1.0, 1.0, 1.0)))


def test_grey_is_repeated_and_equal_colours_become_grey():
    grey, equal = volume(GREY), volume(np.repeat(GREY, 3, axis=0))

    assert np.array_equal(as_colour(grey, "rgb").array, equal.array)
    assert np.array_equal(as_colour(equal, "grey").array, grey.array)
    assert as_colour(grey, "grey") is grey
    assert as_colour(equal, "rgb") is equal


def test_colours_are_not_thrown_away():
    coloured = volume(np.concatenate([GREY, GREY, GREY // 2]))

    with pytest.raises(InputError) as caught:
        as_colour(coloured, "grey")

    assert caught.value.code == "E_CHANNELS"
    assert "is coloured, the model was trained on grey images" in caught.value.what


def test_two_channels_are_no_picture():
    with pytest.raises(InputError) as caught:
        as_colour(volume(np.concatenate([GREY, GREY])), "rgb")

    assert "has 2 channels, a picture has 1 or 3" in caught.value.what


def test_a_plan_says_what_becomes_of_a_picture():
    plan = small_plan(
        spatial_dims=2,
        orientation=None,
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=(4, 4),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3), (3, 3)),
        normalisation=({"kind": "scale_255"},) * 3,
        colour="rgb",
    )

    ready = preprocess(volume(GREY), plan)

    assert ready.array.shape == (3, 6, 5, 1)
    assert np.allclose(ready.array, np.repeat(GREY, 3, axis=0) / 255)
