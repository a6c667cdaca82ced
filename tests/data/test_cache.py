import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learning_cases import block, block_cases, case_of, small_plan

from medseg.core.errors import InputError, OutputError
from medseg.core.identity import Case
from medseg.core.volume import Volume
from medseg.data import cache as cache_module
from medseg.data.cache import CaseCache


def prepare_and_sum(folder: Path, sums: "multiprocessing.Queue[float]") -> None:
    cases = [
        case_of(*block(n), key=f"case_{n}", paths=(folder / f"image_{n}.nii.gz",)) for n in range(6)
    ]
    cache = cache_of(folder)
    cache.prepare(cases)
    sums.put(sum(float(cache.get(case).image.sum(dtype=np.float64)) for case in cases))


def stored_case(folder: Path, *, number: int = 0) -> Case:
    """A case with one file, so that it is stored on disk."""
    path = folder / f"image_{number}.nii.gz"
    path.write_bytes(b"an image")
    return case_of(*block(number), key=f"case_{number}", paths=(path,))


def cache_of(folder: Path, **plan) -> CaseCache:
    return CaseCache(folder / "cache", plan=small_plan(**plan), num_classes=3)


def unreadable(case: Case) -> Case:
    """The same case, which fails if its image is read again."""
    return replace(case, read_image=lambda: pytest.fail("the image was read again"))


def test_a_case_is_prepared_once_for_all_runs(tmp_path):
    case = stored_case(tmp_path)

    made = cache_of(tmp_path).get(case)
    found = cache_of(tmp_path).get(unreadable(case))

    assert np.array_equal(found.image, made.image)
    assert np.array_equal(found.labels, made.labels)
    assert found.spacing_mm == made.spacing_mm == pytest.approx((1.0, 1.25, 2.0))
    assert found.image.dtype == np.float32
    assert found.labels.dtype == np.int16


def test_foreground_locations_are_voxels_of_their_class(tmp_path):
    prepared = cache_of(tmp_path).get(stored_case(tmp_path))

    for class_id, voxels in enumerate(prepared.locations, start=1):
        assert len(voxels) == (prepared.labels == class_id).sum()
        assert (prepared.labels[tuple(voxels.T)] == class_id).all()


def test_locations_of_large_classes_are_thinned_out_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "MAX_LOCATIONS", 20)

    prepared = cache_of(tmp_path).get(stored_case(tmp_path))

    voxels = prepared.locations[0]
    inside = np.argwhere(prepared.labels == 1)
    assert len(voxels) == 20
    assert voxels.min(0)[0] == inside.min(0)[0]
    assert voxels.max(0)[0] == inside.max(0)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (1.0, 1.0, 2.0)},
        {"orientation": "LPS"},
        {"normalisation": ({"kind": "scale_255"},)},
    ],
)
def test_another_plan_is_another_folder(tmp_path, change):
    case = stored_case(tmp_path)
    first = cache_of(tmp_path).get(case)

    second = cache_of(tmp_path, **change).get(case)

    assert not np.array_equal(first.image, second.image)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_plan_that_differs_in_the_patch_alone_shares_the_folder(tmp_path):
    case = stored_case(tmp_path)
    cache_of(tmp_path).get(case)

    cache_of(tmp_path, patch_size=(8, 8, 8), batch_size=5).get(unreadable(case))


def test_a_changed_file_is_prepared_anew(tmp_path):
    case = stored_case(tmp_path)
    cache_of(tmp_path).get(case)
    case.paths[0].write_bytes(b"another image")
    volume, _ = block(0)
    changed = replace(case, read_image=lambda: Volume(-volume.array, volume.geometry))

    found = cache_of(tmp_path).get(changed)

    assert float(found.image.flat[np.argmax(volume.array)]) < 0


def test_cases_without_files_stay_in_memory(tmp_path):
    (case,) = block_cases(1)
    cache = cache_of(tmp_path)

    cache.get(case)
    cache.get(unreadable(case))

    assert not (tmp_path / "cache").exists()


def test_cases_beyond_the_memory_are_read_from_disk_and_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "MEMORY_SHARE", 0.0)
    case = stored_case(tmp_path)
    cache = cache_of(tmp_path)
    before = np.array(cache.get(case).image)

    mapped = cache.get(unreadable(case)).image
    mapped[:] = 5.0

    assert isinstance(mapped, np.memmap)
    assert np.array_equal(cache.get(case).image, before)


@pytest.mark.parametrize("name", ["image.npy", "labels.npy", "locations.npz", "facts.json"])
@pytest.mark.parametrize("damage", ["empty", "cut off", "gone"])
def test_a_damaged_case_is_made_anew(tmp_path, name, damage, caplog):
    case = stored_case(tmp_path)
    before = np.array(cache_of(tmp_path).get(case).image)
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else file.stat().st_size // 2])

    found = cache_of(tmp_path).get(case)

    assert np.array_equal(found.image, before)
    assert "case case_0: the prepared case" in caplog.text
    cache_of(tmp_path).get(unreadable(case))


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)

    with pytest.raises(OutputError) as caught:
        cache_of(tmp_path).get(stored_case(tmp_path))

    assert caught.value.where == str(tmp_path / "cache")
    assert "No space left on device" in caught.value.what
    assert "paths.cache=<folder>" in caught.value.remedy
    assert list((tmp_path / "cache").iterdir()) == []


def test_errors_of_all_cases_are_told_together(tmp_path):
    def broken():
        raise InputError("image.nii.gz", "is cut off", "copy it again")

    cases = [replace(stored_case(tmp_path, number=n), read_image=broken) for n in range(3)]
    steps = []

    with pytest.raises(InputError) as caught:
        cache_of(tmp_path).prepare(cases, on_progress=lambda: steps.append(1))

    assert len(steps) == 3
    assert "3 cases cannot be prepared" in str(caught.value)
    assert "case case_2, image.nii.gz: is cut off; copy it again" in str(caught.value)


def test_a_file_that_vanished_is_named(tmp_path):
    case = stored_case(tmp_path)
    case.paths[0].unlink()

    with pytest.raises(InputError) as caught:
        cache_of(tmp_path).get(case)

    assert caught.value.where == str(case.paths[0])
    assert "cannot be read" in caught.value.what


def test_remains_of_killed_runs_are_swept_after_a_day(tmp_path):
    old, young = (tmp_path / "cache" / f".0123.{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "image.npy").write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)

    cache_of(tmp_path).prepare([stored_case(tmp_path)])

    assert not old.exists()
    assert young.exists()


def test_two_processes_can_prepare_the_same_cases_at_once(tmp_path):
    for n in range(6):
        stored_case(tmp_path, number=n)
    context = multiprocessing.get_context("fork")
    sums = context.Queue()

    processes = [context.Process(target=prepare_and_sum, args=(tmp_path, sums)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [sums.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    assert found[0] == found[1]
    assert len(list((tmp_path / "cache").iterdir())) == 6
