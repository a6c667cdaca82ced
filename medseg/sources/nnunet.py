"""The raw layout of nnU-Net v2: imagesTr/case_0000.nii.gz, labelsTr/case.nii.gz, dataset.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError, LabelError
from medseg.core.identity import Case
from medseg.core.protocols import SourceDescription
from medseg.sources.dataset_json import NAME, channel_names, label_set, modality, read_dataset_json
from medseg.sources.file_cases import file_case, sorted_cases
from medseg.sources.image_files import file_key, find_files, image_files
from medseg.sources.input_folder import existing_folder
from medseg.sources.pairing import FileGroup, group_images, pair_files
from medseg.sources.read_rules import MAX_BYTES, ReadRules


class NnUNetRaw:
    """Cases of a data set in nnU-Net's raw layout.

    Args:
        folder: holds imagesTr, labelsTr and dataset.json; cases of imagesTs are held out.
        allow_unknown_orientation: read files without orientation as if their axes were R, A, S.
        max_bytes: largest decoded image in bytes.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        allow_unknown_orientation: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.folder = folder
        self.rules = ReadRules(allow_unknown_orientation, max_bytes)

    def cases(self) -> list[Case]:
        folder = existing_folder(self.folder)
        content = _content(folder)
        try:
            labels = label_set(content, folder / NAME)
        except LabelError:
            labels = None  # describe() raises it; prediction needs no labels.
        kind = modality(channel_names(content))
        groups, _ = _groups(folder, content)
        if not groups:
            raise InputError(
                folder,
                "has no image in imagesTr or imagesTs",
                "set the folder that holds imagesTr",
                code="E_NO_IMAGES",
            )
        cases = [
            file_case(
                group.key,
                group.images,
                reference=group.reference,
                labels=labels,
                modality=kind,
                is_held_out=group.is_held_out,
                rules=self.rules,
            )
            for group in groups
        ]
        return sorted_cases(cases, where=folder)

    def describe(self) -> SourceDescription:
        folder = existing_folder(self.folder)
        content = _content(folder)
        _, orphans = _groups(folder, content)
        return SourceDescription(
            labels=label_set(content, folder / NAME),
            channel_names=channel_names(content),
            orphan_labels=tuple(str(path.relative_to(folder)) for path in orphans),
        )


def looks_like_nnunet(folder: Path) -> bool:
    """True if imagesTr or imagesTs holds files named `case_0000`."""
    return any(any((folder / name).glob("*_0000.*")) for name in ("imagesTr", "imagesTs"))


def _content(folder: Path) -> dict[str, Any]:
    return read_dataset_json(folder) if (folder / NAME).exists() else {}


def _groups(folder: Path, content: Mapping[str, Any]) -> tuple[list[FileGroup], list[Path]]:
    if isinstance(content.get("dataset"), Mapping):
        return _listed(folder, content["dataset"]), []
    names = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
    parts = [folder / name for name in names if (folder / name).is_dir()]
    files = image_files(path for part in parts for path in find_files(part))
    num_channels = len(channel_names(content)) or _most_channels(files)
    groups, orphans = pair_files(files, folder, num_channels=num_channels)
    if groups or orphans:
        return groups, orphans
    return group_images(files, folder, num_channels=num_channels), []


def _listed(folder: Path, entries: Mapping[str, Any]) -> list[FileGroup]:
    """Cases of the optional list `dataset: {case: {images: [...], label: ...}}`."""
    groups = []
    for key, entry in entries.items():
        images = entry.get("images") if isinstance(entry, Mapping) else None
        label = entry.get("label") if isinstance(entry, Mapping) else None
        names = [*images, label or ""] if isinstance(images, list) and images else [None]
        if not all(isinstance(name, str) for name in names):
            raise InputError(
                folder / NAME,
                f"dataset.{key} must have a list of images and a label",
                "correct it",
                code="E_DATASET_JSON",
            )
        paths = tuple(folder / str(name) for name in names[:-1])
        groups.append(FileGroup(str(key), paths, folder / str(label) if label else None))
    return groups


def _most_channels(files: list[Path]) -> int:
    """Channels by the highest ending such as _0001, where dataset.json does not say."""
    endings = [file_key(path).rpartition("_")[2] for path in files]
    return (
        max((int(e) for e in endings if len(e) == 4 and e.isdigit() and e < "0100"), default=0) + 1
    )
