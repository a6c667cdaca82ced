"""The layout of the Medical Segmentation Decathlon: dataset.json lists images and labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError, LabelError
from medseg.core.identity import Case
from medseg.core.protocols import SourceDescription
from medseg.sources.dataset_json import NAME, channel_names, label_set, modality, read_dataset_json
from medseg.sources.file_cases import file_case, sorted_cases
from medseg.sources.image_files import file_key, find_files, image_files
from medseg.sources.input_folder import existing_folder
from medseg.sources.read_rules import MAX_BYTES, ReadRules


class Decathlon:
    """Cases of a data set in Decathlon layout.

    Args:
        folder: holds dataset.json, imagesTr, labelsTr and perhaps imagesTs.
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
        """Training cases and, held out, the images of the test list."""
        folder = existing_folder(self.folder)
        content = read_dataset_json(folder)
        try:
            labels = label_set(content, folder / NAME)
        except LabelError:
            labels = None  # describe() raises it; prediction needs no labels.
        kind = modality(channel_names(content))
        cases = []
        for images, reference, is_held_out in _entries(content, folder):
            if not any(path.exists() for path in images):
                continue
            case = file_case(
                _key(images),
                images,
                reference=reference,
                labels=labels,
                modality=kind,
                is_held_out=is_held_out,
                rules=self.rules,
            )
            cases.append(case)
        if not cases:
            raise InputError(
                folder / NAME,
                "none of the images it lists is there",
                "unpack the data set completely, or set the folder that holds imagesTr",
                code="E_NO_IMAGES",
            )
        return sorted_cases(cases, where=folder)

    def describe(self) -> SourceDescription:
        folder = existing_folder(self.folder)
        content = read_dataset_json(folder)
        entries = list(_entries(content, folder))
        used = {
            path
            for images, reference, _ in entries
            if reference is not None and any(image.exists() for image in images)
            for path in [reference]
        }
        stored = (
            image_files(find_files(folder / "labelsTr")) if (folder / "labelsTr").is_dir() else []
        )
        absent = [_key(images) for images, _, _ in entries if not any(p.exists() for p in images)]
        return SourceDescription(
            labels=label_set(content, folder / NAME),
            channel_names=channel_names(content),
            orphan_labels=tuple(
                str(path.relative_to(folder)) for path in stored if path not in used
            ),
            absent_cases=tuple(sorted(absent)),
        )


def _entries(
    content: dict[str, Any], folder: Path
) -> Iterator[tuple[list[Path], Path | None, bool]]:
    """Image files, label file and whether the case is set aside, for each listed case."""
    training, test = content.get("training"), content.get("test") or []
    if not isinstance(training, list) or not isinstance(test, list):
        raise _bad_entry(folder, "'training' and 'test' must be lists")
    for entry in training:
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise _bad_entry(folder, f"'training' holds {entry!r}, must hold an image and a label")
        label = entry.get("label")
        if label is not None and not isinstance(label, str):
            raise _bad_entry(folder, f"'training' names the label {label!r}, must be a file")
        reference = _inside(folder, label) if label else None
        yield _channels(_inside(folder, entry["image"])), reference, False
    for entry in test:
        image = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(image, str):
            raise _bad_entry(folder, f"'test' holds {entry!r}, must hold a file")
        path = _inside(folder, image)
        label_path = folder / "labelsTs" / path.name
        yield _channels(path), label_path if label_path.is_file() else None, True


def _channels(path: Path) -> list[Path]:
    """The listed file, or its channels `name_0000.nii.gz`, ... as nnU-Net 1 stored them."""
    if path.exists():
        return [path]
    key = file_key(path)
    suffix = path.name[len(key) :]
    found = sorted(path.parent.glob(f"{_escaped(key)}_[0-9][0-9][0-9][0-9]{suffix}"))
    return found or [path]


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _key(images: list[Path]) -> str:
    key = file_key(images[0])
    return key if len(images) == 1 and not key.endswith("_0000") else key.removesuffix("_0000")


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise _bad_entry(folder, f"names the file {name!r} outside the data set's folder")
    return path


def _bad_entry(folder: Path, what: str) -> InputError:
    return InputError(folder / NAME, what, "correct it", code="E_DATASET_JSON")
