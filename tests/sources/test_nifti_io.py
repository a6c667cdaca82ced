"""NIfTI: every odd file is read rightly, every wrong one refused with its code."""

import os
import random
import resource
import time
from pathlib import Path

import nibabel as nib
import nifti_made
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_refused import REFUSED
from nifti_valid import VALID

from medseg.core.errors import GeometryError, InputError
from medseg.core.volume import Volume
from medseg.sources.nifti_io import read_nifti, read_nifti_geometry
from medseg.sources.read_rules import ReadRules


@pytest.mark.parametrize("made", VALID, ids=lambda made: made.name)
def test_a_valid_file_gives_its_voxels_and_positions(made, tmp_path):
    path = made.write(tmp_path)

    volume = read_nifti(path, rules=ReadRules(**made.options))

    wanted = made.values if made.values.ndim == 4 else made.values[None]
    np.testing.assert_array_equal(volume.array, wanted)
    # Positions are float32 in NIfTI-1: 2e-5 mm at 200 mm; a half-turn quaternion is a little worse.
    np.testing.assert_allclose(volume.geometry.affine, made.affine, atol=2e-3)
    assert volume.array.dtype.isnative
    if made.dtype is not None:
        assert volume.array.dtype == np.dtype(made.dtype)
    if made.note:
        assert any(made.note in note for note in volume.notes), volume.notes
    else:
        assert volume.notes == ()


@pytest.mark.parametrize("made", REFUSED, ids=lambda made: made.name)
def test_a_wrong_file_is_refused_with_its_code(made, tmp_path):
    path = made.write(tmp_path)

    with pytest.raises(InputError) as caught:
        read_nifti(path)

    assert caught.value.code == made.code
    assert str(tmp_path) in caught.value.where
    assert caught.value.what
    assert caught.value.remedy


def test_there_are_over_a_hundred_kinds_with_unique_names():
    names = [made.name for made in (*VALID, *REFUSED)]

    assert len(names) > 100
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("orientation", phantoms.ALL_48_ORIENTATIONS)
def test_itk_finds_every_voxel_at_the_same_position(orientation, tmp_path):
    volume = phantoms.sphere(orientation=orientation)
    path = tmp_path / "a.nii.gz"
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[0].T))
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine
    image.SetOrigin(affine_lps[:3, 3])
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetDirection((affine_lps[:3, :3] / volume.geometry.spacing_mm).ravel())
    sitk.WriteImage(image, str(path))

    found = read_nifti(path)

    np.testing.assert_array_equal(found.array, volume.array)
    np.testing.assert_allclose(found.geometry.affine, volume.geometry.affine, atol=1e-3)
    assert phantoms.centre_of_mass_mm(found) == pytest.approx((10, -20, 30), abs=0.1)


def test_the_geometry_alone_needs_no_voxels(tmp_path):
    made = nifti_made.content(nifti_made.voxels(), sform=nifti_made.affine_of("PSR"))
    path = tmp_path / "a.nii"
    path.write_bytes(made[:352])

    geometry = read_nifti_geometry(path)

    assert geometry.shape == nifti_made.SHAPE
    assert geometry.orientation == "PSR"


def test_a_larger_file_is_read_when_the_limit_is_raised(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_made.content(nifti_made.voxels(), sform=nifti_made.affine_of()))

    with pytest.raises(InputError, match="the limit is 100; set max_bytes") as caught:
        read_nifti(path, rules=ReadRules(max_bytes=100))

    assert caught.value.code == "E_TOO_LARGE"
    assert read_nifti(path, rules=ReadRules(max_bytes=120)).array.size == 60


def test_a_missing_orientation_says_how_to_read_the_file_all_the_same(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_made.content(nifti_made.voxels()))

    with pytest.raises(GeometryError, match=r"a\.nii: sform_code and qform_code are 0.*") as caught:
        read_nifti(path)

    assert "allow_unknown_orientation=true" in caught.value.remedy


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "dangling link"])
def test_what_is_no_regular_file_is_refused_without_waiting(kind, tmp_path):
    path = tmp_path / "a.nii"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere.nii")

    with pytest.raises(InputError) as caught:
        read_nifti(path)

    assert caught.value.code in ("E_NO_FILE", "E_UNREADABLE")


def test_a_read_only_what_is_needed_of_a_large_announcement(tmp_path):
    """A gigabyte by the header in a file of a few bytes must not be allocated."""
    made = nifti_made.content(
        nifti_made.voxels(), sform=nifti_made.affine_of(), dim={1: 1000, 2: 1000, 3: 900}
    )
    path = tmp_path / "a.nii"
    path.write_bytes(made)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(InputError):
        read_nifti(path)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.real_data
def test_real_files_agree_with_nibabel(real_data):
    paths = [
        *sorted(real_data("spine_mr_sct").rglob("*.nii.gz")),
        *sorted(real_data("totalseg_example").glob("*.nii.gz")),
        *sorted(real_data("ivadomed_testing").rglob("*.nii.gz")),
        *sorted(real_data("Task04_Hippocampus").glob("*Tr/*.nii.gz"))[::10],
    ]

    for path in paths:
        volume, image = read_nifti(path), nib.load(path)
        values = np.asanyarray(image.dataobj)
        values = np.moveaxis(values, 3, 0) if values.ndim == 4 else values[None]
        np.testing.assert_array_equal(volume.array, values, err_msg=str(path))
        np.testing.assert_allclose(volume.geometry.affine, image.affine, atol=1e-4)

    assert len(paths) > 50


def _fuzz(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Reads `count` damaged files; returns how often each code, or "read", came out."""
    sources = [next(iter(made.files.items())) for made in VALID if len(made.files) == 1]
    rng = random.Random(seed)
    outcomes: dict[str, int] = {}
    for _ in range(count):
        name, intact = rng.choice(sources)
        damaged = bytearray(intact)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            action = rng.random()
            place = rng.randrange(min(len(damaged), 352) if rng.random() < 0.8 else len(damaged))
            if action < 0.5:
                damaged[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            elif action < 0.9:
                word = rng.choice(
                    (b"\xff" * 4, bytes(4), b"\0\0\xc0\x7f", b"\0\0\x80\x7f", rng.randbytes(4))
                )
                damaged[place : place + 4] = word
            elif action < 0.95:
                del damaged[place : place + rng.randrange(1, 64)]
            else:
                damaged[place:place] = rng.randbytes(rng.randrange(1, 64))
        path = folder / name
        path.unlink(missing_ok=True)  # truncating in place makes some file systems flush
        path.write_bytes(damaged)
        start = time.perf_counter()
        try:
            volume = read_nifti(path)
            assert isinstance(volume, Volume)
            outcome = "read"
        except InputError as error:
            outcome = error.code if error.remedy else "no remedy"
        assert time.perf_counter() - start < 5, damaged[:560].hex()
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def test_damaged_headers_raise_the_one_exception_type(tmp_path):
    outcomes = _fuzz(tmp_path, 600, seed=1)

    assert outcomes.pop("read") > 20
    assert len(outcomes) > 7
    assert all(code.startswith("E_") for code in outcomes)


@pytest.mark.slow
def test_twenty_thousand_damaged_headers_raise_the_one_exception_type(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    outcomes = _fuzz(tmp_path, 20_000, seed=2)

    assert sum(outcomes.values()) == 20_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512_000  # kB


def test_a_qform_near_a_half_turn_is_the_sform_that_it_was_made_of(tmp_path, caplog):
    """DICOM's axes are half a turn from NIfTI's: what float32 keeps of the quaternion leaves the
    angle open by a thousandth, 0.2 mm at the end of a large image.
    """
    turn = np.deg2rad(0.04)
    affine = np.diag([-0.8, -0.8, 2.0, 1.0])
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine = rotation @ affine
    path = tmp_path / "a.nii"
    array = nifti_made.voxels(shape=(400, 400, 4))
    path.write_bytes(nifti_made.content(array, sform=affine, qform=affine))

    read_nifti(path)

    assert "differ" not in caplog.text

    rotation[:2, :2] = [[np.cos(0.01), -np.sin(0.01)], [np.sin(0.01), np.cos(0.01)]]
    path.write_bytes(nifti_made.content(array, sform=affine, qform=rotation @ affine))
    read_nifti(path)
    assert "sform and qform differ" in caplog.text
