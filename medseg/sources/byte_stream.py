"""Bytes of a plain or compressed file, counted and checked to the end; nothing is padded."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

from isal import igzip_lib, isal_zlib

from medseg.core.errors import InputError

Wrapper = Literal["auto", "raw", "gzip", "zlib"]

# The package's stub declares this exception as a plain class.
_IsalError: type[Exception] = cast("Any", igzip_lib).IsalError

_CHUNK = 1 << 18
_PIECE = 1 << 21
# A deflate stream cannot expand more than this (RFC 1951: 258 bytes from two bits).
_MAX_EXPANSION = 1032
# What may follow the voxels before the file is taken for something else (a decompression bomb).
_MAX_EXCESS = 64 << 20


class ByteStream:
    """Sequential reader of one file; use as a context manager.

    Args:
        path: regular file.
        start: position in the file of the first byte to read.
        wrapper: "auto" tells gzip from plain by the first two bytes, whatever the file is called.

    Raises:
        InputError: no such file, not a regular file or no permission.
    """

    def __init__(self, path: Path, *, start: int = 0, wrapper: Wrapper = "auto") -> None:
        self.path = path
        self.position = 0
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise InputError(path, "is not a regular file", "give a file", code="E_UNREADABLE")
            self._file = path.open("rb")
            self.file_size = os.fstat(self._file.fileno()).st_size
            head = self._file.read(2)
            self._file.seek(start)
        except (OSError, ValueError, OverflowError) as error:
            raise unreadable(path, error) from error
        if wrapper == "auto":
            wrapper = "gzip" if head == b"\x1f\x8b" else "raw"
        self.wrapper = wrapper
        self.start = start
        self.trailing_bytes = 0
        self._decoder = None if wrapper == "raw" else _decoder(wrapper)
        self._input = b""
        self._pending = memoryview(b"")
        self._at_end = False

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def most_bytes(self) -> int:
        """Upper bound of what this file can hold, known before reading it."""
        stored = max(self.file_size - self.start, 0)
        return stored if self.wrapper == "raw" else (stored + 1) * _MAX_EXPANSION

    def read_up_to(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end of the file."""
        pieces = bytearray()
        while len(pieces) < count:
            piece = self._next(count - len(pieces))
            if not piece:
                break
            pieces += piece
        return bytes(pieces)

    def read_into(self, target: memoryview) -> None:
        """Fills `target` (bytes) completely.

        Raises:
            InputError: E_TRUNCATED, the file ends before; E_COMPRESSION, the stream is damaged.
        """
        filled = 0
        while filled < len(target):
            if self._decoder is None:
                count = self._read_raw_into(target[filled:])
            else:
                piece = self._next(len(target) - filled)
                count = len(piece)
                target[filled : filled + count] = piece
            if not count:
                raise self.truncated(self.position + len(target) - filled)
            filled += count

    def skip(self, count: int) -> None:
        """Leaves out the next `count` bytes, which must be there."""
        left = count
        while left > 0:
            piece = self._next(min(left, _PIECE))
            if not piece:
                raise self.truncated(self.position + left)
            left -= len(piece)

    def finish(self) -> int:
        """Reads to the end, so that checksums are verified; returns how many bytes are left."""
        excess = 0
        if self.wrapper == "raw":
            return max(self.file_size - self.start - self.position, 0)
        while piece := self._next(_PIECE):
            excess += len(piece)
            if excess > _MAX_EXCESS:
                raise InputError(
                    self.path,
                    f"more than {_MAX_EXCESS >> 20} MiB follow the voxels of the header",
                    "the header or the file is damaged; export it again",
                    code="E_TOO_LARGE",
                )
        return excess

    def truncated(self, wanted: int) -> InputError:
        """Error saying how many bytes were wanted and how many there are."""
        return InputError(
            self.path,
            f"ends after {self.position} of {wanted} bytes" + self._unpacked(),
            "the file is cut off; copy or export it again",
            code="E_TRUNCATED",
        )

    def _unpacked(self) -> str:
        return "" if self.wrapper == "raw" else " (decompressed)"

    def _next(self, limit: int) -> bytes | memoryview:
        """At most `limit` bytes; empty at the end."""
        if self._decoder is None:
            piece: bytes | memoryview = self._read(min(limit, 8 * _PIECE))
        else:
            if not self._pending:
                self._pending = memoryview(self._decode())
            piece = self._pending[:limit]
            self._pending = self._pending[limit:]
        self.position += len(piece)
        return piece

    def _read_raw_into(self, target: memoryview) -> int:
        try:
            count = self._file.readinto(target)
        except OSError as error:
            raise unreadable(self.path, error) from error
        self.position += count
        return int(count)

    def _read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _decode(self) -> bytes:
        while not self._at_end:
            assert self._decoder is not None
            if self._decoder.eof:
                self._start_next_member()
                continue
            if not self._input:
                self._input = self._read(_CHUNK)
            stored = self._input
            try:
                piece: bytes = self._decoder.decompress(stored, max_length=_PIECE)
            except _IsalError as error:
                raise self._damaged(error) from error
            self._input = self._decoder.unconsumed_tail
            if piece:
                return piece
            if not stored and not self._decoder.eof:
                raise self.truncated(self.position + 1)
        return b""

    def _start_next_member(self) -> None:
        """Goes on with a further gzip member; padding and other trailing bytes end the stream."""
        assert self._decoder is not None
        rest = self._decoder.unused_data + self._input
        if len(rest) < 2:
            rest += self._read(_CHUNK)
        if self.wrapper == "gzip" and rest[:2] == b"\x1f\x8b":
            self._decoder = _decoder(self.wrapper)
            self._input = rest
            return
        self._at_end = True
        if rest.strip(b"\0"):
            self.trailing_bytes = len(rest) + self.file_size - self._file.tell()

    def _damaged(self, error: Exception) -> InputError:
        is_checksum = "checksum" in str(error)
        what = "the checksum of its contents is wrong" if is_checksum else "cannot be decompressed"
        return InputError(
            self.path,
            f"{what} (after {self.position} bytes)",
            "the file is damaged; copy or export it again",
            code="E_CHECKSUM" if is_checksum else "E_COMPRESSION",
        )


def file_size(path: Path) -> int:
    """Length of a regular file in bytes.

    Raises:
        InputError: E_NO_FILE, E_UNREADABLE.
    """
    with ByteStream(path) as stream:
        return stream.file_size


def unreadable(path: str | Path, error: Exception) -> InputError:
    """Error for a file that the operating system does not let us read."""
    if isinstance(error, FileNotFoundError):
        return InputError(path, "there is no such file", "check the path", code="E_NO_FILE")
    reason = getattr(error, "strerror", None) or type(error).__name__
    return InputError(
        path, f"cannot be read ({reason})", "check the permissions", code="E_UNREADABLE"
    )


def _decoder(wrapper: Wrapper) -> Any:
    return isal_zlib.decompressobj(wbits=31 if wrapper == "gzip" else 15)
