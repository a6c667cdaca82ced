import json

import dicom_objects
import highdicom
import nibabel
import numpy as np
import phantoms
import pytest
from learning_cases import case_of

from medseg.core.errors import ConfigError
from medseg.core.segmentation import UncertaintyMap
from medseg.core.volume import Volume
from medseg.writers.uncertainty import UncertaintyWriter


def maps(grid, *, disagreement: bool = True) -> UncertaintyMap:
    rng = np.random.default_rng(0)
    return UncertaintyMap(
        rng.random(grid.shape).astype(np.float32),
        rng.random(grid.shape).astype(np.float32) if disagreement else None,
        grid,
        {"liver": 0.912345, "tumour": None},
    )


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "PSR"])
def test_maps_are_written_as_nifti_on_the_grid_of_the_image(tmp_path, orientation):
    grid = phantoms.grid(shape=(7, 6, 5), spacing_mm=(1.0, 1.5, 2.5), orientation=orientation)
    case = case_of(Volume(np.zeros((1, *grid.shape), np.float32), grid), None, key="a")
    result = maps(grid)

    paths = UncertaintyWriter().write(result, case, folder=tmp_path)

    assert [p.name for p in paths] == [
        "a_entropy.nii.gz",
        "a_disagreement.nii.gz",
        "a_quality.json",
    ]
    for path, array in zip(paths[:2], (result.entropy, result.disagreement), strict=True):
        image = nibabel.load(path)
        np.testing.assert_allclose(image.affine, grid.affine, atol=1e-5)
        np.testing.assert_allclose(image.get_fdata(), array, atol=1e-6)


def test_the_expected_dice_is_written_for_programs(tmp_path):
    grid = phantoms.grid(shape=(3, 3, 3), spacing_mm=(1.0, 1.0, 1.0), orientation="RAS")
    case = case_of(Volume(np.zeros((1, *grid.shape), np.float32), grid), None, key="a")
    writer = UncertaintyWriter(algorithm_name="liver-3d", bundle_sha256="f" * 64)

    paths = writer.write(maps(grid, disagreement=False), case, folder=tmp_path)

    assert [p.name for p in paths] == ["a_entropy.nii.gz", "a_quality.json"]
    facts = json.loads(paths[-1].read_text())
    assert facts["case"] == "a"
    assert facts["model"] == {"name": "liver-3d", "version": "", "sha256": "f" * 64}
    assert facts["expected_dice"] == {"liver": 0.9123, "tumour": None}


def test_maps_are_segments_of_a_fractional_dicom_segmentation(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", dicom_objects.oblique_geometry())
    result = maps(grid)

    paths = UncertaintyWriter(format="dicom_seg").write(result, case, folder=tmp_path)

    assert [p.name for p in paths] == [f"{case.key}_uncertainty.dcm", f"{case.key}_quality.json"]
    seg = highdicom.seg.segread(paths[0])
    assert seg.SegmentationType == "FRACTIONAL"
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["entropy", "disagreement"]
    found = dicom_objects.highdicom_masks(paths[0], grid)
    for number, array in ((1, result.entropy), (2, result.disagreement)):
        np.testing.assert_allclose(found[number], array, atol=0.5 / 255 + 1e-6)


def test_an_unknown_format_is_refused():
    with pytest.raises(ConfigError, match="nifti or dicom_seg"):
        UncertaintyWriter(format="nrrd")
