"""Codecs run in child processes: whatever one does, only its frame is refused, and soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dicom_cases import SHAPE, save, save_all, slices

from medseg.core.errors import InputError
from medseg.dicom import codec_pool
from medseg.dicom.volumes import read_dicom_volumes

JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[codec_pool._Pool]:
    """A pool of its own, so that no child is left from another test."""
    fresh = codec_pool._Pool()
    monkeypatch.setattr(codec_pool, "_POOL", fresh)
    yield fresh
    fresh.end()


def compressed(folder: Path, syntax: str = JPEG_LS, *, count: int = 1) -> Path:
    shape = (40, 36, count)
    datasets = slices(shape=shape)
    for ds in datasets:
        ds.compress(syntax, generate_instance_uid=False)
    save_all(datasets, folder)
    return folder


def refused(folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_dicom_volumes(folder)
    return caught.value


def test_a_codec_that_crashes_refuses_its_file_and_the_next_file_is_read(
    pool: codec_pool._Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed(tmp_path)
    with monkeypatch.context() as patch:
        crash = "import ctypes, medseg.dicom.codec as c; c.decode_frame = lambda *_: "
        patch.setattr(codec_pool, "_SERVE", f"{crash}ctypes.string_at(0); {codec_pool._SERVE}")
        error = refused(tmp_path)

    assert error.code == "E_DECODER"
    assert error.where == str(tmp_path / "000.dcm")
    assert error.what == f"has a compressed frame whose decoder crashed (signal {signal.SIGSEGV})"
    assert "export it uncompressed" in error.remedy
    assert read_dicom_volumes(tmp_path)


def test_a_codec_that_spins_is_ended_by_its_own_clock(
    pool: codec_pool._Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed(tmp_path)
    # One regular expression that backtracks for ages without returning to the interpreter.
    spin = "import re, medseg.dicom.codec as c; "
    spin += "c.decode_frame = lambda *_: re.match('(a+)+$', 'a' * 60 + 'b')"
    monkeypatch.setattr(codec_pool, "_SERVE", f"{spin}; {codec_pool._SERVE}")
    monkeypatch.setattr(codec_pool, "_CPU_SECONDS", 0.3)

    error = refused(tmp_path)

    assert (error.code, "takes too long" in error.what) == ("E_DECODER", True)


def test_a_codec_that_sleeps_is_ended_by_wall_clock(
    pool: codec_pool._Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed(tmp_path)
    sleep = "import time, medseg.dicom.codec as c; c.decode_frame = lambda *_: time.sleep(600)"
    monkeypatch.setattr(codec_pool, "_SERVE", f"{sleep}; {codec_pool._SERVE}")
    monkeypatch.setattr(codec_pool, "_CPU_SECONDS", 0.05)

    began = time.monotonic()
    error = refused(tmp_path)

    assert (error.code, "takes too long" in error.what) == ("E_DECODER", True)
    assert time.monotonic() - began < 60


def test_a_child_that_is_stopped_does_not_hold_the_reader(
    pool: codec_pool._Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed(tmp_path)
    read_dicom_volumes(tmp_path)
    (child,) = pool._idle
    os.kill(child._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(codec_pool, "_CPU_SECONDS", 0.05)

    error = refused(tmp_path)

    assert (error.code, "does not end" in error.what) == ("E_DECODER", True)
    assert not child.is_alive


def test_a_codec_that_wants_too_much_memory_is_refused(
    pool: codec_pool._Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed(tmp_path)
    greedy = "import medseg.dicom.codec as c; c.decode_frame = lambda *_: bytearray(1 << 30)"
    monkeypatch.setattr(codec_pool, "_SERVE", f"{greedy}; {codec_pool._SERVE}")

    error = refused(tmp_path)

    assert error.code == "E_DECODER"
    assert error.what == "has a compressed frame that needs over 64 MiB to decode"


@pytest.mark.parametrize(
    "answer",
    [
        "np.zeros((40, 36), 'O').astype('f8')",  # a type that is no pixel
        "np.zeros((4000, 3600), 'u2')",  # more than the header declares
        "np.zeros((40, 36), 'u2')",  # another shape
    ],
)
def test_what_a_child_answers_is_not_believed(
    answer: str, pool: codec_pool._Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed(tmp_path)
    lies = f"import numpy as np, medseg.dicom.codec as c; c.decode_frame = lambda *_: {answer}"
    monkeypatch.setattr(codec_pool, "_SERVE", f"{lies}; {codec_pool._SERVE}")

    assert refused(tmp_path).code in ("E_DECODER", "E_PIXEL_DATA")


def test_a_child_that_died_between_two_frames_is_replaced(
    pool: codec_pool._Pool, tmp_path: Path
) -> None:
    compressed(tmp_path)
    read_dicom_volumes(tmp_path)
    (child,) = pool._idle
    os.kill(child._process.pid, signal.SIGKILL)
    child._process.wait()

    assert read_dicom_volumes(tmp_path)


def test_threads_read_at_once_and_few_children_stay(pool: codec_pool._Pool, tmp_path: Path) -> None:
    compressed(tmp_path, JPEG_2000, count=5)
    (expected,) = read_dicom_volumes(tmp_path)

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: read_dicom_volumes(tmp_path)[0], range(12)))

    assert all(np.array_equal(volume.array, expected.array) for volume in found)
    assert 1 <= len(pool._idle) <= (os.cpu_count() or 1)


def test_a_forked_process_has_children_of_its_own(pool: codec_pool._Pool, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "in")
    script = (
        "import os, sys; from medseg.dicom.volumes import read_dicom_volumes as read\n"
        "from medseg.dicom import codec_pool\n"
        f"first = read({str(folder)!r})[0].array\n"
        "before = codec_pool._POOL._idle[0]._process.pid\n"
        "pid = os.fork()\n"
        f"same = (read({str(folder)!r})[0].array == first).all()\n"
        "after = codec_pool._POOL._idle[0]._process.pid\n"
        "if not pid: os._exit(0 if same and after != before else 1)\n"
        "sys.exit(os.waitpid(pid, 0)[1] or not (same and after == before))\n"
    )

    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=120)

    assert done.returncode == 0


@pytest.mark.parametrize("hard", ["1 << 32", "resource.RLIM_INFINITY"])
def test_a_process_with_a_memory_limit_reads_compressed_files(hard: str, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "in")
    script = (
        "import resource, medseg.dicom.codec as codec\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (1 << 32, {hard}))\n"
        "from medseg.dicom.volumes import read_dicom_volumes\n"
        f"assert read_dicom_volumes({str(folder)!r})[0].spatial_shape == (40, 36, 1)\n"
        "codec._limit_memory(1 << 40, resource.getrlimit(resource.RLIMIT_AS))\n"
        f"assert resource.getrlimit(resource.RLIMIT_AS) == (1 << 32, {hard})\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], check=False, timeout=120, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(0)"])
def test_children_end_with_their_parent(end: str, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "in")
    script = (
        "import os, sys; from medseg.dicom.volumes import read_dicom_volumes as read\n"
        "from medseg.dicom import codec_pool\n"
        f"read({str(folder)!r})\n"
        "print(codec_pool._POOL._idle[0]._process.pid, flush=True)\n"
        f"{end}\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], check=False, timeout=120, capture_output=True, text=True
    )

    child = Path("/proc", done.stdout.split()[0], "cmdline")
    deadline = time.monotonic() + 30
    while child.exists() and child.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (child.exists() and child.read_bytes())


def test_uncompressed_and_deflated_files_need_no_child(
    pool: codec_pool._Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, deflated = slices(), slices()
    for ds in deflated:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    save_all(plain, tmp_path / "plain")
    save_all(deflated, tmp_path / "deflated")
    monkeypatch.setattr(codec_pool, "_SERVE", "sys.exit(3)")

    assert [v.spatial_shape for v in read_dicom_volumes(tmp_path)] == [SHAPE, SHAPE]


def test_a_child_that_cannot_start_is_told(
    pool: codec_pool._Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ds,) = slices(shape=(40, 36, 1))
    ds.compress(JPEG_LS, generate_instance_uid=False)
    save(ds, tmp_path / "one.dcm")
    monkeypatch.setattr(codec_pool, "_SERVE", "sys.exit(3)")

    assert "ended (exit code 3)" in refused(tmp_path).what
