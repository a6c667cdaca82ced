"""Mutated files: whatever happens to the bytes, the only error is InputError, soon and in bounded
memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import dicom_cases as cases
import numpy as np
import pydicom
import pytest
from dicom_cases import slices
from pydicom.dataset import Dataset

from medseg.core.errors import InputError
from medseg.dicom.volumes import read_dicom_volumes

# One mutated file may take this long; the limit of the service is 5 s.
_MAX_SECONDS = 5.0
_MAX_RSS_GROWTH = 512 << 20


def _bytes_of(ds: Dataset) -> bytes:
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def seeds() -> list[bytes]:
    """One file each: classic, implicit, big endian, deflated, RLE, JPEG-LS, PET, enhanced CT and
    MR.
    """
    shape = (19, 18, 1)
    result = []
    for syntax in (
        "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80",
    ):  # fmt: skip
        ds = slices(shape=shape, step_lps=np.array([0, 0, 2.5]))[0]
        if syntax in ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"):
            ds.compress(syntax, generate_instance_uid=False)
        elif syntax == "1.2.840.10008.1.2.2":
            cases.to_big_endian(ds)
        else:
            ds.file_meta.TransferSyntaxUID = syntax
        result.append(_bytes_of(ds))
    wide = slices(shape=(40, 36, 1), step_lps=np.array([0, 0, 2.5]))[0]
    wide.compress("1.2.840.10008.1.2.4.90", generate_instance_uid=False)
    result.append(_bytes_of(wide))
    result.append(_bytes_of(slices(shape=shape, sop_class=cases.PET, modality="PT")[0]))
    result.append(_bytes_of(cases.enhanced()))
    result.append(_bytes_of(cases.enhanced(sop_class=cases.ENHANCED_MR, modality="MR", times=2)))
    return result


def mutate(whole: bytes, rng: np.random.Generator) -> bytes:
    """A few changes: bits, bytes, lengths, cuts, repeats; most of them in the first kilobytes."""
    changed = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        limit = len(changed) if rng.random() < 0.3 else min(len(changed), 2500)
        if limit < 200:
            break
        at = int(rng.integers(128, limit))
        kind = rng.integers(0, 8)
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            changed[at] = int(rng.integers(0, 256))
        elif kind == 2:
            changed[at : at + 2] = int(rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x8000])).to_bytes(
                2, "little"
            )
        elif kind == 3:
            changed[at : at + 4] = int(
                rng.choice([0, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x10000000])
            ).to_bytes(4, "little")
        elif kind == 4:
            del changed[at : at + int(rng.integers(1, 40))]
        elif kind == 5:
            piece = changed[at : at + int(rng.integers(1, 200))]
            changed[at:at] = piece
        elif kind == 6:
            changed[at:at] = rng.bytes(int(rng.integers(1, 40)))
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def _outcome(path: Path) -> str:
    try:
        read_dicom_volumes(path)
    except InputError as error:
        return error.code if error.what else "without words"
    return "read"


def run(
    tmp_path: Path, count: int, *, seed: int, clock: Callable[[], float] = time.monotonic
) -> dict[str, int]:
    """Reads `count` mutants; returns how many were read and how many refused, by code.

    The clock is what may not pass 5 s: `time.process_time` where other work fills the machine.
    """
    rng = np.random.default_rng(seed)
    originals = seeds()
    outcomes: dict[str, int] = {}
    path = tmp_path / "mutant.dcm"
    for whole in originals:  # starts the decoding child
        path.write_bytes(whole)
        read_dicom_volumes(path)
    for n in range(count):
        path.write_bytes(mutate(originals[n % len(originals)], rng))
        start = clock()
        try:
            outcome = _outcome(path)
        except Exception:
            kept = os.environ.get("MEDSEG_FUZZ_KEEP")
            if kept:
                (Path(kept) / f"mutant_{seed}_{n}.dcm").write_bytes(path.read_bytes())
            raise
        assert clock() - start < _MAX_SECONDS, f"mutant {n} of seed {seed}"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def test_unchanged_seeds_are_read(tmp_path: Path) -> None:
    for n, whole in enumerate(seeds()):
        path = tmp_path / f"{n}.dcm"
        path.write_bytes(whole)

        assert read_dicom_volumes(path)


def test_three_hundred_mutants_raise_nothing_but_input_error(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    outcomes = run(tmp_path, 300, seed=1)

    assert outcomes.get("read", 0) > 10
    assert "without words" not in outcomes
    assert sum(outcomes.values()) - outcomes["read"] > 50
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < _MAX_RSS_GROWTH


SEEDS = [
    pytest.param(seed, marks=pytest.mark.slow if seed < 13 else pytest.mark.exhaustive)
    for seed in range(10, 20)
]


@pytest.mark.parametrize("seed", SEEDS)
def test_twenty_thousand_mutants_raise_nothing_but_input_error(seed: int, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    run(tmp_path, 2000, seed=seed)

    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < _MAX_RSS_GROWTH


CODEC_FILES = (
    "dicom_pydicom/test_files/MR_small_jp2klossless.dcm",
    "dicom_pydicom/test_files/GDCMJ2K_TextGBR.dcm",
    "dicom_pydicom/test_files/SC_rgb_jpeg.dcm",
    "dicom_pydicom/test_files/MR_small_RLE.dcm",
    "dicom_dicomparser/testImages/encapsulated/single-frame/CT1_UNC.fragmented_bot_jpeg_ls.80.dcm",
    "dicom_dicom2nifti/generic/compressed_j2k/001/IM-0001-0001-0001.dcm",
)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", CODEC_FILES)
def test_damaged_codestreams_end_in_time(
    name: str, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = (real_data("dicom") / name).read_bytes()
    start = whole.rindex(b"\xe0\x7f\x10\x00")
    rng = np.random.default_rng(5)
    path = tmp_path / "mutant.dcm"
    for n in range(500):
        changed = bytearray(whole)
        reach = 400 if n % 3 else len(whole) - start
        for at in rng.integers(start, min(len(whole), start + reach), size=4):
            changed[at] = int(rng.integers(0, 256))
        path.write_bytes(bytes(changed))
        began = time.monotonic()

        with contextlib.suppress(InputError):
            read_dicom_volumes(path)

        assert time.monotonic() - began < _MAX_SECONDS, f"mutant {n} of {name}"
