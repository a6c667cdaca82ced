"""Phantoms as files: data sets in the layout of the Medical Segmentation Decathlon, and DICOM
studies."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.core.atomic import atomic_path, write_text
from medseg.core.errors import OutputError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.dicom.ct_series import series_geometry, write_ct_series
from medseg.sources.phantom_scan import PHANTOM_LABELS, PHANTOM_VERSION, make_phantom

NOTICE = "trained on synthetic phantoms, not for patients"

_INVENTORY = "inventory.json"


@dataclass(frozen=True)
class Study:
    """One phantom on disk: the slices of its CT series in order, and its reference."""

    key: str
    series_paths: tuple[Path, ...]
    reference_path: Path


def write_nifti_dataset(folder: Path, *, keys: Iterable[str], seed: int) -> list[Path]:
    """Writes imagesTr/<key>.nii.gz, labelsTr/<key>.nii.gz and dataset.json; returns the images.

    Case n of `seed` gets the n-th key.
    """
    images = []
    entries = []
    for number, key in enumerate(keys):
        volume, label_map = make_phantom(seed, number)
        image_path = folder / "imagesTr" / f"{key}.nii.gz"
        reference_path = folder / "labelsTr" / f"{key}.nii.gz"
        _write_nifti(volume.array[0], volume.geometry, image_path)
        _write_nifti(label_map.array, label_map.geometry, reference_path)
        images.append(image_path)
        entries.append({"image": f"./imagesTr/{key}.nii.gz", "label": f"./labelsTr/{key}.nii.gz"})
    description = {
        "name": "liver phantom",
        "description": f"Synthetic abdominal CT, seed {seed}: {NOTICE}",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(label.class_id): label.name for label in PHANTOM_LABELS.labels},
        "numTraining": len(entries),
        "numTest": 0,
        "training": entries,
        "test": [],
    }
    write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")
    return images


def write_study(
    folder: Path, key: str, *, seed: int, number: int, stream: int = 0, reference_folder: Path
) -> Study:
    """Writes one phantom as CT series in <folder>/<key>/ and its reference as
    <reference_folder>/<key>.nii.gz.

    The reference lies on the grid of the series as read back, so results compare voxel by voxel.
    """
    volume, label_map = make_phantom(seed, number, stream=stream, only_axial=True)
    paths = write_ct_series(volume, folder / key, case_key=key, seed=seed)
    reference_path = reference_folder / f"{key}.nii.gz"
    geometry = series_geometry(label_map.geometry)
    array = label_map.array
    if geometry is not label_map.geometry:
        array = array[:, :, ::-1]
    _write_nifti(array, geometry, reference_path)
    return Study(key, tuple(paths), reference_path)


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
            write_study(
                unfinished / "dicom", key, seed=seed, number=number, stream=stream,
                reference_folder=unfinished / "references",
            )  # fmt: skip
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
