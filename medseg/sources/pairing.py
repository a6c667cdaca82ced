"""Which file is an image, which its label, and what the case is called; names only, no reading."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import InputError
from medseg.sources.image_files import file_key

_IMAGE_FOLDERS = {"images", "image", "imgs", "img", "imagestr"}
_LABEL_FOLDERS = {
    "labels", "label", "labelstr", "masks", "mask", "segmentations", "segmentation", "segs", "seg",
}  # fmt: skip
_TEST_FOLDERS = {"imagests": "images", "labelsts": "labels"}

_IMAGE_END = re.compile(r"^(.*?)[_.\-]?(image|img|imaging|volume)$", re.IGNORECASE)
_LABEL_END = re.compile(
    r"^(.*?)[_.\-]?((?:label|seg|mask)-manual|labels?|seg|segmentation|mask|gt)$", re.IGNORECASE
)
_CHANNEL_END = re.compile(r"^(.+)_(\d{4})$")


@dataclass(frozen=True)
class FileGroup:
    """The files of one case.

    Args:
        key: the case's name.
        images: one file per channel, or one file with all of them.
        reference: the label map; None if there is none.
        is_held_out: the files are in imagesTs.
    """

    key: str
    images: tuple[Path, ...]
    reference: Path | None = None
    is_held_out: bool = False


def group_images(
    files: Sequence[Path], folder: Path, *, num_channels: int | None = None
) -> list[FileGroup]:
    """One case per image; with `num_channels`, `key_0000`, `key_0001`, ... are the case `key`."""
    channels: dict[tuple[Path, str, str], list[Path]] = defaultdict(list)
    for path in files:
        key = _channel_key(path, num_channels)
        # Files of one name that are not channels stay cases of their own, and are refused later.
        channels[path.parent, key, path.name if key == file_key(path) else ""].append(path)
    keys = _unique_keys([(parent, key) for parent, key, _ in channels], folder)
    return [
        FileGroup(key, _all_channels(found, num_channels), None, _role(found[0], folder).is_test)
        for key, found in zip(keys, channels.values(), strict=True)
    ]


def pair_files(
    files: Sequence[Path], folder: Path, *, num_channels: int | None = None
) -> tuple[list[FileGroup], list[Path]]:
    """Images with their labels, and labels without an image; both empty if there are no labels.

    Labels are known by their folder (images/ and labels/, imagesTr and labelsTr) or else by the
    end of their name (`a_image` and `a_label`, `a` and `a_seg`, one folder per case with `image`
    and `label`).

    Raises:
        InputError: E_AMBIGUOUS_LABEL, an image has several labels.
    """
    roles = {path: _role(path, folder) for path in files}
    kinds = {role.kind for role in roles.values()}
    if not {"images", "labels"} <= kinds:
        roles = {path: _role_by_name(path, files) for path in files}
        if "labels" not in {role.kind for role in roles.values()}:
            return [], []
    images = [path for path, role in roles.items() if role.kind == "images"]
    groups = group_images(images, folder, num_channels=num_channels)
    labels: dict[tuple[Path, str, bool], list[Path]] = defaultdict(list)
    for path, role in roles.items():
        if role.kind == "labels":
            for name in role.names:
                labels[role.place, name, role.is_test].append(path)
    paired, used = [], set[Path]()
    for group in groups:
        role = roles[group.images[0]]
        wanted = [_channel_key(group.images[0], num_channels), *role.names]
        found = [labels[role.place, name, role.is_test] for name in wanted]
        candidates = next((paths for paths in found if paths), [])
        if len(candidates) > 1:
            raise InputError(
                group.images[0],
                f"has several labels: {', '.join(path.name for path in candidates)}",
                "keep one of them, or list image and label of each case in a manifest",
                code="E_AMBIGUOUS_LABEL",
            )
        used.update(candidates)
        reference = candidates[0] if candidates else None
        key = _key_without_image_end(group.key, role) if reference else group.key
        paired.append(FileGroup(key, group.images, reference, role.is_test))
    orphans = [path for path, role in roles.items() if role.kind == "labels" and path not in used]
    return paired, orphans


@dataclass(frozen=True)
class _Role:
    """Kind of a file; the place and the names under which image and label find each other."""

    kind: str
    place: Path
    names: tuple[str, ...]
    is_test: bool = False


def _role(path: Path, folder: Path) -> _Role:
    """Role by a folder's name on the way from the data set's folder to the file."""
    parts = path.relative_to(folder).parts[:-1]
    for n, part in enumerate(parts):
        name = part.casefold()
        kind = _TEST_FOLDERS.get(name, "")
        kind = kind or ("images" if name in _IMAGE_FOLDERS else "")
        kind = kind or ("labels" if name in _LABEL_FOLDERS else "")
        if kind:
            place = folder.joinpath(*parts[:n], *parts[n + 1 :])
            key = file_key(path)
            end = (_LABEL_END if kind == "labels" else _IMAGE_END).match(key)
            names = (key, end[1]) if end and end[1] else (key,)
            return _Role(kind, place, names, name in _TEST_FOLDERS)
    return _Role("other", path.parent, ())


def _role_by_name(path: Path, files: Sequence[Path]) -> _Role:
    """Role by the end of the file's name, if the other half is in the same folder."""
    beside = {file_key(other) for other in files if other.parent == path.parent}
    key = file_key(path)
    label = _LABEL_END.match(key)
    if label and _is_image_of(label[1], beside - {key}):
        return _Role("labels", path.parent, (label[1],))
    image = _IMAGE_END.match(key)
    return _Role("images", path.parent, (key, image[1]) if image else (key,))


def _is_image_of(base: str, names: set[str]) -> bool:
    if base and base in names:
        return True
    ends = (_IMAGE_END.match(name) for name in names)
    return any(end is not None and end[1] == base for end in ends)


def _key_without_image_end(key: str, role: _Role) -> str:
    """`a` for `a_image`; the folder's name for a file that is called just `image`."""
    end = _IMAGE_END.match(key)
    if end is None or len(role.names) < 2:
        return key
    return end[1] or role.place.name


def _channel_key(path: Path, num_channels: int | None) -> str:
    key = file_key(path)
    end = _CHANNEL_END.match(key)
    return end[1] if end and num_channels is not None else key


def _all_channels(found: list[Path], num_channels: int | None) -> tuple[Path, ...]:
    """The files of all channels in order; missing ones are named, so that reading reports them."""
    first = found[0]
    key = file_key(first)
    end = _CHANNEL_END.match(key)
    if num_channels is None or end is None:
        return tuple(found)
    suffix = first.name[len(key) :]
    wanted = [first.with_name(f"{end[1]}_{n:04d}{suffix}") for n in range(num_channels)]
    return tuple(dict.fromkeys([*wanted, *sorted(found)]))


def _unique_keys(places: Sequence[tuple[Path, str]], folder: Path) -> list[str]:
    """Names of the cases: the file's own, with its folders in front where names repeat."""
    counts = Counter(name.casefold() for _, name in places)
    return [
        name
        if counts[name.casefold()] == 1
        else "_".join((*parent.relative_to(folder).parts, name))
        for parent, name in places
    ]
