"""A real PACS server takes what medseg writes and gives the same bytes back.

Orthanc runs in a network namespace of its own, so nothing outside can reach it and no port of the
machine is used.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import dicom_objects
import numpy as np
import orthanc_exchange
import phantoms
import pytest
from orthanc_needed import require_orthanc

from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.writers.dicom_seg import write_dicom_seg
from medseg.writers.dicom_sr import write_dicom_sr
from medseg.writers.rtstruct import write_rtstruct

pytestmark = pytest.mark.network

NEEDED = {
    "Orthanc": "orthanc",
    "storescu": "dcmtk",
    "unshare": "util-linux",
    "ip": "iproute2",
}


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Objects of every kind, and the folder of what Orthanc gave back for them."""
    folder = tmp_path_factory.mktemp("orthanc")
    require_orthanc(NEEDED, plugin=orthanc_exchange.PLUGIN)
    files = written(folder / "written")
    program = [sys.executable, str(Path(orthanc_exchange.__file__)), str(folder / "back")]
    script = 'ip link set lo up && exec "$@"'
    command = ["unshare", "-n", "sh", "-c", script, "sh", *program, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return files, folder / "back"


@pytest.mark.parametrize("back", ["rest", "wado"])
def test_a_file_posted_comes_back_byte_for_byte(exchanged, back):
    files, folder = exchanged

    for file in files:
        assert (folder / f"stow_{back}" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("back", ["rest", "wado"])
def test_a_data_set_sent_by_c_store_comes_back_byte_for_byte(exchanged, back):
    files, folder = exchanged

    for file in files:
        if file.stem in orthanc_exchange.UNKNOWN_TO_STORESCU:
            continue
        # C-STORE carries the data set alone: the file meta information is the receiver's own.
        returned = data_set(folder / f"store_{back}" / file.name)
        assert returned == data_set(file), file.name


def written(folder: Path) -> list[Path]:
    """SEG of every kind, RTSTRUCT and SR of an oblique series with the odd matrix 19 x 18."""
    case, grid = dicom_objects.series_case(folder / "ct", dicom_objects.oblique_geometry())
    array = np.zeros(grid.shape, np.uint8)
    array[3:11, 4:12, 2:9], array[12:17, 4:9, 3:7] = 1, 2
    labels = LabelSet.from_names(["background", "liver", "tumour"])
    result = LabelMap(array, grid, labels)
    files = [
        write_dicom_seg(result, case, folder / f"{kind.lower()}.dcm", segmentation_type=kind)
        for kind in ("BINARY", "FRACTIONAL", "LABELMAP")
    ]
    files.append(write_rtstruct(result, case, folder / "rtstruct.dcm"))
    measured = dataclasses.replace(case, read_image=lambda: phantoms.ct_of(result))
    files.append(write_dicom_sr(result, measured, folder / "sr.dcm", seg_path=files[0]))
    return files


def data_set(path: Path) -> bytes:
    """The bytes behind the file meta information, whose length its first element states."""
    content = path.read_bytes()
    assert content[128:132] == b"DICM"
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]
