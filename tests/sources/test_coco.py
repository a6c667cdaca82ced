"""COCO files: polygons, run lengths, crowds; what does not fit is refused."""

from __future__ import annotations

import json

import numpy as np
import object_cases
import pytest

from medseg.core.errors import LabelError
from medseg.core.run_lengths import encode_runs, pack_runs
from medseg.sources.coco import CocoFile
from medseg.sources.folder import Folder

ROWS, COLUMNS = 40, 50


def coco(folder, annotations, *, images=None, categories=None):
    object_cases.picture(folder / "images" / "a.png", np.zeros((COLUMNS, ROWS), np.uint8))
    content = {
        "images": images or [{"id": 7, "file_name": "a.png", "height": ROWS, "width": COLUMNS}],
        "annotations": [{"image_id": 7, "category_id": 3, **entry} for entry in annotations],
        "categories": categories or [{"id": 9, "name": "cell"}, {"id": 3, "name": "nucleus"}],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def read(folder):
    (case,) = Folder(str(folder)).cases()
    return case.read_reference()


def test_polygons_run_lengths_and_categories_are_read(tmp_path):
    mask = np.zeros((ROWS, COLUMNS), np.bool_)
    mask[5:9, 20:30] = True
    runs = {"size": [ROWS, COLUMNS], "counts": pack_runs(encode_runs(mask))}
    plain = {"size": [ROWS, COLUMNS], "counts": encode_runs(mask)}
    coco(
        tmp_path,
        [
            {"segmentation": [[2, 3, 12, 3, 12, 8, 2, 8], [30, 30, 33, 30, 33, 32, 30, 32]]},
            {"segmentation": runs, "category_id": 9},
            {"segmentation": plain, "category_id": 9},
        ],
    )

    found = read(tmp_path)

    # x counts columns: the rectangle from (2, 3) to (12, 8) has 10 x 5 pixels.
    assert found.num_voxels.tolist() == [10 * 5 + 3 * 2, 40, 40]
    assert found.boxes[0].tolist() == [2, 3, 0, 33, 32, 1]
    assert found.boxes[1].tolist() == [20, 5, 0, 30, 9, 1]
    assert found.class_ids.tolist() == [1, 2, 2]
    assert len(found.layers) == 2
    labels = CocoFile(str(tmp_path / "annotations.json")).describe().labels
    assert labels.names == ("background", "nucleus", "cell")


def test_polygons_are_filled_like_pycocotools_up_to_their_border(tmp_path):
    masks = pytest.importorskip("pycocotools.mask")
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = np.stack([25 + 15 * np.cos(angles), 18 + 11 * np.sin(angles)], axis=1)
    polygon = points.ravel().tolist()
    theirs = masks.decode(masks.frPyObjects([polygon], ROWS, COLUMNS)[0]).astype(bool)
    coco(tmp_path, [{"segmentation": [polygon]}])

    ours = read(tmp_path).array[..., 0].T > 0

    differs = ours != theirs
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.9
    inner = theirs[1:-1, 1:-1] & theirs[:-2, 1:-1] & theirs[2:, 1:-1]
    inner &= theirs[1:-1, :-2] & theirs[1:-1, 2:]
    assert not differs[1:-1, 1:-1][inner].any()


def test_a_crowd_is_not_annotated(tmp_path):
    mask = np.zeros((ROWS, COLUMNS), np.bool_)
    mask[:, 40:] = True
    runs = {"size": [ROWS, COLUMNS], "counts": encode_runs(mask)}
    coco(tmp_path, [{"segmentation": runs, "iscrowd": 1}])

    found = read(tmp_path)

    assert len(found) == 0
    assert found.ignored.sum() == 10 * ROWS


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bbox": [1, 2, 3, 4]}, r"annotation 0: has no mask"),
        ({"segmentation": [[1, 2, 3, 4]]}, r"has a polygon that is no list of at least three"),
        ({"segmentation": [["a", 2, 3, 4, 5, 6]]}, r"has a polygon that is no list"),
        ({"segmentation": {"size": [4, 4], "counts": [16]}}, r"for the size \[4, 4\]"),
        ({"segmentation": [[0, 0, 1, 0, 1, 1]], "category_id": 5}, r"the category 5"),
    ],
)
def test_annotations_that_are_no_masks_are_refused(tmp_path, entry, message):
    coco(tmp_path, [entry])

    with pytest.raises(LabelError, match=message):
        read(tmp_path)


def test_images_outside_the_folder_or_of_another_size_are_refused(tmp_path):
    coco(tmp_path, [], images=[{"id": 7, "file_name": "../../a.png", "height": 1, "width": 1}])
    with pytest.raises(LabelError, match=r"names the image '\.\./\.\./a\.png', which lies outside"):
        Folder(str(tmp_path)).cases()

    coco(tmp_path, [], images=[{"id": 7, "file_name": "a.png", "height": 50, "width": 40}])
    with pytest.raises(
        LabelError, match=r"has 40 rows and 50 columns, its COCO file says 50 and 40"
    ):
        read(tmp_path)
