"""Asks the reading process, and ends it when it takes too long, too much memory, or crashes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.errors import InputError, OutputError
from medseg.core.geometry import Geometry
from medseg.core.identity import SeriesRef
from medseg.core.volume import Volume
from medseg.services.ranges import require_above_zero, require_not_negative
from medseg.services.reading import plain_series, series_of

_START_SECONDS = 120.0
_SERVE = "from medseg.services.reading import main; main()"
_DTYPES = frozenset({"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8"})


@dataclass(frozen=True)
class Refusal:
    """Why a part of a study cannot be read: for programs, for people, and where."""

    code: str
    sentence: str
    place: str


@dataclass(frozen=True)
class FoundSeries:
    """A volume that a study holds.

    Args:
        key: name for logs and files.
        series: its files.
        identity: what the input is: UIDs and a hash of the files' content.
        facts: what rules may ask, such as modality and slice_thickness_mm.
    """

    key: str
    series: SeriesRef
    identity: tuple[Any, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class ReadLimits:
    """What the reading of one study may take.

    Args:
        memory_gb: address space of the child process.
        seconds: time for any request.
        seconds_per_gb: added for each gigabyte of files.

    Raises:
        ConfigError: a number makes no sense.
    """

    memory_gb: float = 6.0
    seconds: float = 120.0
    seconds_per_gb: float = 120.0

    def __post_init__(self) -> None:
        require_above_zero("executor", read_memory_gb=self.memory_gb, read_seconds=self.seconds)
        require_not_negative("executor", read_seconds_per_gb=self.seconds_per_gb)


class Reader:
    """A reading process, started when it is first needed. Used by one thread at a time.

    Args:
        limits: of each request.
        folder: where archives are unpacked to.
        options: of `medseg.sources.dicom_folder.DicomFolder`, if other than its defaults.
    """

    def __init__(
        self,
        *,
        limits: ReadLimits,
        folder: Path,
        options: Mapping[str, Any],
    ) -> None:
        self.limits = limits
        self.folder = folder
        self.options = {"on_gap": "refuse", "trust_positions": False, **options}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def index(
        self, path: Path, *, root: Path, is_loose: bool, keep: Path
    ) -> tuple[list[FoundSeries], list[Refusal]]:
        """What a study holds, and what of it cannot be read.

        Args:
            path: folder or file.
            root: what names are relative to.
            is_loose: only the files in the folder itself.
            keep: where the members of archives stay.

        Raises:
            InputError: nothing can be told, E_READER_CRASH, E_READER_TIME and E_READER_MEMORY
                among the reasons.
        """
        request = {
            "do": "index",
            "path": str(path),
            "root": str(root),
            "is_loose": is_loose,
            "keep": str(keep),
        }
        answer, _ = self._ask(request, size=_size(path), where=str(path))
        volumes = [
            FoundSeries(
                item["key"], series_of(item["series"]), tuple(item["identity"]), item["facts"]
            )
            for item in answer["volumes"]
        ]
        refused = [
            Refusal(item["code"], _sentence(item), item["where"]) for item in answer["refused"]
        ]
        return volumes, refused

    def read(self, series: SeriesRef, *, where: str) -> Volume:
        """The voxels of a series.

        Raises:
            InputError: as of `index`.
        """
        size = sum(path.stat().st_size for path in set(series.paths) if path.exists())
        request = {"do": "read", "series": plain_series(series)}
        answer, body = self._ask(request, size=size, where=where)
        shape, dtype = tuple(answer["shape"]), str(answer["dtype"])
        if dtype not in _DTYPES or np.dtype(dtype).itemsize * int(np.prod(shape)) != len(body):
            raise _trouble(where, "E_READER_CRASH", "gave a wrong answer")
        affine = np.array(answer["affine"])
        return Volume(
            np.frombuffer(body, dtype).reshape(shape),
            Geometry(shape[1:], affine),
            answer["modality"],
            tuple(answer["notes"]),
        )

    def close(self) -> None:
        with self._lock:
            self._end()

    def _ask(
        self, request: dict[str, Any], *, size: int, where: str
    ) -> tuple[dict[str, Any], bytearray]:
        seconds = self.limits.seconds + self.limits.seconds_per_gb * size / 1e9
        with self._lock:
            self._start(where)
            assert self._process is not None
            assert self._process.stdin is not None
            line = json.dumps({**request, **self.options}).encode() + b"\n"
            until = time.monotonic() + seconds
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
                answer, body = self._answer(until)
            except _EndedError as error:
                self._end()
                raise _trouble(where, error.code, str(error)) from None
            except BrokenPipeError:
                self._end()
                raise _trouble(where, "E_READER_CRASH", "has ended") from None
            except BaseException:
                self._end()
                raise
        if "error" in answer:
            told = answer["error"]
            if told["code"] == "E_READER_MEMORY":
                with self._lock:
                    self._end()
                what = f"needs over {self.limits.memory_gb:g} GB"
                raise _trouble(where, told["code"], what)
            if told["code"] == "E_DISK_FULL":
                raise OutputError(self.folder, "the disk is full", "make room", code="E_DISK_FULL")
            if told["code"] == "E_READER_CRASH":
                raise _trouble(where, told["code"], f"failed ({told.get('what', '')})")
            raise InputError(told["where"], told["what"], told["remedy"], code=told["code"])
        return answer, body

    def _answer(self, until: float) -> tuple[dict[str, Any], bytearray]:
        (length,) = struct.unpack("<I", self._take(4, until))
        answer: dict[str, Any] = json.loads(self._take(length, until))
        return answer, self._take(answer["bytes"], until)

    def _take(self, count: int, until: float) -> bytearray:
        assert self._process is not None
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        content = bytearray(count)
        view, done = memoryview(content), 0
        while done < count:
            left = until - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                raise _EndedError("E_READER_TIME", "took too long")
            taken = os.readv(source, [view[done:]])
            if not taken:
                raise _EndedError("E_READER_CRASH", "has ended")
            done += taken
        return content

    def _start(self, where: str) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # The child finds the packages where this process does, however it was started.
        start = f"import sys; sys.path[:] = {sys.path!r}; {_SERVE}"
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment = {**os.environ, **threads, "TMPDIR": str(self.folder)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, str(int(self.limits.memory_gb * 1e9))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b'{"do": "nothing"}\n')
            self._process.stdin.flush()
            self._answer(time.monotonic() + _START_SECONDS)
        except (_EndedError, BrokenPipeError):
            self._end()
            raise _trouble(where, "E_READER_CRASH", "cannot be started") from None

    def _end(self) -> None:
        """Ends the child with all that it has started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None


class _EndedError(Exception):
    """The child is gone or too slow; internal."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


def _trouble(where: str, code: str, what: str) -> InputError:
    return InputError(
        where,
        f"the process that reads it {what}",
        "the study is damaged or hostile, or larger than executor.read_limits allows",
        code=code,
    )


def _sentence(told: Mapping[str, str]) -> str:
    return f"{told['what']}; {told['remedy']}" if told["remedy"] else told["what"]


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
    return total
