"""The dataset.json of the Medical Segmentation Decathlon and of nnU-Net: read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError, LabelError
from medseg.core.labels import Label, LabelSet

NAME = "dataset.json"
_MAX_BYTES = 64 << 20

# DICOM modality of the names that data sets give their channels; others are "OT".
_MODALITIES = {
    "ct": "CT", "cbct": "CT", "mri": "MR", "mr": "MR", "pet": "PT", "pt": "PT", "us": "US",
    "ultrasound": "US", "t1": "MR", "t1w": "MR", "t1gd": "MR", "t1ce": "MR", "t2": "MR",
    "t2w": "MR", "flair": "MR", "adc": "MR",
}  # fmt: skip


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """The content of `folder`/dataset.json.

    Raises:
        InputError: E_DATASET_JSON, it is missing or not a JSON object.
    """
    path = folder / NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _refused(path, "is larger than 64 MiB")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refused(path, f"cannot be read ({reason})") from error
    if not isinstance(content, dict):
        raise _refused(path, f"holds a {type(content).__name__}, must hold an object")
    return content


def is_decathlon(content: Mapping[str, Any]) -> bool:
    """True for the Decathlon's own form, which lists its training files."""
    return "training" in content


def label_set(content: Mapping[str, Any], path: Path) -> LabelSet | None:
    """The classes: `{"0": "background"}` (Decathlon) or `{"background": 0, "ignore": 9}` (nnU-Net
    v2).

    Raises:
        LabelError: the labels are not understood, overlap (regions) or are not numbered 0, 1, 2,
            ...
    """
    entries = content.get("labels")
    if not entries:
        return None
    if not isinstance(entries, Mapping):
        raise LabelError(path, "labels must map numbers to names", "correct it")
    labels: list[Label] = []
    ignore_id: int | None = None
    for key, value in entries.items():
        if isinstance(value, list):
            raise LabelError(
                path,
                f"the label '{key}' is a region of several numbers, which is not supported yet",
                "give each number its own name",
            )
        name, number = (key, value) if isinstance(value, int) else (value, key)
        if not isinstance(name, str) or not str(number).lstrip("-").isdigit():
            raise LabelError(
                path, f"labels: {key!r}: {value!r} is no name and number", "correct it"
            )
        if name == "ignore":
            ignore_id = int(number)
        else:
            labels.append(Label(name, int(number)))
    try:
        return LabelSet(tuple(labels), ignore_id)
    except LabelError as error:
        raise LabelError(path, f"{error.where}: {error.what}", error.remedy) from error


def channel_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels in order; empty if the file does not say."""
    entries = content.get("channel_names", content.get("modality"))
    if isinstance(entries, str):
        return (entries,)
    if not isinstance(entries, Mapping):
        return ()
    keys = sorted(entries, key=lambda key: (len(str(key)), str(key)))
    return tuple(str(entries[key]) for key in keys)


def modality(channels: tuple[str, ...]) -> str:
    """The DICOM modality that all channels have by their names; "OT" if unknown or mixed."""
    found = {_MODALITIES.get(name.lower().replace("-", "").strip(), "OT") for name in channels}
    return found.pop() if len(found) == 1 else "OT"


def _refused(path: Path, what: str) -> InputError:
    return InputError(path, what, "correct or replace it", code="E_DATASET_JSON")
