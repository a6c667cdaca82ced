"""The dataset.json of the Medical Segmentation Decathlon and of nnU-Net: read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError, LabelError
from medseg.core.labels import Label, LabelSet, Region, region_list

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
    v2), whose lists of numbers are regions and then stand beside `regions_class_order`.

    Raises:
        LabelError: the labels are not understood or not numbered 0, 1, 2, ...
    """
    entries = content.get("labels")
    if not entries:
        return None
    if not isinstance(entries, Mapping):
        raise LabelError(path, "labels must map numbers to names", "correct it")
    try:
        if any(isinstance(value, list) for value in entries.values()):
            return _with_regions(entries, content.get("regions_class_order"), path)
        numbered = list(_numbered(entries, path))
        return LabelSet(
            tuple(Label(name, number) for name, number in numbered if name != "ignore"),
            dict(numbered).get("ignore"),
        )
    except LabelError as error:
        if error.where == str(path):
            raise
        raise LabelError(path, f"{error.where}: {error.what}", error.remedy) from error


def _numbered(entries: Mapping[str, Any], path: Path) -> Iterator[tuple[str, int]]:
    for key, value in entries.items():
        name, number = (key, value) if isinstance(value, int) else (value, key)
        if not isinstance(name, str) or not str(number).lstrip("-").isdigit():
            raise LabelError(
                path, f"labels: {key!r}: {value!r} is no name and number", "correct it"
            )
        yield name, int(number)


def _with_regions(entries: Mapping[str, Any], order: Any, path: Path) -> LabelSet:
    """nnU-Net's regions: every entry but background and ignore is one, in the order of the file.

    A class has the name of the region that it is alone in, else its number.
    """
    single = {name: n for name, n in entries.items() if not isinstance(n, list)}
    numbers = dict(_numbered(single, path))
    ignore_id = numbers.pop("ignore", None)
    background = next((name for name, n in numbers.items() if n == 0), "background")
    members = {
        name: list(value) if isinstance(value, list) else [value]
        for name, value in entries.items()
        if name not in ("ignore", background)
    }
    if not all(isinstance(n, int) for ids in members.values() for n in ids):
        raise LabelError(path, "labels: a region must list whole numbers", "correct it")
    if order is None:
        regions = region_list(members, where="labels")
    elif isinstance(order, list) and len(order) == len(members):
        regions = tuple(
            Region(name, tuple(ids), int(paints))
            for (name, ids), paints in zip(members.items(), order, strict=True)
        )
    else:
        raise LabelError(
            path,
            f"regions_class_order is {order!r}, but there are {len(members)} regions",
            "give one class number per region",
        )
    alone = {ids[0]: name for name, ids in members.items() if len(ids) == 1}
    class_ids = sorted({n for ids in members.values() for n in ids})
    labels = [Label(background, 0)]
    labels += [Label(alone.get(n, f"label_{n}"), n) for n in class_ids]
    return LabelSet(tuple(labels), ignore_id, regions)


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
