"""ZIP archives beside other files: their members are indexed like files, within bounds."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import dicom_cases as cases
import pytest
from dicom_cases import SHAPE, save, save_all, slices
from pydicom.uid import generate_uid

from medseg.core.errors import InputError
from medseg.dicom import archives
from medseg.dicom.headers import index_folder
from medseg.dicom.volumes import read_dicom_volumes
from medseg.sources.dicom_folder import DicomFolder


def packed(folder: Path, archive: Path, *, inside: str = "study/series") -> Path:
    """An archive of a new series, the files themselves gone."""
    paths = save_all(slices(), folder / "to pack")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in paths:
            opened.write(path, f"{inside}/{path.name}")
            path.unlink()
    return archive


def test_archives_below_a_folder_are_read_beside_loose_files(tmp_path: Path) -> None:
    save_all(slices(), tmp_path / "in" / "loose")
    packed(tmp_path, tmp_path / "in" / "deep" / "one.ZIP")
    packed(tmp_path, tmp_path / "in" / "two", inside="a/b")

    index = index_folder(tmp_path / "in")

    assert [volume.geometry.shape for volume in index.volumes] == [SHAPE] * 3
    assert {str(volume.folder.relative_to(index.root)) for volume in index.volumes} == {
        "loose", "deep/one.ZIP/study/series", "two/a/b",
    }  # fmt: skip
    assert index.refused == ()


def test_cases_of_an_archive_are_named_after_it_and_can_be_read(tmp_path: Path) -> None:
    packed(tmp_path, tmp_path / "in" / "visit 2.zip")
    save_all(slices(), tmp_path / "in" / "loose")

    found = DicomFolder(str(tmp_path / "in")).cases()

    assert [case.key for case in found] == ["loose", "visit_2_study_series"]
    assert all(case.read_image().spatial_shape == SHAPE for case in found)


def test_a_dicomdir_tree_inside_an_archive_is_one_volume(tmp_path: Path) -> None:
    meta = cases.instance("1.2.840.10008.1.3.10", modality="")
    meta.FileSetID = "ETC"
    save(meta, tmp_path / "DICOMDIR")
    archive = packed(tmp_path, tmp_path / "in" / "disc.zip", inside="DICOM/ST0/SE0")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.write(tmp_path / "DICOMDIR", "DICOMDIR")

    index = index_folder(tmp_path / "in")

    assert len(index.volumes) == 1
    assert [(str(o.path.relative_to(index.root)), o.reason) for o in index.left_out] == [
        ("disc.zip/DICOMDIR", "is a DICOMDIR, not an image")
    ]


def test_a_series_packed_and_loose_counts_once(tmp_path: Path) -> None:
    paths = save_all(slices(), tmp_path / "series")
    with zipfile.ZipFile(tmp_path / "copy.zip", "w") as opened:
        for path in paths:
            opened.write(path, path.name)

    index = index_folder(tmp_path)

    assert len(index.volumes) == 1
    assert sum("is a copy of" in item.reason for item in index.left_out) == SHAPE[2]


def test_an_archive_in_an_archive_stays_packed_with_a_reason(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as inner:
        inner.writestr("zeros", bytes(64 << 20))
    outer = packed(tmp_path, tmp_path / "in" / "outer.zip")
    with zipfile.ZipFile(outer, "a") as opened:
        opened.writestr("nested.zip", bomb.getvalue())

    index = index_folder(tmp_path / "in")

    assert len(index.volumes) == 1
    assert [(item.path.name, item.reason) for item in index.left_out] == [
        ("nested.zip", "is a ZIP archive inside a ZIP archive, which stays packed")
    ]


@pytest.mark.parametrize("name", ["../../evil.dcm", "/tmp/evil.dcm", "C:/evil.dcm", "bomb"])
def test_a_hostile_archive_is_refused_and_the_others_are_read(name: str, tmp_path: Path) -> None:
    save_all(slices(), tmp_path / "in")
    hostile = tmp_path / "in" / "hostile.zip"
    with zipfile.ZipFile(hostile, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(name, bytes(64 << 20) if name == "bomb" else b"x")

    index = index_folder(tmp_path / "in")

    assert len(index.volumes) == 1
    assert [(error.code, error.where) for error in index.refused] == [("E_ARCHIVE", str(hostile))]
    assert not list(tmp_path.rglob("evil.dcm"))


def test_only_broken_archives_raise_their_error(tmp_path: Path) -> None:
    whole = bytearray(packed(tmp_path, tmp_path / "a.zip").read_bytes())
    whole[500:540] = bytes(40)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(whole)

    with pytest.raises(InputError, match="pack it again") as caught:
        read_dicom_volumes(tmp_path / "in")

    assert caught.value.code == "E_ARCHIVE"


def test_links_in_an_archive_are_left_out(tmp_path: Path) -> None:
    archive = packed(tmp_path, tmp_path / "in" / "a.zip")
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")

    index = index_folder(tmp_path / "in")

    assert [item.reason for item in index.left_out] == ["is a link in an archive"]


def test_all_archives_share_one_bound_of_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MAX_MEMBERS", SHAPE[2] + 3)
    for name in ("a.zip", "b.zip"):
        packed(tmp_path, tmp_path / "in" / name)

    index = index_folder(tmp_path / "in")

    assert len(index.volumes) == 1
    assert [error.what for error in index.refused] == ["holds 11 members, more than 3"]


def test_a_dicom_file_whose_preamble_looks_like_an_archive_is_dicom(tmp_path: Path) -> None:
    for path in save_all(slices(), tmp_path):
        whole = bytearray(path.read_bytes())
        whole[:4] = b"PK\x03\x04"
        path.write_bytes(bytes(whole))

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.spatial_shape == SHAPE


def test_messages_name_the_archive_and_not_the_temporary_folder(tmp_path: Path) -> None:
    datasets = slices()
    datasets[3].FrameOfReferenceUID = generate_uid()
    paths = save_all(datasets, tmp_path / "to pack")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for path in paths:
            opened.write(path, f"series/{path.name}")

    with pytest.raises(InputError) as caught:
        read_dicom_volumes(tmp_path / "a.zip")

    assert caught.value.where == f"{tmp_path}/a.zip/series (CT series)"
