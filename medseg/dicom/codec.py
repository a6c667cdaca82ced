"""One compressed frame to stored values; runs in a child process, see `medseg.dicom.codec_pool`.

As little as possible is imported here, since each child imports it when it starts.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

# Requests and answers: bytes of the JSON head, bytes of the body, then both.
LENGTHS = struct.Struct("<LQ")
# Largest head; the answer's is a type, a shape or the name of an exception.
MAX_HEAD = 1 << 16


def decode_frame(code: bytes, syntax: str, form: dict[str, Any]) -> NDArray[Any]:
    """Stored values of one compressed frame, colours as RGB, through pydicom's decoders.

    Args:
        code: the frame.
        syntax: transfer syntax UID.
        form: rows, columns, samples and bits, by the names of pydicom's options.
    """
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    decoder: Any = get_decoder(syntax)
    array, _ = decoder.as_array(
        encapsulate([code], has_bot=False),
        index=0,
        raw=form["samples_per_pixel"] == 1,
        number_of_frames=1,
        pixel_keyword="PixelData",
        **form,
    )
    return np.ascontiguousarray(array)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Decodes frames until the other end closes; dies of SIGPROF or SIGALRM when out of time.

    Both signals keep their default action, so that they end the process even inside a codec that
    never returns, and even if the parent is gone.
    """
    import pydicom.encaps
    import pydicom.pixels  # noqa: F401  (imported before the first frame's clock starts)

    inherited = resource.getrlimit(resource.RLIMIT_AS)
    sink.write(b"ready")
    sink.flush()
    while lengths := source.read(LENGTHS.size):
        head_length, body_length = LENGTHS.unpack(lengths)
        request = json.loads(source.read(head_length))
        code = source.read(body_length)
        _limit_memory(request["memory"], inherited)
        signal.setitimer(signal.ITIMER_PROF, request["cpu_seconds"])
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        try:
            array = decode_frame(code, request["syntax"], request["form"])
            answer = {"dtype": array.dtype.str, "shape": array.shape}
            body = array.data.cast("B") if array.size else memoryview(b"")
        except BaseException as error:  # each codec has errors of its own, one in Rust no Exception
            answer, body = {"error": type(error).__name__}, memoryview(b"")
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        head = json.dumps(answer).encode()
        sink.write(LENGTHS.pack(len(head), len(body)) + head)
        sink.write(body)
        sink.flush()


def _limit_memory(more: int, inherited: tuple[int, int]) -> None:
    """Lets the process take `more` bytes of address space than it has now (Linux).

    Never over the limits that the process was started with: only a privileged one could.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    if inherited[0] != resource.RLIM_INFINITY:
        limit = min(limit, inherited[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, inherited[1]))
