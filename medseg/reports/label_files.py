"""Which label map files a folder of predictions or references holds, by case; names only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import InputError
from medseg.core.labels import LabelSet
from medseg.sources.class_masks import DERIVATIVES
from medseg.sources.dataset_json import NAME as DATASET_JSON
from medseg.sources.dataset_json import label_set, read_dataset_json
from medseg.sources.image_files import file_key, image_files
from medseg.sources.instance_folders import INSTANCES, has_instances
from medseg.sources.pairing import pair_files
from medseg.writers.names import PREVIEW, PROBABILITIES

# Where data sets keep their references: Decathlon and nnU-Net; then folders of pairs.
_SPLIT_FOLDERS = ("labelsTr", "labelsTs")
_PAIR_FOLDERS = ("labels", "masks", "segmentations")


@dataclass(frozen=True)
class LabelFiles:
    """Label maps by case.

    Args:
        folder: as given.
        paths: file by case key, sorted by key.
        is_dataset: True if they belong to a data set's own folder, of which any part may be scored.
        labels: from the data set's dataset.json; None if it has none.
    """

    folder: Path
    paths: dict[str, Path]
    is_dataset: bool = False
    labels: LabelSet | None = None


def find_references(folder: str | Path) -> LabelFiles:
    """References in a folder of label maps or in a data set's folder.

    A data set's folder has labelsTr (and labelsTs) or a folder called labels, masks or
    segmentations, or is itself labelsTr or labelsTs beside a dataset.json; or it holds images and
    labels together, told apart by their names (`a.nii.gz` and `a_seg.nii.gz`).

    Raises:
        InputError: the folder is missing, holds no label map, or holds two for one case.
        LabelError: the labels of dataset.json cannot be understood.
    """
    root = _existing(folder, option="references")
    split = [root / name for name in _SPLIT_FOLDERS if (root / name).is_dir()]
    pairs = [root / name for name in _PAIR_FOLDERS if (root / name).is_dir()]
    if split or pairs[:1]:
        files = [path for part in split or pairs[:1] for path in _files(part)]
        return LabelFiles(root, _by_key(files, root), is_dataset=True, labels=_labels(root))
    files = _files(root)
    groups, _ = pair_files(files, root)
    paired = {group.key: group.reference for group in groups if group.reference is not None}
    if paired:
        return LabelFiles(root, dict(sorted(paired.items())), is_dataset=True, labels=_labels(root))
    parent = root.resolve().parent
    is_dataset = root.resolve().name in _SPLIT_FOLDERS and (parent / DATASET_JSON).is_file()
    found = _by_key(files, root)
    if not found:
        raise _no_label_maps(root, option="references")
    return LabelFiles(root, found, is_dataset, _labels(parent if is_dataset else root))


def refuse_objects(folder: str | Path) -> None:
    """Raises InputError for a folder of references that numbers objects, which look like classes
    and would be scored as such without a word.
    """
    root = _existing(folder, option="references")
    whole = root.resolve()
    is_part = whole.name == INSTANCES and has_instances(whole.parent)
    has_classes = any((root / name).is_dir() for name in (*_SPLIT_FOLDERS, *_PAIR_FOLDERS))
    if is_part or (has_instances(root) and not has_classes):
        raise InputError(
            root,
            "numbers objects, while the predictions name classes",
            "set instances_from=components to score the connected parts of the predictions",
            code="E_NO_IMAGES",
        )


def find_predictions(folder: str | Path) -> LabelFiles:
    """Label maps directly in a folder; other files, such as DICOM objects, are left out.

    Raises:
        InputError: the folder is missing, holds no label map, or holds two for one case.
    """
    root = _existing(folder, option="predictions")
    found = _by_key(_files(root), root)
    # Probabilities and pictures lie beside the label map that they belong to.
    beside = {f"{key}{ending}" for key in found for ending in (PROBABILITIES, PREVIEW)}
    found = {key: path for key, path in found.items() if key not in beside}
    if not found:
        raise _no_label_maps(root, option="predictions")
    return LabelFiles(root, found)


def _files(folder: Path) -> list[Path]:
    inside = (path for path in folder.iterdir() if not path.name.startswith("."))
    return image_files(sorted(path for path in inside if path.is_file()))


def _by_key(files: list[Path], folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        key = file_key(path)
        if key in found:
            raise InputError(
                folder,
                f"holds two label maps of the case {key}: {found[key].name} and {path.name}",
                "keep one of them",
                code="E_KEY_COLLISION",
            )
        found[key] = path
    return dict(sorted(found.items()))


def _labels(folder: Path) -> LabelSet | None:
    if not (folder / DATASET_JSON).is_file():
        return None
    return label_set(read_dataset_json(folder), folder / DATASET_JSON)


def _existing(folder: str | Path, *, option: str) -> Path:
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(
            root,
            "is a file, must be a folder" if root.exists() else "there is no such folder",
            f"set {option}=<folder of label maps>",
            code="E_NO_FOLDER",
        )
    return root


def _no_label_maps(folder: Path, *, option: str) -> InputError:
    remedy = f"set {option} to the folder that holds the files themselves"
    if option == "references" and (folder / DERIVATIVES / "labels").is_dir():
        remedy = (
            f"for this BIDS folder leave out references, and set source=class_masks "
            f"source.folder={folder} and source.masks, such as '{{1: seg-axon-manual}}'"
        )
    return InputError(
        folder,
        "holds no label map (NIfTI, NRRD, MHA, PNG or TIFF)",
        remedy,
        code="E_NO_IMAGES",
    )
