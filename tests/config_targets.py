"""Classes that configuration tests name in `_target_`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from medseg.core.errors import InputError

ALIAS_OF_ANOTHER_PACKAGE = os.path.join
MADE = "an object that is no class"


class Reader(Protocol):
    def read(self) -> str: ...


@dataclass(frozen=True)
class Scanner:
    """A nested part."""

    tesla: float = 1.5
    maker: str = "none"


class Study:
    """Something with one argument of each kind."""

    def __init__(
        self,
        channels: int,
        *,
        norm: Literal["instance", "batch"] = "instance",
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        folder: str | None = None,
        path: Path | None = None,
        scanner: Scanner | None = None,
        reader: Reader | None = None,
        parts: list[Scanner] | None = None,
        untyped=None,  # type: ignore[no-untyped-def]
    ) -> None:
        if channels == 13:
            raise ValueError("13 channels bring bad luck")
        if channels == 14:
            raise InputError("channels", "is 14", "use 12")
        self.channels = channels
        self.norm = norm
        self.spacing_mm = spacing_mm
        self.folder = folder
        self.path = path
        self.scanner = scanner
        self.reader = reader
        self.parts = parts
        self.untyped = untyped

    @classmethod
    def load(cls, path: str) -> Study:
        raise AssertionError(f"must never be reached with {path}")


def study_of(channels: int) -> Study:
    """A function as a target."""
    return Study(channels)


class OpenStudy:
    """Accepts any keyword."""

    def __init__(self, **facts: object) -> None:
        self.facts = facts
