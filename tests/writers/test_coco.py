"""COCO files of results, read back by pycocotools and by medseg."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import object_cases
import pytest

from medseg.core.errors import OutputError
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet, LabelMap
from medseg.core.volume import Volume
from medseg.sources.folder import Folder
from medseg.writers.coco import CocoWriter

SHAPE = (30, 20)


def result_and_case():
    overlapping = np.ones((6, 5, 1), np.bool_)
    result = InstanceSet.from_masks(
        [((2, 3, 0), overlapping), ((5, 5, 0), overlapping)],
        object_cases.flat(SHAPE),
        class_ids=[1, 1],
        scores=[0.75, 0.5],
        labels=object_cases.NUCLEI,
    )
    volume = Volume(np.zeros((1, *SHAPE, 1), np.uint8), result.geometry)
    return result, Case("a", read_image=lambda: volume, paths=(Path("a.png"),))


def test_pycocotools_reads_the_objects(tmp_path):
    coco_module = pytest.importorskip("pycocotools.coco")
    result, case = result_and_case()

    (path,) = CocoWriter().write(result, case, folder=tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO(str(path))

    for n, annotation in enumerate(coco.loadAnns(coco.getAnnIds()), start=1):
        box, piece = result.mask(n)
        expected = np.zeros(SHAPE, np.bool_)
        expected[box[:2]] = piece[..., 0]
        assert np.array_equal(coco.annToMask(annotation).T > 0, expected)
        assert annotation["area"] == 30
        assert annotation["bbox"] == [*result.boxes[n - 1][:2].tolist(), 6, 5]
    assert coco.cats[1]["name"] == "nucleus"


def test_the_file_is_read_back_as_a_data_set(tmp_path):
    result, case = result_and_case()
    (path,) = CocoWriter().write(result, case, folder=tmp_path)
    object_cases.picture(tmp_path / "images" / "a.png", np.zeros(SHAPE, np.uint8))

    (found,) = Folder(str(tmp_path)).cases()

    again = found.read_reference()
    assert again.num_voxels.tolist() == [30, 30]
    assert len(again.layers) == 2
    assert json.loads(path.read_text())["annotations"][0]["score"] == 0.75


def test_volumes_and_label_maps_are_refused(tmp_path):
    _, case = result_and_case()
    volume = object_cases.instances(object_cases.discs((12, 12, 4), 1, radius=(1.0, 1.5)))
    flat = LabelMap(np.zeros((*SHAPE, 1), np.uint8), object_cases.flat(SHAPE))

    with pytest.raises(
        OutputError, match=r"a: is a volume of 4 slices, a COCO file holds pictures"
    ):
        CocoWriter().write(replace(volume), case, folder=tmp_path)
    with pytest.raises(OutputError, match=r"a: has a class for each voxel"):
        CocoWriter().write(flat, case, folder=tmp_path)
