"""Segmentation objects in a tree of DICOM studies become the references of their series."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import dicom_objects
import numpy as np
import pydicom
import pytest

from medseg.core.errors import ConfigError, InputError, LabelError
from medseg.core.labels import CodedConcept, Label, LabelSet
from medseg.core.segmentation import LabelMap
from medseg.data.spec import DatasetSpec
from medseg.sources.dicom_folder import DicomFolder
from medseg.sources.folder import Folder
from medseg.sources.phantom import FolderOrPhantoms
from medseg.writers.dicom_seg import write_dicom_seg
from medseg.writers.rtstruct import write_rtstruct

GRID = dicom_objects.oblique_geometry((19, 18, 6))
ANATOMY = CodedConcept("123037004", "SCT", "Anatomical Structure")
CODES = {
    "liver": CodedConcept("10200004", "SCT", "Liver"),
    "spleen": CodedConcept("78961009", "SCT", "Spleen"),
    "tumour": CodedConcept("108369006", "SCT", "Neoplasm"),
}


def study(root: Path, key: str, names: list[str], *, codes=CODES, kind="seg", file="", at=2):
    """A CT series with a SEG (or RTSTRUCT) of boxes, one per name; returns (case, label map)."""
    folder = root / key / "ct"
    if folder.is_dir():
        case, grid = dicom_objects.case_of(sorted(folder.iterdir()), key), None
        grid = dicom_objects.series_geometry(GRID)
    else:
        case, grid = dicom_objects.series_case(folder, GRID, key=key)
    array = np.zeros(grid.shape, np.uint8)
    for n in range(1, len(names) + 1):
        array[at * n : at * n + 6, 3 + n : 12, 1 : 3 + n] = n
    labels = [Label("background", 0)]
    for n, name in enumerate(names, start=1):
        labels.append(Label(name, n, ANATOMY, codes.get(name.lower(), CODES["liver"])))
    label_map = LabelMap(array, grid, LabelSet(tuple(labels)))
    write = write_rtstruct if kind == "rtstruct" else write_dicom_seg
    write(label_map, case, root / key / (file or f"{kind}.dcm"))
    return case, label_map


def spec(root: Path, labels, source=None) -> DatasetSpec:
    return DatasetSpec(name="x", source=source or DicomFolder(str(root)), labels=labels)


def test_labels_are_the_names_of_all_segments_in_alphabetical_order(tmp_path):
    study(tmp_path, "a", ["Spleen", "Liver"])
    study(tmp_path, "b", ["liver", "Tumour"])

    labels = spec(tmp_path, "dicom_seg").label_set()

    assert labels.names == ("background", "liver", "spleen", "tumour")
    assert labels["spleen"].type == CODES["spleen"]
    assert labels["liver"].category == ANATOMY


def test_references_carry_the_common_numbers_on_the_grid_of_the_image(tmp_path):
    _, first = study(tmp_path, "a", ["Spleen", "Liver"])
    _, second = study(tmp_path, "b", ["liver", "Tumour"])

    cases = spec(tmp_path, "dicom_seg").labelled_cases()

    assert [case.key for case in cases] == ["a_ct", "b_ct"]
    references = [pickle.loads(pickle.dumps(case)).read_reference() for case in cases]
    np.testing.assert_array_equal(references[0].array, np.array([0, 2, 1])[first.array])
    np.testing.assert_array_equal(references[1].array, np.array([0, 1, 3])[second.array])
    for case, reference in zip(cases, references, strict=True):
        assert reference.geometry.difference(case.read_image().geometry) is None
        assert reference.labels.names == ("background", "liver", "spleen", "tumour")


def test_the_files_of_a_reference_and_the_options_decide_what_is_cached(tmp_path):
    for key in "ab":
        study(tmp_path, key, ["liver", "tumour"])

    by_kind = spec(tmp_path, "dicom_seg").labelled_cases()[0]
    turned = spec(tmp_path, {"background": 0, "tumour": 1, "liver": 2}).labelled_cases()[0]

    assert tmp_path / "a" / "seg.dcm" in by_kind.paths
    assert by_kind.reading != turned.reading


def test_structure_sets_are_chosen_by_rtstruct(tmp_path):
    _, drawn = study(tmp_path, "a", ["liver"], kind="rtstruct")
    study(tmp_path, "a", ["spleen"], kind="seg")
    study(tmp_path, "b", ["liver"], kind="rtstruct")
    chosen = spec(tmp_path, "rtstruct")

    reference = chosen.labelled_cases()[0].read_reference()

    assert chosen.label_set().names == ("background", "liver")
    np.testing.assert_array_equal(reference.array, drawn.array)


def test_a_mapping_picks_segments_by_name_whatever_their_case(tmp_path, caplog):
    _, first = study(tmp_path, "a", ["LEFT Kidney", "Body"])
    study(tmp_path, "b", ["left_kidney"])
    study(tmp_path, "c", ["Body"])
    chosen = spec(tmp_path, {"background": 0, "left kidney": 1})

    cases = chosen.labelled_cases()

    # A series whose objects have none of the wanted segments was not annotated for this.
    assert [case.key for case in cases] == ["a_ct", "b_ct"]
    np.testing.assert_array_equal(cases[0].read_reference().array, first.array == 1)
    assert "1 images have no label and are left out: c_ct" in caplog.text


def test_names_that_no_segment_has_are_refused_with_the_nearest(tmp_path):
    for key in "ab":
        study(tmp_path, key, ["Liver", "Tumour"])

    with pytest.raises(LabelError) as caught:
        spec(tmp_path, {"background": 0, "lever": 1, "tumour": 2}).labelled_cases()

    assert caught.value.where == "data.labels.lever"
    assert "no segmentation has a segment of this name" in caught.value.what
    assert caught.value.remedy == "did you mean 'Liver'?"


def test_one_name_with_two_codes_is_refused_with_both(tmp_path):
    study(tmp_path, "a", ["lesion"], codes={"lesion": CODES["tumour"]})
    study(tmp_path, "b", ["Lesion"], codes={"lesion": CODES["spleen"]})

    with pytest.raises(LabelError) as caught:
        spec(tmp_path, "dicom_seg").label_set()

    assert caught.value.code == "E_LABEL_CONFLICT"
    assert "1 names stand for different things" in caught.value.what
    assert "108369006 SCT (Neoplasm) in a/seg.dcm" in caught.value.what
    assert "78961009 SCT (Spleen) in b/seg.dcm" in caught.value.what
    assert "data.labels={background: 0, liver: 1}" in caught.value.remedy
    assert spec(tmp_path, {"background": 0, "lesion": 1}).labelled_cases()


def test_retired_snomed_codes_are_those_of_today(tmp_path):
    study(tmp_path, "a", ["liver"], codes={"liver": CodedConcept("T-62000", "SRT", "Liver")})
    study(tmp_path, "b", ["liver"])

    assert spec(tmp_path, "dicom_seg").label_set().names == ("background", "liver")


def test_several_files_of_one_series_are_combined_if_they_hold_different_segments(tmp_path):
    _, liver = study(tmp_path, "a", ["liver"], file="one.dcm")
    _, spleen = study(tmp_path, "a", ["spleen"], file="two.dcm", at=9)
    study(tmp_path, "b", ["liver"])

    reference = spec(tmp_path, "dicom_seg").labelled_cases()[0].read_reference()

    expected = np.where(spleen.array > 0, 2, liver.array)
    np.testing.assert_array_equal(reference.array, expected)


def test_two_files_with_the_same_segment_are_refused_by_name(tmp_path):
    study(tmp_path, "a", ["liver"], file="monday.dcm")
    study(tmp_path, "a", ["Liver"], file="tuesday.dcm", at=3)
    study(tmp_path, "b", ["liver"])

    with pytest.raises(InputError) as caught:
        spec(tmp_path, "dicom_seg").labelled_cases()

    assert caught.value.code == "E_AMBIGUOUS_LABEL"
    assert caught.value.where == "a/monday.dcm, a/tuesday.dcm"
    assert "were drawn on one series" in caught.value.what
    assert "have the segments liver" in caught.value.what
    assert "keep the right file" in caught.value.remedy


def test_a_copy_of_a_file_counts_once(tmp_path):
    study(tmp_path, "a", ["liver"])
    study(tmp_path, "b", ["liver"])
    shutil.copy(tmp_path / "a" / "seg.dcm", tmp_path / "copy.dcm")

    assert len(spec(tmp_path, "dicom_seg").labelled_cases()) == 2


def test_overlapping_segments_are_refused_unless_an_order_is_given(tmp_path):
    _, liver = study(tmp_path, "a", ["liver"], file="one.dcm")
    _, tumour = study(tmp_path, "a", ["tumour"], file="two.dcm", at=4)
    study(tmp_path, "b", ["liver"])
    last = DicomFolder(str(tmp_path), on_overlap="last")

    with pytest.raises(LabelError) as caught:
        spec(tmp_path, "dicom_seg").labelled_cases()[0].read_reference()
    reference = spec(tmp_path, "dicom_seg", last).labelled_cases()[0].read_reference()

    assert caught.value.code == "E_OVERLAP"
    assert "voxels belong to both 'liver' and 'tumour'" in caught.value.what
    assert "data.source.on_overlap=smallest" in caught.value.remedy
    expected = np.where(tumour.array > 0, 2, liver.array)
    np.testing.assert_array_equal(reference.array, expected)


def test_instances_of_one_name_become_one_class(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "a" / "ct", GRID, key="a")
    array = np.zeros(grid.shape, np.uint8)
    array[2:5, 2:5, 2], array[9:12, 2:5, 2] = 1, 2
    labels = LabelSet((Label("background", 0), Label("lesion", 1), Label("other", 2)))
    path = write_dicom_seg(LabelMap(array, grid, labels), case, tmp_path / "a" / "seg.dcm")
    dataset = pydicom.dcmread(path)
    dataset.SegmentSequence[1].SegmentLabel = "lesion"
    dataset.SegmentSequence[1].SegmentedPropertyTypeCodeSequence = dataset.SegmentSequence[
        0
    ].SegmentedPropertyTypeCodeSequence
    dataset.save_as(path)
    study(tmp_path, "b", ["lesion"], codes={"lesion": _type_of(dataset)})

    reference = spec(tmp_path, "dicom_seg").labelled_cases()[0].read_reference()

    np.testing.assert_array_equal(reference.array, array > 0)


def _type_of(dataset):
    code = dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    return CodedConcept(code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning)


def test_phases_of_one_series_are_told_apart_by_their_images(tmp_path):
    folder = tmp_path / "a" / "ct"
    cases = []
    for phase in (1, 2):

        def edit(dataset, number, phase=phase):
            dataset.AcquisitionNumber = phase
            dataset.SeriesInstanceUID = "1.2.3.4"
            dataset.StudyInstanceUID = "1.2.3"
            dataset.FrameOfReferenceUID = "1.2.3.5"
            dataset.PatientID = dataset.PatientName = "P"

        case, grid = dicom_objects.series_case(
            folder / str(phase), GRID, key=f"p{phase}", edit=edit
        )
        cases.append(case)
    array = np.zeros(grid.shape, np.uint8)
    array[3:8, 3:8, 2] = 1
    labels = LabelSet.from_names(["background", "liver"])
    write_dicom_seg(LabelMap(array, grid, labels), cases[1], tmp_path / "seg.dcm")

    found = DicomFolder(str(tmp_path)).cases()

    labelled = [case for case in found if case.read_reference is not None]
    assert len(found) == 2
    assert [case.series.paths for case in labelled] == [cases[1].series.paths]


def test_the_reference_of_a_leaning_series_lies_on_the_grid_of_its_image(tmp_path):
    grid = dicom_objects.oblique_geometry((24, 22, 8))
    for key in "ab":
        case, sheared = dicom_objects.tilted_case(tmp_path / key / "ct", grid)
        array = np.zeros(sheared.shape, np.uint8)
        array[6:14, 7:15, 2:6] = 1
        labels = LabelSet.from_names(["background", "liver"])
        write_dicom_seg(LabelMap(array, sheared, labels), case, tmp_path / key / "seg.dcm")

    for on_tilt in ("resample", "keep"):
        source = DicomFolder(str(tmp_path), on_tilt=on_tilt)
        case = source.labelled_by("dicom_seg").cases()[0]
        reference, image = case.read_reference(), case.read_image()
        assert reference.geometry.difference(image.geometry, tolerance_mm=0.01) is None


def test_an_object_without_its_series_is_left_out_and_named(tmp_path, caplog):
    for key in "abc":
        study(tmp_path, key, ["liver"])
    shutil.rmtree(tmp_path / "c" / "ct")
    (tmp_path / "c" / "seg.dcm").rename(tmp_path / "lost.dcm")

    chosen = spec(tmp_path, "dicom_seg")

    assert len(chosen.labelled_cases()) == 2
    assert "lost.dcm is left out: it refers to a series that is not here" in caplog.text


def test_without_references_of_that_kind_training_says_so(tmp_path):
    study(tmp_path, "a", ["liver"])

    with pytest.raises(InputError) as caught:
        spec(tmp_path, "rtstruct").label_set()

    assert caught.value.where == "data.labels"
    assert "is rtstruct, but no series has such an object" in caught.value.what
    assert "python -m medseg doctor" in caught.value.remedy


def test_prediction_does_not_mind_references_that_contradict_each_other(tmp_path):
    study(tmp_path, "a", ["lesion"], codes={"lesion": CODES["tumour"]})
    study(tmp_path, "b", ["lesion"], codes={"lesion": CODES["spleen"]})

    source = DicomFolder(str(tmp_path))

    assert [case.read_image().num_channels for case in source.cases()] == [1, 1]
    assert source.describe().labels is None
    with pytest.raises(LabelError, match="stand for different things"):
        source.cases()[0].read_reference()


@pytest.mark.parametrize("source_class", [Folder, FolderOrPhantoms])
def test_sources_that_recognise_a_folder_pass_the_labels_on(tmp_path, source_class):
    for key in "ab":
        study(tmp_path, key, ["Liver"])
    source = source_class(str(tmp_path))

    chosen = spec(tmp_path, "dicom_seg", source)
    named = spec(tmp_path, {"background": 0, "LIVER": 1}, source)

    assert chosen.label_set().names == ("background", "liver")
    assert len(chosen.labelled_cases()) == len(named.labelled_cases()) == 2


def test_the_kind_of_object_must_fit_the_source(tmp_path):
    (tmp_path / "image.png").write_bytes(b"")

    with pytest.raises(LabelError, match="holds no DICOM"):
        spec(tmp_path, "dicom_seg", Folder(str(tmp_path))).label_set()
    with pytest.raises(LabelError, match="phantoms have labels of their own"):
        spec(tmp_path, "dicom_seg", FolderOrPhantoms()).label_set()
    with pytest.raises(ConfigError, match=r"data\.labels: is 'seg'.* use dicom_seg or rtstruct"):
        spec(tmp_path, "seg")


def test_options_are_checked():
    with pytest.raises(InputError, match=r"source\.on_overlap: is 'mix'"):
        DicomFolder("x", on_overlap="mix")
