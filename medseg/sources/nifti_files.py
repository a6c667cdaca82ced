"""Folders of image files, with or without labels: NIfTI, NRRD, MetaImage, pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from medseg.core.errors import InputError
from medseg.core.identity import Case
from medseg.core.protocols import SourceDescription
from medseg.sources.class_masks import DERIVATIVES
from medseg.sources.file_cases import file_case, sorted_cases
from medseg.sources.image_files import find_files, image_files
from medseg.sources.input_folder import existing_path
from medseg.sources.pairing import FileGroup, group_images, pair_files
from medseg.sources.read_rules import MAX_BYTES, ReadRules

_log = logging.getLogger(__name__)


class NiftiFiles:
    """Cases of the image files below a folder, or of one file.

    Args:
        folder: folder or image file.
        layout: "pairs" wants labels: images/ with labels/ (imagesTr with labelsTr), or `a_image`
            with `a_label`, or `a` with `a_seg`; "images" takes every file as an image but those
            below derivatives/ beside sub-<name>/ (BIDS); "auto" takes pairs if there are any.
        num_channels: if above 1, `a_0000`, `a_0001`, ... are the channels of the case `a`.
        allow_unknown_orientation: read files without orientation as if their axes were R, A, S.
        max_bytes: largest decoded image in bytes.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        layout: Literal["auto", "pairs", "images"] = "auto",
        num_channels: int | None = None,
        allow_unknown_orientation: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.folder = folder
        self.layout = layout
        self.num_channels = num_channels
        self.rules = ReadRules(allow_unknown_orientation, max_bytes)

    def cases(self) -> list[Case]:
        groups, orphans = self._groups()
        for path in orphans:
            _log.warning("%s: a label without an image, left out", path)
        where = existing_path(self.folder)
        cases = [
            file_case(
                group.key,
                group.images,
                reference=group.reference,
                is_held_out=group.is_held_out,
                rules=self.rules,
            )
            for group in groups
        ]
        return sorted_cases(cases, where=where)

    def describe(self) -> SourceDescription:
        folder = existing_path(self.folder)
        _, orphans = self._groups()
        return SourceDescription(orphan_labels=tuple(str(p.relative_to(folder)) for p in orphans))

    def _groups(self) -> tuple[list[FileGroup], list[Path]]:
        folder = existing_path(self.folder)
        # With one channel an ending such as _0000 is part of the case's name.
        num_channels = self.num_channels if self.num_channels and self.num_channels > 1 else None
        if folder.is_file():
            return group_images([folder], folder.parent), []
        files = image_files(find_files(folder))
        if not files:
            raise no_images(folder)
        if self.layout != "images":
            groups, orphans = pair_files(files, folder, num_channels=num_channels)
            if groups or orphans:
                return groups, orphans
            if self.layout == "pairs":
                raise InputError(
                    folder,
                    "no image has a label",
                    "keep images in images/ and labels of the same names in labels/, or name them "
                    "<case>_image and <case>_label",
                    code="E_NO_LABELS",
                )
        return group_images(_raw(files, folder), folder, num_channels=num_channels), []


def _raw(files: list[Path], folder: Path) -> list[Path]:
    """Without what a BIDS folder has of results made from its images."""
    top = {path: path.relative_to(folder).parts[0].lower() for path in files}
    if not any(name.startswith("sub-") for name in top.values()):
        return files
    raw = [path for path, name in top.items() if name != DERIVATIVES]
    if len(raw) < len(files):
        _log.info("%s: %d files below it left out", folder / DERIVATIVES, len(files) - len(raw))
    return raw


def no_images(folder: Path) -> InputError:
    """Error for a folder in which nothing is an image."""
    return InputError(
        folder,
        "holds no image (NIfTI, NRRD, MHA, PNG, TIFF, JPEG, BMP or DICOM)",
        "give the folder that holds the images: set data.source.folder=<folder> for training, "
        "source.folder=<folder> for prediction",
        code="E_NO_IMAGES",
    )
