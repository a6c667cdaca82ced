"""The phantom command writes what it says, through the program's own entry."""

from __future__ import annotations

import nibabel as nib
import pydicom
import pytest

from medseg.cli.commands import main


def test_phantoms_are_written_in_both_formats_and_the_next_commands_are_told(tmp_path, capsys):
    code = main(
        ["phantom", "num_cases=1", "seed=100", "format=[nifti,dicom]", f"paths.output={tmp_path}"]
    )

    printed = capsys.readouterr().out
    assert code == 0
    assert "imagesTr/phantom_000.nii.gz" in printed
    assert f"python -m medseg predict bundle=<bundle> source.folder={tmp_path}/imagesTr" in printed
    assert (tmp_path / "dataset.json").is_file()
    label = nib.load(tmp_path / "labelsTr" / "phantom_000.nii.gz")
    slices = sorted((tmp_path / "dicom" / "phantom_000").glob("*.dcm"))
    assert len(slices) == label.shape[2]
    assert pydicom.dcmread(slices[0]).Modality == "CT"


def test_dicom_alone_comes_with_references_and_without_nifti_images(tmp_path, capsys):
    code = main(["phantom", "num_cases=1", "format=dicom", f"paths.output={tmp_path}"])

    assert code == 0
    assert f"source.folder={tmp_path}/dicom" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dicom", "labelsTr"]


@pytest.mark.parametrize(
    ("option", "message"),
    [("num_cases=0", "num_cases=0: must be at least 1"), ("format=nrrd", "format='nrrd': must be")],
)
def test_impossible_options_are_told(option, message, tmp_path, capsys):
    code = main(["phantom", option, f"paths.output={tmp_path}"])

    told = capsys.readouterr()
    assert code not in (0, None)
    assert message in told.out + told.err
    assert list(tmp_path.iterdir()) == []


def test_no_format_at_all_is_told(tmp_path, capsys):
    code = main(["phantom", "format=[]", f"paths.output={tmp_path}"])

    told = capsys.readouterr()
    assert code not in (0, None)
    assert "format: is [], must be some of nifti, dicom; set format=nifti" in told.out + told.err
