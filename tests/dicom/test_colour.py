"""Colours agree with an independent implementation."""

import pytest
from highdicom.color import CIELabColor

from medseg.dicom.colour import dicom_lab, rgb_of


@pytest.mark.parametrize(
    "rgb", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255), (230, 75, 53), (9, 10, 11)]
)
def test_colours_agree_with_highdicom(rgb):
    expected = CIELabColor.from_rgb(*rgb).value

    # 0.1 % of the range: white points are given to four digits.
    assert dicom_lab(rgb) == pytest.approx(expected, abs=66)


@pytest.mark.parametrize("rgb", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (18, 200, 77)])
def test_a_colour_comes_back(rgb):
    assert rgb_of(dicom_lab(rgb)) == pytest.approx(rgb, abs=1)
