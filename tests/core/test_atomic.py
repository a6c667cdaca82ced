"""Files appear whole or not at all."""

import pytest

from medseg.core.atomic import atomic_path, write_bytes, write_text
from medseg.core.errors import OutputError


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "scores.json"

    with atomic_path(path) as unfinished:
        unfinished.write_text("half")
        appeared_early = path.exists()

    assert not appeared_early
    assert path.read_text() == "half"
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.json"]


def test_the_temporary_name_keeps_the_extension_and_the_folder(tmp_path):
    with atomic_path(tmp_path / "case.nii.gz") as unfinished:
        unfinished.write_bytes(b"x")

        assert unfinished.parent == tmp_path
        assert unfinished.name.endswith(".nii.gz")


def test_an_error_leaves_the_old_content_and_no_temporary_file(tmp_path):
    path = tmp_path / "card.yaml"
    write_text(path, "old")

    with pytest.raises(RuntimeError, match="killed"):
        _write_and_fail(path)

    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["card.yaml"]


def test_text_is_written_as_utf8_with_its_own_line_ends(tmp_path):
    write_text(tmp_path / "notes.txt", "Größe\r\n")

    assert (tmp_path / "notes.txt").read_bytes() == "Größe\r\n".encode()


def test_a_folder_that_is_a_file_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "out").write_text("I am a file")

    with pytest.raises(
        OutputError, match=r"out/case\.bin: cannot be written .*; check the folder"
    ) as caught:
        write_bytes(tmp_path / "out" / "case.bin", b"x")

    assert caught.value.code == "E_OUTPUT"


def test_an_error_about_another_file_is_passed_on_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.bin"), atomic_path(tmp_path / "a"):
        (tmp_path / "missing.bin").read_bytes()


def _write_and_fail(path):
    with atomic_path(path) as unfinished:
        unfinished.write_text("new")
        raise RuntimeError("killed")
