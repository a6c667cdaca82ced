"""Phantoms as files: data sets in the layout of the Medical Segmentation Decathlon, and DICOM
studies."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.core.atomic import atomic_path, write_text
from medseg.core.errors import OutputError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.dicom.ct_series import write_ct_series
from medseg.sources.phantom_scan import PHANTOM_LABELS, PHANTOM_VERSION, make_phantom

_INVENTORY = "inventory.json"


@dataclass(frozen=True)
class Study:
    """One phantom on disk: the slices of its CT series in order, and its reference."""

    key: str
    series_paths: tuple[Path, ...]
    reference_path: Path


def write_dataset(
    folder: Path, *, num_cases: int, seed: int, formats: Collection[str] = ("nifti",)
) -> list[Path]:
    """Writes phantoms with their references as a data set to train, predict or score on.

    `labelsTr/<key>.nii.gz` holds the references. Format "nifti" adds `imagesTr/<key>.nii.gz` and a
    `dataset.json` as in the Medical Segmentation Decathlon; "dicom" adds a CT series in
    `dicom/<key>/`. Where DICOM is among the formats every image and reference lies on the grid of
    the series, so that results compare voxel by voxel.

    Returns:
        The images: NIfTI files, then folders of DICOM series.

    Raises:
        OutputError: a file cannot be written, or a series is there already.
    """
    images: list[Path] = []
    series: list[Path] = []
    keys = [f"phantom_{number:03d}" for number in range(num_cases)]
    for number, key in enumerate(keys):
        volume, label_map = make_phantom(seed, number, for_series="dicom" in formats)
        if "dicom" in formats:
            series.append(folder / "dicom" / key)
            write_ct_series(volume, series[-1], case_key=key, seed=seed)
        if "nifti" in formats:
            images.append(folder / "imagesTr" / f"{key}.nii.gz")
            _write_nifti(volume.array[0], volume.geometry, images[-1])
        _write_nifti(label_map.array, label_map.geometry, folder / "labelsTr" / f"{key}.nii.gz")
    if "nifti" in formats:
        write_text(folder / "dataset.json", _description(keys, seed=seed))
    return images + series


def held_out_studies(
    folder: Path, *, keys: tuple[str, ...], seed: int, stream: int
) -> tuple[Study, ...]:
    """Held-out phantoms below `folder`, written now unless they are there in full.

    They lie in a folder of their own named after version, seed and count, with dicom/<key>/ and
    references/<key>.nii.gz. That folder appears in one step, whenever the program is killed; two
    programs may do this at the same time.

    Raises:
        OutputError: the folder cannot be written.
    """
    place = folder / f"version_{PHANTOM_VERSION}_seed_{seed}_cases_{len(keys)}"
    if not _is_complete(place):
        try:
            _write_studies(place, keys=keys, seed=seed, stream=stream)
        except OSError as error:
            raise OutputError(
                folder,
                f"the held-out phantoms cannot be written ({error.strerror or error})",
                "choose another place with data.source.studies_folder=<folder>",
            ) from error
    return tuple(
        Study(
            key,
            tuple(sorted((place / "dicom" / key).glob("*.dcm"))),
            place / "references" / f"{key}.nii.gz",
        )
        for key in keys
    )


def read_reference(path: Path, labels: LabelSet) -> LabelMap:
    """The label map of a reference that this file wrote."""
    image = nib.load(path)
    return LabelMap(
        np.asarray(image.dataobj).astype(np.uint8), Geometry(image.shape, image.affine), labels
    )


def _write_studies(place: Path, *, keys: tuple[str, ...], seed: int, stream: int) -> None:
    unfinished = place.with_name(f".{secrets.token_hex(6)}.{place.name}")
    try:
        for number, key in enumerate(keys):
            volume, label_map = make_phantom(seed, number, stream=stream, for_series=True)
            write_ct_series(volume, unfinished / "dicom" / key, case_key=key, seed=seed)
            reference_path = unfinished / "references" / f"{key}.nii.gz"
            _write_nifti(label_map.array, label_map.geometry, reference_path)
        sizes = {
            str(path.relative_to(unfinished)): path.stat().st_size
            for path in sorted(unfinished.rglob("*"))
            if path.is_file()
        }
        write_text(unfinished / _INVENTORY, json.dumps(sizes, indent=1) + "\n")
        if place.exists() and not _is_complete(place):
            # Someone removed a part of it: put the rest out of the way before the new one takes
            # its place.
            remains = place.with_name(f".{secrets.token_hex(6)}.{place.name}")
            place.replace(remains)
            shutil.rmtree(remains, ignore_errors=True)
        try:
            unfinished.replace(place)
        except OSError:
            if not _is_complete(place):  # else another program was first
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _description(keys: Sequence[str], *, seed: int) -> str:
    """The text of a dataset.json as in the Medical Segmentation Decathlon."""
    entries = [
        {"image": f"./imagesTr/{key}.nii.gz", "label": f"./labelsTr/{key}.nii.gz"} for key in keys
    ]
    description = {
        "name": "liver phantom",
        "description": f"Synthetic abdominal CT, seed {seed}; not for patients",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(label.class_id): label.name for label in PHANTOM_LABELS.labels},
        "numTraining": len(entries),
        "numTest": 0,
        "training": entries,
        "test": [],
    }
    return json.dumps(description, indent=2) + "\n"


def _is_complete(place: Path) -> bool:
    try:
        sizes = json.loads((place / _INVENTORY).read_text())
        return all((place / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _write_nifti(array: np.ndarray, geometry: Geometry, path: Path) -> None:
    image = nib.Nifti1Image(np.ascontiguousarray(array), geometry.affine)
    image.set_qform(geometry.affine, code=1)
    image.set_sform(geometry.affine, code=1)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as unfinished:
        nib.save(image, unfinished)
