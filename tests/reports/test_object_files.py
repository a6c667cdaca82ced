"""What is read as objects of a folder, and what a damaged list of them does to it."""

from __future__ import annotations

import numpy as np
import object_cases
import pytest
from PIL import Image

from medseg.core.errors import MedsegError
from medseg.reports.object_files import find_object_files, read_pair


def folder_of(path, **lists):
    """A folder with a map for each case, and the given text as its list of objects."""
    path.mkdir()
    for key, text in lists.items():
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(path / f"{key}.png")
        if text is not None:
            (path / f"{key}.json").write_text(text)
    return path


def test_a_damaged_list_does_not_make_classes_of_numbers(tmp_path):
    predictions = folder_of(tmp_path / "found", a='{"instances": [')
    references = folder_of(tmp_path / "true", a=None)

    with pytest.raises(MedsegError, match=r"a\.json: cannot be read as JSON"):
        find_object_files(predictions, references, instances_from="components")


def test_a_damaged_list_of_one_case_leaves_the_others(tmp_path):
    predictions = folder_of(tmp_path / "found", a='{"instances": [', b=None)
    references = folder_of(tmp_path / "true", a=None, b=None)

    files = find_object_files(predictions, references)

    assert files.keys == ["a", "b"]
    with pytest.raises(MedsegError, match=r"a\.json: cannot be read as JSON"):
        files.read("a")
    assert len(files.read("b")[1]) == 1


@pytest.mark.parametrize("instances_from", ["reference", "components"])
def test_numbered_objects_in_contact_stay_apart(instances_from):
    numbers = np.zeros((8, 6, 1), np.uint16)
    numbers[1:4, 1:5], numbers[4:7, 1:5] = 1, 2
    both = object_cases.instances(numbers[..., 0], labels=object_cases.NUCLEI)

    reference, prediction = read_pair(
        "a", lambda: both, lambda: both, object_cases.NUCLEI, instances_from
    )

    assert len(reference) == len(prediction) == 2
