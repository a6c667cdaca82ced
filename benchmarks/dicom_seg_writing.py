"""Times writing a DICOM SEG with medseg and with highdicom's constructor, defaults of both.

    python benchmarks/dicom_seg_writing.py [--slices N] [--size PIXELS] [--segments N] [--omit]

Boxes in a 512x512xN series, each segment on a run of slices as organs are. Each writer runs in a
process of its own on the same files; the time is that from a label map in memory to a file on disk,
source headers included, imports left out. By default medseg keeps the frames without voxels where
the object stays below 50 MB, as viewers want, and highdicom omits them: `--omit` makes medseg omit
them too. The voxels of both files are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from dicom_reading import peak_mib, write_series

WRITERS = ("medseg", "highdicom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--omit", action="store_true")
    parser.add_argument("--writer", choices=WRITERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        write = with_medseg if options.writer == "medseg" else with_highdicom
        folder = options.folder
        print(json.dumps(write(folder, segments=options.segments, omit=options.omit)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_series(folder / "ct", size=options.size, slices=options.slices)
        compare(folder, options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    runs = {}
    for name in WRITERS:
        command = [
            sys.executable, __file__, "--writer", name, "--folder", str(folder),
            "--segments", str(options.segments), *(["--omit"] if options.omit else []),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr}")
        runs[name] = json.loads(done.stdout.splitlines()[-1])
    ours = runs["medseg"]
    print(f"{'writer':10} {'seconds':>8} {'ratio':>6} {'MiB':>8} {'ratio':>6} {'peak MiB':>9}")
    for name, run in runs.items():
        size = (folder / f"{name}.dcm").stat().st_size
        ratio = size / (folder / "medseg.dcm").stat().st_size
        print(
            f"{name:10} {run['seconds']:8.2f} {run['seconds'] / ours['seconds']:6.1f} "
            f"{size / 2**20:8.2f} {ratio:6.2f} {run['peak_mib']:9.0f}"
        )
    print("voxels:", "the same" if same_voxels(folder) else "DIFFERENT")


def labels_of(shape: tuple[int, int, int], segments: int) -> np.ndarray:
    """uint8 or uint16, shape (I, J, K): a box for each segment on a fifth of the slices."""
    array = np.zeros(shape, np.uint8 if segments < 256 else np.uint16)
    random = np.random.default_rng(1)
    length = max(1, shape[2] // 5)
    for number in range(1, segments + 1):
        i, j = (int(v) for v in random.integers(0, np.array(shape[:2]) * 3 // 4))
        k = int(random.integers(0, shape[2] - length + 1))
        array[i : i + shape[0] // 6, j : j + shape[1] // 6, k : k + length] = number
    return array


def with_medseg(folder: Path, *, segments: int, omit: bool) -> dict[str, float]:
    from medseg.core.labels import LabelSet
    from medseg.core.segmentation import LabelMap
    from medseg.sources.dicom_folder import DicomFolder
    from medseg.writers.dicom_seg import write_dicom_seg

    (case,) = DicomFolder(str(folder / "ct")).cases()
    geometry = case.read_image().geometry
    names = ["background", *(f"organ_{n}" for n in range(1, segments + 1))]
    label_map = LabelMap(labels_of(geometry.shape, segments), geometry, LabelSet.from_names(names))
    start = time.perf_counter()
    write_dicom_seg(label_map, case, folder / "medseg.dcm", empty_frames="omit" if omit else "auto")
    return {"seconds": time.perf_counter() - start, "peak_mib": peak_mib()}


def with_highdicom(folder: Path, *, segments: int, omit: bool) -> dict[str, float]:
    del omit  # its default
    import highdicom
    import pydicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    files = list((folder / "ct").iterdir())
    slices = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    slices.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    shape = (slices[0].Columns, slices[0].Rows, len(slices))
    array = np.ascontiguousarray(labels_of(shape, segments).transpose(2, 1, 0))
    descriptions = [
        highdicom.seg.SegmentDescription(
            number,
            f"organ_{number}",
            codes.SCT.AnatomicalStructure,
            codes.SCT.Organ,
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, segments + 1)
    ]
    start = time.perf_counter()
    slices = [pydicom.dcmread(path) for path in files]
    slices.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    highdicom.seg.Segmentation(
        slices, array, "BINARY", descriptions, generate_uid(), 2, generate_uid(), 1, "m", "n", "1",
        "2",
    ).save_as(folder / "highdicom.dcm")  # fmt: skip
    return {"seconds": time.perf_counter() - start, "peak_mib": peak_mib()}


def same_voxels(folder: Path) -> bool:
    from medseg.sources.segmentations import read_segmentation

    ours, theirs = (
        read_segmentation(folder / f"{name}.dcm", source=folder / "ct") for name in WRITERS
    )
    return bool(np.array_equal(ours.array, theirs.array))


if __name__ == "__main__":
    main()
