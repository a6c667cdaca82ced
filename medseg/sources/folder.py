"""Any folder of images: the layout is recognised and read by the source that fits."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg.core.errors import LabelError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import SegmentationKind, Source, SourceDescription
from medseg.sources.coco import CocoFile, coco_file_in
from medseg.sources.dataset_json import NAME, is_decathlon, read_dataset_json
from medseg.sources.decathlon import Decathlon
from medseg.sources.dicom_files import may_be_dicom
from medseg.sources.file_cases import sorted_cases
from medseg.sources.image_files import find_files, image_files, is_image_file
from medseg.sources.input_folder import existing_path
from medseg.sources.instance_folders import (
    InstanceFolder,
    ObjectMaskFolder,
    has_instances,
    has_object_masks,
)
from medseg.sources.nifti_files import NiftiFiles, no_images
from medseg.sources.nnunet import NnUNetRaw, looks_like_nnunet
from medseg.sources.read_rules import MAX_BYTES

if TYPE_CHECKING:
    from medseg.sources.dicom_folder import DicomFolder

_log = logging.getLogger(__name__)

Layout = Literal[
    "auto", "decathlon", "nnunet", "pairs", "images", "dicom", "instances", "object_masks", "coco"
]

_TITLES: dict[Layout, str] = {
    "auto": "image files",
    "decathlon": "a data set of the Medical Segmentation Decathlon",
    "nnunet": "a data set of nnU-Net",
    "pairs": "images with labels",
    "images": "images without labels",
    "dicom": "DICOM",
    "instances": "images with one number per object",
    "object_masks": "images with one mask per object",
    "coco": "images with a COCO file",
}


class Folder:
    """Cases below a folder, whatever its layout.

    Args:
        folder: folder, or a single image or DICOM file.
        layout: "auto" looks: images/ with instances/ make it "instances", folders with images/ and
            masks/ "object_masks", a COCO file "coco", a dataset.json "decathlon" or "nnunet", else
            image files make it "pairs" (if there are labels) or "images", and DICOM files "dicom";
            images and DICOM in one folder are both read.
        num_channels: if above 1, the files `a_0000`, `a_0001`, ... are the channels of the case
            `a`.
        allow_unknown_orientation: read files without orientation as if their axes were R, A, S.
        max_bytes: largest decoded image in bytes.
        on_gap: "refuse" DICOM series with missing slices, or "resample" to interpolate them.
        trust_positions: take DICOM positions as comparable although FrameOfReferenceUID differs
            within a series; for data whose anonymiser is known to have renumbered it.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        layout: Layout = "auto",
        num_channels: int | None = None,
        allow_unknown_orientation: bool = False,
        max_bytes: int = MAX_BYTES,
        on_gap: str = "refuse",
        trust_positions: bool = False,
    ) -> None:
        self.folder = folder
        self.layout = layout
        self.num_channels = num_channels
        self.allow_unknown_orientation = allow_unknown_orientation
        self.max_bytes = max_bytes
        self.on_gap = on_gap
        self.trust_positions = trust_positions
        self._is_for_training = False
        self._labels: LabelSet | SegmentationKind | None = None
        self._dicom: DicomFolder | None = None
        self._told: list[str] = []  # shared with the copies of `labelled_by`

    def labelled_by(self, labels: LabelSet | SegmentationKind | None) -> Folder:
        """The same folder, for training; of concern to DICOM, see `DicomFolder.labelled_by`."""
        chosen = copy.copy(self)
        chosen._labels = labels
        chosen._is_for_training = True
        return chosen

    def cases(self) -> list[Case]:
        layouts = self._layouts()
        cases = [case for layout in layouts for case in self._source(layout).cases()]
        titles = " and ".join(_TITLES[layout] for layout in layouts)
        told = f"{self.folder}: {len(cases)} cases, read as {titles}"
        if told not in self._told:
            self._told.append(told)
            _log.info("%s", told)
        return sorted_cases(cases, where=str(self.folder))

    def describe(self) -> SourceDescription:
        descriptions = [self._source(layout).describe() for layout in self._layouts()]
        refused = tuple(error for description in descriptions for error in description.refused)
        return replace(descriptions[0], refused=refused)

    def _layouts(self) -> Sequence[Layout]:
        folder = existing_path(self.folder)
        layouts: list[Layout] = [self.layout] if self.layout != "auto" else _recognised(folder)
        if isinstance(self._labels, str):
            if "dicom" not in layouts:
                raise LabelError(
                    "data.labels",
                    f"is {self._labels}, but {folder} holds no DICOM",
                    "give the folder of the DICOM studies, or name the labels of these files",
                )
            layouts = ["dicom"]  # image files beside DICOM have no segments to name
        return layouts

    def _source(self, layout: Layout) -> Source:
        unknown, limit = self.allow_unknown_orientation, self.max_bytes
        name = str(existing_path(self.folder))
        if layout == "dicom":
            from medseg.sources.dicom_folder import DicomFolder

            if self._dicom is None:
                # Kept, since it looks at every file once.
                self._dicom = DicomFolder(
                    name, on_gap=self.on_gap, trust_positions=self.trust_positions
                )
            return self._dicom.labelled_by(self._labels) if self._is_for_training else self._dicom
        if layout == "decathlon":
            return Decathlon(name, allow_unknown_orientation=unknown, max_bytes=limit)
        if layout == "instances":
            return InstanceFolder(
                name,
                num_channels=self.num_channels,
                allow_unknown_orientation=unknown,
                max_bytes=limit,
            )
        if layout == "object_masks":
            return ObjectMaskFolder(name, allow_unknown_orientation=unknown, max_bytes=limit)
        if layout == "coco":
            return CocoFile(name, max_bytes=limit)
        if layout == "nnunet":
            return NnUNetRaw(name, allow_unknown_orientation=unknown, max_bytes=limit)
        return NiftiFiles(
            name,
            layout="pairs" if layout == "pairs" else "images" if layout == "images" else "auto",
            num_channels=self.num_channels,
            allow_unknown_orientation=unknown,
            max_bytes=limit,
        )


def _recognised(folder: Path) -> list[Layout]:
    """The layouts to read; "auto" stands for image files with or without labels."""
    if folder.is_file():
        return ["auto"] if is_image_file(folder) else ["dicom"]
    if (folder / NAME).exists():
        content = read_dataset_json(folder)
        if is_decathlon(content):
            return ["decathlon"]
        if "channel_names" in content or "labels" in content:
            return ["nnunet"]
    if looks_like_nnunet(folder):
        return ["nnunet"]
    if has_instances(folder):
        return ["instances"]
    if has_object_masks(folder):
        return ["object_masks"]
    if coco_file_in(folder) is not None:
        return ["coco"]
    files = find_files(folder)
    layouts: list[Layout] = ["auto"] if image_files(files) else []
    if any(may_be_dicom(path) for path in files):
        layouts.append("dicom")
    if not layouts:
        raise no_images(folder)
    return layouts
