"""A list of cases in a CSV or JSON file: images, label, patient and split of each."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError, raise_all
from medseg.core.identity import Case
from medseg.core.protocols import SourceDescription
from medseg.core.segmentation import LabelMap
from medseg.sources.file_cases import file_case, sorted_cases
from medseg.sources.image_files import file_key, is_image_file
from medseg.sources.input_folder import existing_path
from medseg.sources.label_maps import read_label_map
from medseg.sources.read_rules import MAX_BYTES, ReadRules

_MAX_BYTES = 256 << 20
_SPLITS = {"": False, "train": False, "training": False, "test": True, "held_out": True}
_IMAGE_COLUMN = re.compile(r"^image(_[1-9]\d*)?$")
_OTHER_COLUMNS = {"key", "label", "patient", "split"}
# A key becomes a file name.
_KEY = re.compile(r"^[^/\\\0:*?\"<>|\s.][^/\\\0:*?\"<>|\r\n\t]*$")


@dataclass(frozen=True)
class _Entry:
    """One line of the list; `where` names it in messages."""

    where: str
    key: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    split: str


class Manifest:
    """Cases listed in a file; paths in it are relative to it.

    A CSV file has the columns `image` (for several channels also `image_2`, `image_3`, ...) and, as
    wanted, `key`, `label`, `patient` and `split` (train or test); a JSON file holds a list of
    objects with these names, where `image` may be a list. An image may be a file or a folder with
    one DICOM series. Cases of one patient stay together when data are split.

    Args:
        path: the .csv or .json file.
        allow_unknown_orientation: read files without orientation as if their axes were R, A, S.
        max_bytes: largest decoded image in bytes.
    """

    def __init__(
        self,
        path: str | None,
        *,
        allow_unknown_orientation: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.path = path
        self.rules = ReadRules(allow_unknown_orientation, max_bytes)

    def cases(self) -> list[Case]:
        """All listed cases.

        Raises:
            InputError: E_MANIFEST, listing everything that is wrong with the list.
        """
        path = existing_path(self.path, option="path")
        problems: list[InputError] = []
        entries = _entries(path, problems)
        for entry in entries:
            problems.extend(_problems(entry))
        counts = Counter(entry.key.casefold() for entry in entries)
        problems.extend(
            _wrong(
                entry.where, f"the key '{entry.key}' is used {counts[entry.key.casefold()]} times"
            )
            for entry in entries
            if counts[entry.key.casefold()] > 1
        )
        raise_all(problems, where=str(path), what="problems in the list of cases")
        if not entries:
            raise _wrong(str(path), "lists no case")
        return sorted_cases([self._case(entry) for entry in entries], where=path)

    def describe(self) -> SourceDescription:
        return SourceDescription()

    def _case(self, entry: _Entry) -> Case:
        is_held_out = _SPLITS[entry.split]
        first = entry.images[0]
        if is_image_file(first) and not first.is_dir():
            return file_case(
                entry.key,
                entry.images,
                reference=entry.label,
                group=entry.patient,
                is_held_out=is_held_out,
                rules=self.rules,
            )
        case = _only_dicom_case(first)
        read_reference = (
            None
            if entry.label is None
            else partial(_read_reference, entry.label, case=case, rules=self.rules)
        )
        return replace(
            case,
            key=entry.key,
            group=entry.patient or case.group,
            is_held_out=is_held_out,
            read_reference=read_reference,
            paths=case.paths if entry.label is None else (*case.paths, entry.label),
        )


def _only_dicom_case(path: Path) -> Case:
    from medseg.sources.dicom_folder import DicomFolder

    found = DicomFolder(str(path)).cases()
    if len(found) > 1:
        raise _wrong(str(path), f"holds {len(found)} DICOM volumes, a case has one")
    return found[0]


def _read_reference(path: Path, *, case: Case, rules: ReadRules) -> LabelMap:
    return read_label_map(path, None, geometry=case.read_image().geometry, rules=rules)


def _entries(path: Path, problems: list[InputError]) -> list[_Entry]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _wrong(str(path), "is larger than 256 MiB")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise _wrong(str(path), f"cannot be read ({reason})") from error
    if path.suffix.lower() == ".json" or text.lstrip()[:1] == "[":
        rows = _json_rows(text, path)
    else:
        rows = _csv_rows(text, path)
    entries = []
    for where, row in rows:
        try:
            entries.append(_entry(where, row, path.parent))
        except InputError as error:
            problems.append(error)
    return entries


def _csv_rows(text: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = names
        rows = [(f"{path.name}, line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise _wrong(str(path), f"is not a CSV table ({error})") from error
    if "image" not in names:
        raise _wrong(str(path), f"has the columns {', '.join(names) or 'none'}, but not 'image'")
    return [(where, row) for where, row in rows if any(row.values())]


def _json_rows(text: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(str(path), f"is not JSON ({error})") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise _wrong(str(path), "must hold a list of objects")
    return [(f"{path.name}, case {n}", row) for n, row in enumerate(content, start=1)]


def _entry(where: str, row: Mapping[str, Any], folder: Path) -> _Entry:
    unknown = [
        str(name)
        for name in row
        if str(name) not in _OTHER_COLUMNS and not _IMAGE_COLUMN.match(str(name))
    ]
    if unknown:
        raise _wrong(
            where,
            f"has the unknown column{'s' * (len(unknown) > 1)} {', '.join(unknown[:5])}"
            if "None" not in unknown
            else "has more fields than there are columns",
        )
    images = row.get("image")
    names = list(images) if isinstance(images, list) else [images]
    columns = [name for name in row if str(name).startswith("image_")]
    names += [row[name] for name in sorted(columns, key=lambda name: int(name[6:])) if row[name]]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise _wrong(where, "names no image")
    texts = {name: row.get(name) or "" for name in _OTHER_COLUMNS}
    if not all(isinstance(value, str) for value in texts.values()):
        raise _wrong(where, "key, label, patient and split must be text")
    paths = tuple(folder / Path(str(name).strip()).expanduser() for name in names)
    label = texts["label"].strip()
    return _Entry(
        where,
        texts["key"].strip() or file_key(paths[0]),
        paths,
        folder / Path(label).expanduser() if label else None,
        texts["patient"].strip(),
        texts["split"].strip().lower(),
    )


def _problems(entry: _Entry) -> list[InputError]:
    found = []
    if not _KEY.match(entry.key):
        found.append(_wrong(entry.where, f"the key {entry.key!r} cannot be a file name"))
    if entry.split not in _SPLITS:
        found.append(_wrong(entry.where, f"the split '{entry.split}' must be train or test"))
    files = [*entry.images, *([entry.label] if entry.label else [])]
    found += [
        _wrong(entry.where, f"there is no file {path}") for path in files if not _exists(path)
    ]
    kinds = {is_image_file(path) for path in entry.images}
    if len(entry.images) > 1 and kinds != {True}:
        found.append(_wrong(entry.where, "only image files can be channels of one case"))
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _wrong(where: str, what: str) -> InputError:
    return InputError(where, what, code="E_MANIFEST")
