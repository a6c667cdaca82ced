"""Times reading a CT series, and the memory it takes, with medseg, SimpleITK and highdicom.

    python benchmarks/dicom_reading.py [--slices N] [--size PIXELS] [--repeat N] [--folder DIR]
                                       [--syntax rle|jpeg-ls|jpeg-2000]

Without a folder, one 512x512xN series of noise is made in a temporary one. Each reader runs in a
process of its own, one after the other on the same files; the time is that from paths to an array
with its geometry, imports left out, and the best of the repetitions. CPU time counts all threads
and decoding children, and is the steadier of the two on a machine with other work. The peak is that
of the reading process alone, as the kernel counts it (VmHWM, Linux only); `import` is its share
before reading.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medseg.dicom import codec_pool

SYNTAXES = {
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
}
READERS = ("medseg", "SimpleITK", "highdicom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--syntax", choices=sorted(SYNTAXES), help="compress the made series")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        print(json.dumps(measure(options.reader, options.folder)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            write_series(folder, size=options.size, slices=options.slices)
            if options.syntax:
                compress(folder, SYNTAXES[options.syntax])
        compare(folder, repeat=options.repeat)


def compare(folder: Path, *, repeat: int) -> None:
    """Runs every reader in turns and prints the table."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
    for _ in range(repeat):
        for name in READERS:
            command = [sys.executable, __file__, "--reader", name, "--folder", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} failed with exit code {done.returncode}: {done.stderr[-300:]}")
                continue
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    best = {name: min(run["seconds"] for run in found) for name, found in runs.items() if found}
    first = runs["medseg"][0] if runs["medseg"] else None
    print(
        f"{'reader':10} {'seconds':>8} {'ratio':>6} {'CPU s':>6} "
        f"{'peak MiB':>9} {'import':>7} {'array':>7}"
    )
    for name, seconds in best.items():
        run = max(runs[name], key=lambda run: run["peak_mib"])
        cpu = min(run["cpu_seconds"] for run in runs[name])
        ratio = f"{seconds / best['medseg']:6.2f}" if "medseg" in best else "     -"
        print(
            f"{name:10} {seconds:8.2f} {ratio} {cpu:6.2f} "
            f"{run['peak_mib']:9.0f} {run['import_mib']:7.0f} {run['array_mib']:7.0f}"
        )
        if first and run["checksum"] != first["checksum"]:
            print(f"  the values of {name} are not those of medseg")


def measure(name: str, folder: Path) -> dict[str, float]:
    read = {"medseg": with_medseg, "SimpleITK": with_simpleitk, "highdicom": with_highdicom}[name]()
    before = peak_mib()
    start, start_cpu = time.perf_counter(), time.process_time()
    array = read(folder)
    seconds = time.perf_counter() - start
    codec_pool._POOL.end()  # the time of children is counted once they have ended
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - start_cpu + children.ru_utime + children.ru_stime,
        "import_mib": before,
        "peak_mib": peak_mib(),
        "array_mib": array.nbytes / 2**20,
        "checksum": float(array.sum(dtype=np.float64)),
    }


def with_medseg() -> Callable[[Path], np.ndarray]:
    from medseg.dicom.volumes import read_dicom_volumes

    return lambda folder: read_dicom_volumes(folder)[0].array


def with_simpleitk() -> Callable[[Path], np.ndarray]:
    import SimpleITK

    images = []

    def read(folder: Path) -> np.ndarray:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        images.append(reader.Execute())  # the view does not keep its image alive
        return SimpleITK.GetArrayViewFromImage(images[-1])

    return read


def with_highdicom() -> Callable[[Path], np.ndarray]:
    import highdicom
    import pydicom

    def read(folder: Path) -> np.ndarray:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        slices = [pydicom.dcmread(path) for path in files]
        return highdicom.get_volume_from_series(slices).array

    return read


def write_series(folder: Path, *, size: int, slices: int) -> None:
    """A CT series of noise that no two slices share."""
    from medseg.core.geometry import Geometry
    from medseg.core.volume import Volume
    from medseg.dicom.ct_series import write_ct_series

    random = np.random.default_rng(0)
    array = random.integers(-1000, 1500, (1, size, size, slices), np.int16)
    geometry = Geometry((size, size, slices), np.diag([-0.8, -0.8, 1.0, 1.0]))
    write_ct_series(Volume(array, geometry, "CT"), folder, case_key="noise", seed=0)


def compress(folder: Path, syntax: str) -> None:
    """Compresses a series of noise whose values are cut to 6 bits, as noise alone does not pack."""
    import pydicom

    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        stored = dataset.pixel_array // 64 * 64
        dataset.PixelData = stored.astype("<u2").tobytes()
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


if __name__ == "__main__":
    main()
