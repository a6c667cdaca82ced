"""What the doctor says of a folder of DICOM studies."""

from __future__ import annotations

import dicom_objects
import numpy as np
import pydicom

from medseg.cli.data_report import source_findings
from medseg.cli.findings import Severity
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.sources.folder import Folder
from medseg.writers.dicom_seg import write_dicom_seg

GRID = dicom_objects.oblique_geometry((9, 8, 5))


def findings_of(folder):
    return source_findings(Folder(str(folder)), folder, labels=None)


def series(folder, key):
    """A series of noise, so that no image is empty or like another."""

    def noise(dataset, number):
        rng = np.random.default_rng([len(key), ord(key[0]), number])
        dataset.PixelData = rng.integers(0, 99, (dataset.Rows, dataset.Columns), "<u2").tobytes()

    return dicom_objects.series_case(folder / key, GRID, key=key, edit=noise)


def draw(case, grid, path, name="liver"):
    array = np.zeros(grid.shape, np.uint8)
    array[2:5, 2:5, 2] = 1
    result = LabelMap(array, grid, LabelSet.from_names(["background", name]))
    return write_dicom_seg(result, case, path)


def test_segmentations_are_counted_and_series_without_one_are_no_fault(tmp_path):
    for key in ("a", "b"):
        case, grid = series(tmp_path, key)
        draw(case, grid, tmp_path / f"{key}.dcm")
    series(tmp_path, "c")

    findings = findings_of(tmp_path)

    told = {finding.subject: finding.text for finding in findings}
    assert told["cases"].endswith("2 with a reference, 0 held out")
    assert told["labels"] == "background, liver"
    assert told["1 series"] == "have no segmentation object; training leaves them out"
    assert told["2 files"].startswith("segmentations drawn on a series here; data.labels=dicom_seg")
    assert [f for f in findings if f.severity is Severity.PROBLEM] == []


def test_a_segmentation_without_its_series_is_named_with_the_reason(tmp_path):
    for key in ("a", "b"):
        case, grid = series(tmp_path / "in", key)
        draw(case, grid, tmp_path / "in" / f"{key}.dcm")
    lost, grid = series(tmp_path / "elsewhere", "d")
    draw(lost, grid, tmp_path / "in" / "d.dcm")

    (note,) = [f for f in findings_of(tmp_path / "in") if "that refers" in f.text]

    assert note.subject == "1 file"
    assert note.text == (
        "left out: a segmentation that refers to a series that is not here or cannot be read"
    )


def test_dicom_files_that_are_named_img_are_no_halves_of_a_pair(tmp_path):
    case, _ = series(tmp_path, "a")
    for path in case.series.paths:
        path.rename(path.with_suffix(".img"))

    findings = findings_of(tmp_path)

    assert [f for f in findings if f.severity is Severity.PROBLEM] == []
    assert any("5 files" in finding.text for finding in findings)


def renumbered(folder):
    """Two series whose anonymiser gave each image a frame of reference of its own."""
    for key in ("a", "b"):
        series(folder, key)
        for path in (folder / key).iterdir():
            ds = pydicom.dcmread(path)
            ds.FrameOfReferenceUID = pydicom.uid.generate_uid()
            ds.save_as(path)


def test_renumbered_frames_of_reference_are_told_once_per_series_with_the_option(tmp_path):
    renumbered(tmp_path)

    findings = findings_of(tmp_path)

    assert [f.subject for f in findings] == ["a (CT series)", "b (CT series)"]
    assert all("a frame of reference of its own" in f.text for f in findings)
    assert all("set trust_positions=true" in f.text for f in findings)


def test_trusted_positions_are_trusted_in_the_list_of_series_too(tmp_path):
    renumbered(tmp_path)

    findings = source_findings(Folder(str(tmp_path), trust_positions=True), tmp_path, labels=None)

    assert [f for f in findings if f.severity is Severity.PROBLEM] == []
    assert {"a", "b"} <= {f.subject for f in findings}


def test_a_fault_that_refuses_several_series_is_told_once(tmp_path):
    for key in ("a", "b"):
        case, _ = series(tmp_path, key)
        for number, path in enumerate(case.series.paths):
            path.rename(tmp_path / f"{key}{number}.dcm")
    (tmp_path / "broken.dcm").write_bytes(b"no dicom at all" * 40)

    faults = [f for f in findings_of(tmp_path) if f.subject == "broken.dcm"]

    assert len(faults) == 1
    assert faults[0].text.endswith("(refuses 2 series)")


def test_a_fault_of_the_whole_tree_is_named_without_the_path_to_it(tmp_path):
    case, _ = series(tmp_path, "a")
    case.series.paths[2].unlink()
    for path in case.series.paths[:2]:
        path.rename(tmp_path / path.name)

    subjects = [f.subject for f in findings_of(tmp_path) if "slice missing" in f.text]

    assert "(CT series)" in subjects
