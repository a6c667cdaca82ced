"""Data sets to files: written in one step, with frames and their headers streamed in.

pydicom encodes the elements. The per-frame functional groups come as bytes, because encoding an
object of 6,000 frames item by item takes pydicom seconds and its pixels take less than one.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID

from medseg import __version__
from medseg.core.atomic import atomic_path
from medseg.dicom.uids import derive_uid

EXPLICIT_LITTLE = UID("1.2.840.10008.1.2.1")
DEFLATED = UID("1.2.840.10008.1.2.1.99")
RLE = UID("1.2.840.10008.1.2.5")

_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_PER_FRAME_GROUPS = 0x52009230
_PIXEL_DATA = struct.pack("<HH", 0x7FE0, 0x0010)


class _Sink(Protocol):
    def write(self, content: bytes, /) -> object: ...


def write_object(header: Dataset, path: str | Path) -> None:
    """Writes a data set without pixels."""
    with _opened(header, path, EXPLICIT_LITTLE) as sink:
        sink.write(encode_elements(header))


def write_frames(
    header: Dataset,
    path: str | Path,
    *,
    groups: list[bytes],
    native: Iterable[bytes] = (),
    num_native_bytes: int = 0,
    encapsulated: list[bytes] | None = None,
    value_representation: str = "OB",
    syntax: UID = EXPLICIT_LITTLE,
) -> None:
    """Writes a multi-frame object.

    Args:
        header: all elements but per-frame groups and pixels, none after (5200,9229).
        path: file to write.
        groups: encoded elements of each frame's functional groups.
        native: the pixel data in pieces, `num_native_bytes` together.
        encapsulated: instead, the compressed bytes of each frame.
        value_representation: OB or OW, of native pixels.
        syntax: transfer syntax.
    """
    with _opened(header, path, syntax) as sink:
        sink.write(encode_elements(header))
        sink.write(sequence(_PER_FRAME_GROUPS, groups))
        if encapsulated is not None:
            _write_encapsulated(sink, encapsulated)
            return
        length = num_native_bytes + num_native_bytes % 2
        vr = value_representation.encode("ascii")
        sink.write(_PIXEL_DATA + vr + struct.pack("<HI", 0, length))
        for piece in native:
            sink.write(piece)
        sink.write(bytes(num_native_bytes % 2))


def encode_elements(dataset: Dataset) -> bytes:
    """A data set in explicit VR little endian."""
    stream = DicomBytesIO()
    stream.is_little_endian = True
    stream.is_implicit_VR = False
    write_dataset(stream, dataset)
    return bytes(stream.getvalue())


def element(tag: int, vr: str, value: str | bytes) -> bytes:
    """One element in explicit VR little endian, for representations with a 16-bit length."""
    content = value.encode("ascii") if isinstance(value, str) else value
    if len(content) % 2:
        content += b"\0" if vr == "UI" else b" "
    return _tag_bytes(tag) + vr.encode("ascii") + struct.pack("<H", len(content)) + content


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """A sequence of encoded items, with explicit lengths."""
    body = b"".join(_ITEM + struct.pack("<I", len(item)) + item for item in items)
    return _tag_bytes(tag) + b"SQ" + struct.pack("<HI", 0, len(body)) + body


def _tag_bytes(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _write_encapsulated(sink: _Sink, frames: list[bytes]) -> None:
    """One fragment per frame behind a basic offset table (PS3.5 A.4)."""
    padded = [frame + bytes(len(frame) % 2) for frame in frames]
    offsets, position = [], 0
    for frame in padded:
        offsets.append(position)
        position += len(frame) + 8
    # A table of 32-bit numbers ends at 4 GiB; beyond it is left empty, as the standard allows.
    table = struct.pack(f"<{len(offsets)}I", *offsets) if position < 2**32 else b""
    sink.write(_PIXEL_DATA + b"OB" + struct.pack("<HI", 0, 0xFFFFFFFF))
    sink.write(_ITEM + struct.pack("<I", len(table)) + table)
    for frame in padded:
        sink.write(_ITEM + struct.pack("<I", len(frame)) + frame)
    sink.write(_SEQUENCE_END)


@contextmanager
def _opened(header: Dataset, path: str | Path, syntax: UID) -> Iterator[_Sink]:
    """A file that already has its preamble and meta information."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = derive_uid("medseg implementation")
    meta.ImplementationVersionName = f"MEDSEG_{__version__}"[:16]
    head = io.BytesIO()
    write_file_meta_info(head, meta)
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        file.write(bytes(128) + b"DICM" + head.getvalue())
        if syntax != DEFLATED:
            yield file
            return
        deflating = _Deflating(file)
        yield deflating
        deflating.finish()


class _Deflating:
    """Passes bytes on as raw deflate (PS3.5 A.5)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._length = 0

    def write(self, content: bytes, /) -> None:
        piece = self._compressor.compress(content)
        self._length += len(piece)
        self._file.write(piece)

    def finish(self) -> None:
        piece = self._compressor.flush()
        self._length += len(piece)
        self._file.write(piece + bytes(self._length % 2))
