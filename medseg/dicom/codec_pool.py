"""Compressed frames decoded in child processes: a codec that crashes, hangs or takes all memory
ends its child, and the frame is refused.

The codecs are C, C++ and Rust working on bytes that anyone may have written. Children import numpy
and the codecs only, are kept for the next frame, and end when this process closes their input.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.dicom.codec import LENGTHS, MAX_HEAD

# A frame of 512 x 512 takes 5 to 50 ms. Processor time is what is bounded tightly: on a machine
# with other work a frame may wait, and is not refused for it until the second limit.
_CPU_SECONDS, _CPU_SECONDS_PER_MEGAPIXEL = 4.0, 1.0
_WALL_FACTOR = 10.0
# OpenJPEG holds 32 bits for each sample twice and the result; 64 MiB are for all that is fixed.
_BYTES_PER_SAMPLE, _BYTES_FIXED = 16, 1 << 26
_SERVE = "from medseg.dicom.codec import serve; serve(sys.stdin.buffer, sys.stdout.buffer)"
_START_SECONDS = 120.0
_PIPE_BYTES = 1 << 20
_DTYPES = frozenset({"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", ">u2", ">i2", ">u4", ">i4"})


class _ChildEndedError(Exception):
    """The child is gone or was too slow; internal."""


def decode_in_child(
    code: bytes, syntax: str, form: dict[str, Any], *, where: str
) -> NDArray[Any] | str:
    """Stored values of one compressed frame, or the name of the exception its codec raised.

    Args:
        code: the frame.
        syntax: transfer syntax UID.
        form: as in `medseg.dicom.codec.decode_frame`.
        where: what messages call the file.

    Raises:
        InputError: E_DECODER, the codec crashed or ran out of time or memory.
    """
    samples = form["rows"] * form["columns"] * form["samples_per_pixel"]
    cpu_seconds = _CPU_SECONDS + _CPU_SECONDS_PER_MEGAPIXEL * samples / 1e6
    request = {
        "syntax": syntax,
        "form": form,
        "memory": _BYTES_FIXED + _BYTES_PER_SAMPLE * samples + 4 * len(code),
        "cpu_seconds": cpu_seconds,
        "seconds": cpu_seconds * _WALL_FACTOR,
    }
    try:
        with _POOL.child() as child:
            answer, body = child.ask(request, code, most=8 * samples)
    except _ChildEndedError as error:
        raise InputError(
            where,
            f"has a compressed frame whose decoder {error}",
            "the file is damaged or hostile; export it uncompressed, or send it again",
            code="E_DECODER",
        ) from None
    if "error" in answer:
        if answer["error"] == "MemoryError":
            raise InputError(
                where,
                f"has a compressed frame that needs over {request['memory'] >> 20} MiB to decode",
                "the file is damaged or hostile; export it uncompressed, or send it again",
                code="E_DECODER",
            )
        return str(answer["error"])
    dtype, shape = str(answer["dtype"]), tuple(map(int, answer["shape"]))
    if dtype not in _DTYPES or np.dtype(dtype).itemsize * int(np.prod(shape)) != len(body):
        return "a wrong answer"
    return np.frombuffer(body, dtype).reshape(shape)


class _Child:
    """One decoding process and the pipes to it."""

    def __init__(self) -> None:
        # The child finds the packages where this process does, however it was started.
        start = f"import sys; sys.path[:] = {sys.path!r}; {_SERVE}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
                pipesize=_PIPE_BYTES,
            )
        except OSError as error:
            raise _ChildEndedError(f"cannot be started ({error.strerror})") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)
        self._is_ready = False

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(
        self, request: dict[str, Any], code: bytes, *, most: int
    ) -> tuple[dict[str, Any], bytearray]:
        """The head and body of the child's answer, the body of at most `most` bytes."""
        if not self._is_ready:
            self._read(5, time.monotonic() + _START_SECONDS)
            self._is_ready = True
        # A little later than the child's own clock, which also tells why it ended.
        deadline = time.monotonic() + float(request["seconds"]) + 1.0
        head = json.dumps(request).encode()
        self._write(LENGTHS.pack(len(head), len(code)) + head, deadline)
        self._write(code, deadline)
        head_length, body_length = LENGTHS.unpack(self._read(LENGTHS.size, deadline))
        if head_length > MAX_HEAD or body_length > most:
            raise _ChildEndedError("gave more than the header declares")
        answer = json.loads(bytes(self._read(head_length, deadline)))
        return answer, self._read(body_length, deadline)

    def end(self) -> None:
        """Ends the process at once."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self.close()
        self._process.wait()

    def close(self) -> None:
        """Closes the pipes, upon which a child that waits for a frame ends."""
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
                pipe.close()

    def _write(self, content: bytes, deadline: float) -> None:
        left = memoryview(content)
        while left:
            self._wait(self._input.fileno(), select.POLLOUT, deadline)
            try:
                left = left[os.write(self._input.fileno(), left) :]
            except BlockingIOError:
                continue
            except OSError:
                raise _ChildEndedError(self._why()) from None

    def _read(self, count: int, deadline: float) -> bytearray:
        content = bytearray(count)
        left = memoryview(content)
        while left:
            self._wait(self._output.fileno(), select.POLLIN, deadline)
            found = os.readv(self._output.fileno(), [left])
            if not found:
                raise _ChildEndedError(self._why())
            left = left[found:]
        return content

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise _ChildEndedError("does not end")

    def _why(self) -> str:
        """How the process ended, in words."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "does not answer"
        if -code in (27, 14):  # SIGPROF, SIGALRM
            return "takes too long"
        return f"crashed (signal {-code})" if code < 0 else f"ended (exit code {code})"


class _Pool:
    """Children that wait for a frame; as many live as threads decode at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Child] = []

    @contextmanager
    def child(self) -> Iterator[_Child]:
        """A child for one frame; it is ended if anything goes wrong with it."""
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is None or not child.is_alive:
            if child is not None:
                child.end()
            child = _Child()
        try:
            yield child
        except BaseException:
            child.end()
            raise
        with self._lock:
            if len(self._idle) < (os.cpu_count() or 1):
                self._idle.append(child)
                return
        child.end()

    def forget(self) -> None:
        """Leaves the children to the process that this one was forked from."""
        for child in self._idle:
            child.close()
        self._idle, self._lock = [], threading.Lock()

    def end(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()


# One for the whole process, since starting a child takes longer than decoding a hundred frames.
_POOL = _Pool()
os.register_at_fork(after_in_child=_POOL.forget)
atexit.register(_POOL.end)
