import csv

import nibabel
import numpy as np
import pytest

from medseg.cli.commands import main

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def folders(tmp_path):
    """Overrides for three predictions of one box, each of which lacks another slice."""
    box = np.zeros((12, 10, 8), np.uint8)
    box[2:9, 2:8, 2:6] = 1
    for n, name in enumerate(("truth", "a", "b", "c")):
        array = box.copy()
        if n:
            array[1 + n] = 0
        (tmp_path / name).mkdir()
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / name / "case.nii.gz")
    names = ",".join(str(tmp_path / name) for name in "abc")
    return [f"predictions=[{names}]", f"references={tmp_path / 'truth'}"]


def test_ensembles_are_written_and_scored_beside_their_members(folders, tmp_path):
    options = ["ensembles=[majority,weighted,staple]", "weights=[1,1,1.5]"]

    code = main(["evaluate", *folders, *options, f"paths.output={tmp_path / 'out'}"])

    assert code == 0
    found = nibabel.load(tmp_path / "out" / "ensembles" / "majority" / "case.nii.gz")
    truth = nibabel.load(tmp_path / "truth" / "case.nii.gz")
    assert np.array_equal(found.dataobj, truth.dataobj)  # no two lack the same slice
    dice = {}
    for name in ("a", "majority", "weighted", "staple"):
        (row,) = csv.DictReader((tmp_path / "out" / name / "scores.csv").open())
        dice[name] = float(row["dice"])
    assert dice["a"] < 1
    assert dice["majority"] == dice["weighted"] == 1
    pairs = {
        (row["first"], row["second"])
        for row in csv.DictReader((tmp_path / "out" / "comparison.csv").open())
    }
    assert ("a", "staple") in pairs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["ensembles=[mean]"], "ensembles: names 'mean'; use some of majority, weighted, staple"),
        (["ensembles=[weighted]"], "weights: is None, for 3 predictions; give 3 positive numbers"),
        (["ensembles=[weighted]", "weights=[1,0,1]"], "weights: is [1, 0, 1], for 3 pred"),
    ],
)
def test_ensembles_that_cannot_be_made_are_explained(folders, tmp_path, capsys, options, message):
    assert main(["evaluate", *folders, *options, f"paths.output={tmp_path / 'out'}"]) == 1

    assert message in capsys.readouterr().err


def test_one_model_is_no_ensemble(folders, tmp_path, capsys):
    options = [f"predictions={tmp_path / 'a'}", folders[1], "ensembles=[staple]"]

    assert main(["evaluate", *options, f"paths.output={tmp_path / 'out'}"]) == 1

    assert "needs predictions of several models; set predictions=[A,B,C]" in capsys.readouterr().err
