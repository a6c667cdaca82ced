"""The errors medseg raises on purpose: each says where, what and the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

MAX_LISTED = 8
"""Errors of one kind that a message names; more would push the first off the screen."""


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text for a terminal or log; names of files may hold bytes that steer either."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """As `printable`, for names of places: a line break in one is shown, not followed."""
    return printable(text.replace("\n", "\\n"))


class MedsegError(Exception):
    """An error that the person at the keyboard can act on.

    Args:
        where: file, folder, series, case key or configuration path the error is about.
        what: what was found and what was expected, with units.
        remedy: what to do or which option to set.
        code: stable machine-readable name, `E_` and capitals; the class's own code by default.
    """

    default_code = "E_MEDSEG"

    def __init__(
        self, where: str | Path, what: str, remedy: str = "", *, code: str | None = None
    ) -> None:
        self.where = str(where)
        self.what = what
        self.remedy = remedy
        self.code = code or self.default_code
        super().__init__(str(self))

    def __str__(self) -> str:
        where = one_line(self.where)
        text = f"{where}: {self.what}" if where else self.what
        return printable(f"{text}; {self.remedy}" if self.remedy else text)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.where, self.what, self.remedy, self.code))


class ConfigError(MedsegError):
    """The composed configuration cannot be run."""

    default_code = "E_CONFIG"


class InputError(MedsegError):
    """A file or folder given as input cannot be read rightly; `code` says which rule refused it."""

    default_code = "E_INPUT"


class GeometryError(InputError):
    """Voxel positions are missing, contradictory or differ between images that must agree."""

    default_code = "E_GEOMETRY"


class LabelError(InputError):
    """A reference holds values, or a configuration holds names, that the label set does not."""

    default_code = "E_LABEL"


class OutputError(MedsegError):
    """A result cannot be written where it was asked to go."""

    default_code = "E_OUTPUT"


class BundleError(MedsegError):
    """A model bundle is incomplete, altered or of an unknown format."""

    default_code = "E_BUNDLE"


class TrainingError(MedsegError):
    """Training cannot start or go on."""

    default_code = "E_TRAINING"


def raise_all(errors: Sequence[MedsegError], *, where: str, what: str) -> None:
    """Raises one error listing the first of `errors`, the error itself if there is just one.

    The code is the common code of all, or the general one of the first error's class.
    """
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    codes = {error.code for error in errors}
    kind = type(errors[0])
    remedies = {error.remedy for error in errors}
    is_shared = len(remedies) == 1
    lines = "".join(
        f"\n  {one_line(error.where)}: {error.what}" if is_shared else f"\n  {error}"
        for error in errors[:MAX_LISTED]
    )
    if len(errors) > MAX_LISTED:
        lines += f"\n  and {len(errors) - MAX_LISTED} more"
    remedy = remedies.pop() if is_shared else "each line says what to do"
    code = codes.pop() if len(codes) == 1 else None
    raise kind(where, f"{len(errors)} {what}:{lines}", remedy, code=code)


def _rebuild(kind: type[MedsegError], where: str, what: str, remedy: str, code: str) -> MedsegError:
    return kind(where, what, remedy, code=code)
