"""Which model segments which series: rules on what the headers say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.core.errors import ConfigError


@dataclass(frozen=True)
class SeriesRule:
    """What a series must be to be segmented by a model; what is left open holds for every series.

    Args:
        modality: DICOM modalities, such as ["CT"].
        description: regular expression found in SeriesDescription or ProtocolName, whatever the
            case of its letters.
        not_description: one that must not be found there.
        body_part: values of BodyPartExamined.
        slice_thickness_mm: least and greatest distance of slices.
        contrast: with (true) or without (false) contrast agent.
        min_slices: how many slices at least.

    Raises:
        ConfigError: an expression cannot be understood, or a range is empty.
    """

    modality: Sequence[str] = ()
    description: str = ""
    not_description: str = ""
    body_part: Sequence[str] = ()
    slice_thickness_mm: tuple[float, float] | None = None
    contrast: bool | None = None
    min_slices: int = 1

    def __post_init__(self) -> None:
        for name in ("description", "not_description"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ConfigError(
                    name,
                    f"is no regular expression ({error})",
                    "a backslash before one of . ^ $ * + ? { } [ ] \\ | ( ) means the character",
                ) from error
        limits = self.slice_thickness_mm
        if limits is not None and not 0 <= limits[0] <= limits[1]:
            raise ConfigError("slice_thickness_mm", f"is {limits}", "give the lower value first")

    def fits(self, facts: Mapping[str, Any]) -> bool:
        """Whether a series with these facts (see `reading.serve`) is to be segmented."""
        text = str(facts["description"])
        thickness = float(facts["slice_thickness_mm"])
        limits = self.slice_thickness_mm or (0.0, float("inf"))
        return (
            (not self.modality or facts["modality"] in self.modality)
            and (not self.body_part or facts["body_part"] in self.body_part)
            and re.search(self.description, text, re.IGNORECASE) is not None
            and not (self.not_description and re.search(self.not_description, text, re.IGNORECASE))
            # Positions are decimal numbers: a thousandth of a millimetre is not meant.
            and limits[0] - 1e-3 <= thickness <= limits[1] + 1e-3
            and (self.contrast is None or facts["has_contrast"] is self.contrast)
            and int(facts["num_slices"]) >= self.min_slices
        )
