"""NRRD output is read back by SimpleITK."""

import numpy as np
import phantoms
import pytest
import SimpleITK

from medseg.core.geometry import LPS_TO_RAS
from medseg.core.identity import Case
from medseg.core.labels import Label, LabelSet
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.writers.nrrd import NrrdWriter

CASE = Case("case_3", lambda: None)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SLA", "AIL"])
def test_simpleitk_reads_the_same_voxels_at_the_same_positions(tmp_path, orientation):
    label_map = phantoms.labelled_boxes(orientation=orientation)

    (path,) = NrrdWriter().write(label_map, CASE, folder=tmp_path)

    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    np.testing.assert_array_equal(array, label_map.array)
    lps = np.array(image.TransformIndexToPhysicalPoint((3, 5, 7)))
    np.testing.assert_allclose(
        LPS_TO_RAS[:3, :3] @ lps, label_map.geometry.to_world_mm((3, 5, 7)), atol=1e-6
    )
    assert path.name == "case_3.seg.nrrd"


def test_names_and_colours_are_those_that_slicer_looks_for(tmp_path):
    boxes = phantoms.labelled_boxes()
    labels = LabelSet(
        (Label("background", 0), Label("liver", 1, colour=(255, 0, 51)), Label("t", 2))
    )

    (path,) = NrrdWriter().write(
        LabelMap(boxes.array, boxes.geometry, labels), CASE, folder=tmp_path
    )

    image = SimpleITK.ReadImage(str(path))
    assert image.GetMetaData("Segment0_Name") == "liver"
    assert image.GetMetaData("Segment0_LabelValue") == "1"
    assert image.GetMetaData("Segment0_Color") == "1.000000 0.000000 0.200000"


def test_probabilities_are_a_list_of_volumes(tmp_path):
    boxes = phantoms.labelled_boxes()
    array = np.random.default_rng(0).random((3, *boxes.array.shape)).astype(np.float32)

    (path,) = NrrdWriter().write(
        ProbabilityMap(array, boxes.geometry, phantoms.TWO_LABELS), CASE, folder=tmp_path
    )

    image = SimpleITK.ReadImage(str(path))
    assert image.GetNumberOfComponentsPerPixel() == 3
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).transpose(3, 2, 1, 0), array)


def test_equal_results_give_equal_bytes(tmp_path):
    boxes = phantoms.labelled_boxes()

    (first,) = NrrdWriter().write(boxes, CASE, folder=tmp_path / "a")
    (second,) = NrrdWriter().write(boxes, CASE, folder=tmp_path / "b")

    assert first.read_bytes() == second.read_bytes()
