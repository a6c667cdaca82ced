from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pydicom
import pytest
from service_cases import CANARY, ct_study

from medseg.core.errors import InputError
from medseg.dicom.volumes import read_dicom_volumes
from medseg.services.reader import Reader, ReadLimits


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    for name, number in (("good", 0), (f"{CANARY}^NAME001", 1)):
        ct_study(root / name, number)
    return root


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    made = Reader(limits=ReadLimits(), folder=tmp_path_factory.mktemp("work"), options={})
    yield made
    made.close()


def index(reader, path, root):
    return reader.index(path, root=root, is_loose=False, keep=root.parent / "kept")


def test_a_series_is_named_after_its_folder_and_described_for_rules(reader, studies):
    ((series,), refused) = index(reader, studies / "good", studies)

    assert refused == []
    assert series.key == "good"
    assert series.facts["modality"] == "CT"
    assert series.facts["slice_thickness_mm"] == pytest.approx(2.0)
    assert series.facts["num_slices"] == 12


def test_a_folder_called_like_the_patient_gives_no_name(reader, studies):
    ((series,), _) = index(reader, studies / f"{CANARY}^NAME001", studies)

    assert CANARY not in series.key
    assert series.key.startswith("series_")


def test_the_voxels_are_those_that_reading_here_gives(reader, studies):
    ((series,), _) = index(reader, studies / "good", studies)

    volume = reader.read(series.series, where="good")

    (expected,) = read_dicom_volumes(studies / "good")
    assert (volume.array == expected.array).all()
    assert volume.array.dtype == expected.array.dtype
    assert np.allclose(volume.geometry.affine, expected.geometry.affine)
    assert volume.modality == "CT"


def test_what_is_refused_says_nothing_of_the_patient(reader, studies, tmp_path):
    shutil.copytree(studies / "good", tmp_path / "in" / "gap")
    paths = sorted((tmp_path / "in" / "gap").rglob("*.dcm"))
    paths[5].unlink()
    paths[3].rename(paths[3].with_name(f"{CANARY}-ID000.dcm"))
    (tmp_path / "in" / "gap" / f"{CANARY}-ID000 .dcm").write_bytes(b"no dicom")

    found, refused = index(reader, tmp_path / "in" / "gap", tmp_path / "in")

    assert found == []
    assert refused
    assert CANARY not in " ".join(item.sentence for item in refused)


def test_the_members_of_an_archive_stay_until_they_are_read(reader, studies, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "in" / "packed"), "zip", studies / "good")
    ((series,), _) = reader.index(
        tmp_path / "in" / "packed.zip", root=tmp_path / "in", is_loose=False, keep=tmp_path / "kept"
    )

    assert series.key == "packed"
    assert all(path.is_relative_to(tmp_path / "kept") for path in series.series.paths)
    os.remove(archive)  # noqa: PTH107
    assert reader.read(series.series, where="packed").spatial_shape[2] == 12


def test_the_same_images_have_one_identity_wherever_they_lie(reader, studies, tmp_path):
    shutil.copytree(studies / "good", tmp_path / "in" / "copy")
    ((first,), _) = index(reader, studies / "good", studies)
    ((again,), _) = index(reader, tmp_path / "in" / "copy", tmp_path / "in")
    path = sorted((tmp_path / "in" / "copy").rglob("*.dcm"))[0]
    header = pydicom.dcmread(path)
    header.PixelData = bytes(len(header.PixelData))
    header.save_as(path)
    ((changed,), _) = index(reader, tmp_path / "in" / "copy", tmp_path / "in")

    assert first.identity == again.identity
    assert changed.identity != first.identity


def test_a_child_that_was_killed_or_takes_too_long_is_started_anew(studies, tmp_path):
    reader = Reader(limits=ReadLimits(), folder=tmp_path, options={})
    index(reader, studies / "good", studies)
    child = reader._process
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    index(reader, studies / "good", studies)
    assert reader._process.pid != child.pid

    reader.limits = ReadLimits(seconds=1e-6, seconds_per_gb=0.0)
    with pytest.raises(InputError) as caught:
        index(reader, studies / "good", studies)

    assert caught.value.code == "E_READER_TIME"
    assert reader._process is None


def test_a_study_that_needs_too_much_memory_is_refused(tmp_path):
    (path, *others) = ct_study(tmp_path / "in" / "large", 0)
    for other in others:
        other.unlink()
    header = pydicom.dcmread(path)
    header.Rows = header.Columns = 9000
    header.PixelData = bytes(2 * 9000**2)
    header.save_as(path)
    reader = Reader(limits=ReadLimits(memory_gb=0.5), folder=tmp_path / "work", options={})

    ((series,), _) = index(reader, tmp_path / "in" / "large", tmp_path / "in")
    with pytest.raises(InputError) as caught:
        reader.read(series.series, where="large")
    reader.close()

    # The second is what reading says of a MemoryError that it meets itself.
    assert caught.value.code in ("E_READER_MEMORY", "E_TOO_LARGE")
