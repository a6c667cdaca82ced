"""`evaluate` with a bundle or a classical method in the place of predictions."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from learning_cases import write_blocks
from PIL import Image
from service_cases import tiny_bundle

from medseg.cli.commands import main


@pytest.fixture
def dataset(tmp_path) -> Path:
    write_blocks(tmp_path / "blocks", 2)
    return tmp_path / "blocks"


@pytest.fixture
def bundle(tmp_path) -> Path:
    return tiny_bundle(tmp_path / "bundle", name="Not trained/yet")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_baseline_is_scored_on_a_data_set(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["baseline=multi_otsu", f"fit_on={dataset}", f"source.folder={dataset}"]

    assert main(["evaluate", *options, f"paths.output={out}"]) == 0

    assert "fit_on names the cases that are scored" in capsys.readouterr().out
    scores = rows(out / "scores.csv")
    assert [(row["case"], row["label"]) for row in scores] == [
        (f"case_00{n}", name) for n in range(2) for name in ("label_1", "label_2")
    ]
    for row in scores[::2]:
        found, truth = (
            np.asanyarray(nibabel.load(folder / f"{row['case']}.nii.gz").dataobj) == 1
            for folder in (out / "predictions", dataset / "labels")
        )
        dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert float(row["dice"]) == pytest.approx(dice)
        assert dice > 0.9


def test_bundle_baseline_and_their_ensembles_stand_on_one_page(dataset, bundle, tmp_path):
    out = tmp_path / "out"
    options = [f"bundle={bundle}", "baseline=multi_otsu", f"source.folder={dataset}"]

    code = main(
        [
            "evaluate",
            *options,
            "ensembles=[majority,weighted,staple]",
            "weights=[1,2]",
            "report=html",
            "metrics.num_resamples=50",
            f"paths.output={out}",
        ]
    )

    assert code == 0
    models = {row["first"] for row in rows(out / "comparison.csv")}
    models |= {row["second"] for row in rows(out / "comparison.csv")}
    assert models == {"not_trained_yet", "baseline_otsu", "majority", "weighted", "staple"}
    for name in ("not_trained_yet", "baseline_otsu"):
        assert len(list((out / "predictions" / name).glob("case_00?.nii.gz"))) == 2
    assert "case_000" in (out / "report.html").read_text()
    # Calibration needs probabilities, which the network alone has.
    assert {row["model"] for row in rows(out / "calibration.csv")} == {"not_trained_yet"}
    (net, otsu, fused) = (
        np.asanyarray(nibabel.load(folder / "case_000.nii.gz").dataobj)
        for folder in (
            out / "predictions" / "not_trained_yet",
            out / "predictions" / "baseline_otsu",
            out / "ensembles" / "weighted",
        )
    )
    assert np.array_equal(fused, otsu)  # whose weight is above half
    assert not np.array_equal(net, otsu)


def test_a_baseline_stands_beside_given_predictions(dataset, tmp_path):
    options = [f"predictions={dataset / 'labels'}", "baseline=multi_otsu"]
    folders = [f"source.folder={dataset / 'images'}", f"references={dataset / 'labels'}"]

    assert main(["evaluate", *options, *folders, f"paths.output={tmp_path / 'out'}"]) == 0

    perfect = rows(tmp_path / "out" / "labels" / "scores.csv")
    assert {float(row["dice"]) for row in perfect} == {1.0}
    assert len(rows(tmp_path / "out" / "baseline_otsu" / "scores.csv")) == len(perfect)


@pytest.fixture
def nuclei(tmp_path) -> Path:
    """Two pictures of bright discs, two of which touch, with one number per disc."""
    i, j = np.ogrid[:60, :80]
    for n in range(2):
        numbers = np.zeros((60, 80), np.uint16)
        for number, (a, b) in enumerate([(30, 25 - n), (30, 45 - n), (12, 66)], start=1):
            numbers[((i - a) ** 2 + (j - b) ** 2 <= 100) & (numbers == 0)] = number
        noise = np.random.default_rng(n).normal(0, 8, numbers.shape)
        picture = np.clip((numbers > 0) * 120.0 + 40 + noise, 0, 255).astype(np.uint8)
        for name, array in (("images", picture), ("instances", numbers)):
            (tmp_path / "nuclei" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "nuclei" / name / f"n{n}.png")
    return tmp_path / "nuclei"


def test_objects_of_a_baseline_are_numbered_listed_and_scored(nuclei, tmp_path):
    out = tmp_path / "out"
    options = ["baseline=otsu", "baseline.task=instance", f"source.folder={nuclei}"]

    assert main(["evaluate", *options, f"fit_on={nuclei}", f"paths.output={out}"]) == 0

    found = np.asarray(Image.open(out / "predictions" / "n0.png"))
    listed = json.loads((out / "predictions" / "n0.json").read_text())
    assert set(np.unique(found)) == {0, 1, 2, 3}
    assert [entry["id"] for entry in listed["instances"]] == [1, 2, 3]
    assert [(row["case"], float(row["f1"])) for row in rows(out / "scores.csv")] == [
        ("n0", 1.0),
        ("n1", 1.0),
    ]
    (scores,) = json.loads((out / "scores.json").read_text())["labels"].values()
    assert scores["ap50"] == pytest.approx(1.0)
    fitted = (out / "predictions" / "baseline.yaml").read_text()
    assert "task: instance" in fitted
    assert "apart_mm: 14." in fitted  # 0.7 of the diameter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["references=r"],
            "predictions: has no value; set predictions=<folder>, or baseline=otsu or bundle=<fold",
        ),
        (["baseline=otsu"], "source.folder: has no value; set source.folder=<folder of images>"),
        (["predictions=p"], "references: has no value; set it with references=<folder>"),
    ],
)
def test_what_is_missing_is_said(tmp_path, capsys, options, message):
    assert main(["evaluate", *options, f"paths.output={tmp_path / 'out'}"]) == 1

    assert message in capsys.readouterr().err


def test_images_that_are_named_unlike_the_references_are_refused(dataset, tmp_path, capsys):
    for path in (dataset / "images").iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    options = [f"source.folder={dataset / 'images'}", f"references={dataset / 'labels'}"]

    code = main(["evaluate", "baseline=otsu", *options, f"paths.output={tmp_path / 'out'}"])

    assert code == 1
    assert (
        "source.folder: none of its 2 cases (first: other_case_000) is named like one of the 2 "
        "references (first: case_000); give image and reference of a case the same file name"
        in capsys.readouterr().err
    )


def test_a_case_that_cannot_be_predicted_gives_exit_code_3(dataset, tmp_path, capsys):
    (dataset / "images" / "case_001.nii.gz").write_bytes(b"no image")
    options = [f"source.folder={dataset / 'images'}", f"references={dataset / 'labels'}"]

    code = main(["evaluate", "baseline=multi_otsu", *options, f"paths.output={tmp_path / 'out'}"])

    assert code == 3
    assert "1 without a prediction" in capsys.readouterr().out
    assert {row["case"] for row in rows(tmp_path / "out" / "scores.csv")} == {"case_000"}


def test_several_bundles_are_scored_as_the_one_that_they_are_together(dataset, bundle, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(bundle, other)

    code = main(
        [
            "evaluate",
            f"bundle=[{bundle},{other}]",
            f"source.folder={dataset}",
            f"paths.output={out}",
        ]
    )

    assert code == 0
    assert json.loads((out / "scores.json").read_text())["model"]["name"] == (
        "Not trained/yet + Not trained/yet"
    )
    assert {row["case"] for row in rows(out / "scores.csv")} == {"case_000", "case_001"}
