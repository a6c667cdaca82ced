"""Run lengths as COCO stores them."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import LabelError
from medseg.core.run_lengths import (
    decode_runs,
    encode_runs,
    pack_runs,
    read_runs,
    unpack_runs,
)


def test_columns_come_one_after_the_other_and_zeros_first():
    mask = np.array([[1, 0], [1, 1], [0, 1]], np.bool_)

    assert encode_runs(mask) == [0, 2, 2, 2]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_masks_and_texts_come_back(share):
    rng = np.random.default_rng(3)
    for _ in range(50):
        shape = tuple(int(n) for n in rng.integers(1, 90, 2))
        mask = rng.random(shape) < share

        runs = encode_runs(mask)

        assert unpack_runs(pack_runs(runs), where="test") == runs
        assert np.array_equal(decode_runs(runs, shape, where="test"), mask)


def test_texts_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(4)
    for share in (0.0, 0.1, 0.5, 0.999, 1.0):
        mask = rng.random((83, 47)) < share
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))

        assert pack_runs(encode_runs(mask)) == theirs["counts"].decode()
        read = read_runs(
            {"size": [83, 47], "counts": theirs["counts"].decode()}, (83, 47), where="test"
        )
        assert np.array_equal(read, mask)


@pytest.mark.parametrize("text", ["o", "\x00", "1 ", "oooooooooooooooooooooooo0"])
def test_damaged_texts_are_refused(text):
    with pytest.raises(LabelError, match=r"a\.json: its run lengths cannot be read; export"):
        unpack_runs(text, where="a.json")


def test_runs_of_another_size_are_refused():
    with pytest.raises(LabelError, match=r"its runs make 5 pixels, the mask has 6"):
        decode_runs([5], (2, 3), where="a.json")
    with pytest.raises(LabelError, match=r"for the size \[3, 2\], the image has \[2, 3\]"):
        read_runs({"size": [3, 2], "counts": [6]}, (2, 3), where="a.json")
    with pytest.raises(LabelError, match=r"cannot be read"):
        read_runs({"size": [2, 3], "counts": [6, "a"]}, (2, 3), where="a.json")
