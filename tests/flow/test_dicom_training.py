"""A hospital's own DICOM studies, with the SEG objects drawn on them, train without conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import phantoms
import pydicom
import pytest
import yaml
from dicom_objects import case_of
from service_cases import CANARY

from medseg.bundle import ModelBundle
from medseg.cli.commands import main
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.writers.dicom_seg import write_dicom_seg
from medseg.writers.rtstruct import write_rtstruct

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three CT studies, each with a SEG of liver and tumour and an RTSTRUCT of the body."""
    root = tmp_path_factory.mktemp("pacs")
    labels = LabelSet.from_names(["background", "Liver", "Tumour"])
    for n in range(3):
        reference = phantoms.labelled_boxes(orientation="LPS", centre_mm=(10.0 + 3 * n, -20, 30))
        paths = phantoms.dicom_series(
            root / f"study_{n}" / "series",
            phantoms.ct_of(reference, seed=n),
            case_key=f"study_{n}",
            seed=n,
        )
        for path in paths:
            header = pydicom.dcmread(path)
            header.PatientName = f"{CANARY}^NAME{n}"
            header.PatientID = header.AccessionNumber = header.StudyID = f"{CANARY}-ID{n}"
            header.save_as(path)
        case = case_of(paths)
        drawn = LabelMap(reference.array, reference.geometry, labels)
        write_dicom_seg(drawn, case, root / f"study_{n}" / "seg.dcm")
        body = np.zeros_like(reference.array)
        body[2:-2, 2:-2] = 1
        outline = LabelMap(body, reference.geometry, LabelSet.from_names(["background", "BODY"]))
        write_rtstruct(outline, case, root / f"study_{n}" / "rtstruct.dcm")
    return root


def train(studies: Path, folder: Path, *options: str, logger: str = "none") -> Path:
    """Trains for two steps; returns the bundle."""
    code = main(
        [
            "train", *options, f"data.source.folder={studies}", "data.modality=CT",
            "data.num_folds=3", "trainer=cpu", "trainer.max_epochs=1", "loader.steps_per_epoch=2",
            "name=hospital", "plan.patch_size=[16,16,8]", "plan.base_channels=4",
            "plan.batch_size=2", "augment=none", f"paths.runs={folder / 'runs'}",
            f"paths.cache={folder / 'cache'}", f"logger={logger}",
        ]
    )  # fmt: skip
    assert code == 0
    return folder / "runs" / "hospital" / "fold_0" / "bundle"


def test_segmentation_objects_of_a_dicom_tree_train_a_network(
    studies, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(tmp_path)

    bundle = train(studies, tmp_path, "data=folder", "data.labels=dicom_seg", logger="tensorboard")

    assert ModelBundle.load(bundle).labels.names == ("background", "liver", "tumour")
    assert (bundle.parent / "run.html").is_file()
    split = yaml.safe_load((bundle.parent / "split.yaml").read_text())
    assert sorted([*split["train"], *split["validation"]]) == [
        f"study_{n}_series" for n in range(3)
    ]
    # No patient is named by what training leaves behind: events of TensorBoard, plots, logs, cache.
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in left)
    for path in left:
        assert CANARY not in str(path.relative_to(tmp_path))
        # Only DICOM results name the patient, as the images do.
        assert path.suffix == ".dcm" or CANARY.encode() not in path.read_bytes(), path.name
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err + caplog.text


def test_structure_sets_train_a_network_under_the_names_wanted(studies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    bundle = train(studies, tmp_path, "data=dicom", "data.labels={background: 0, body: 1}")

    assert ModelBundle.load(bundle).labels.names == ("background", "body")
