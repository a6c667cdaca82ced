"""Prints what a long fuzzing run came to, for docs/benchmarks.md.

    PYTHONPATH=tests:. python benchmarks/fuzzing.py dicom|nifti [COUNT] [SEED]

Uses the mutations of the tests; stops at the first error that is no InputError, and at the first
file that takes over 5 s of processor time. By the clock it includes waiting for other work.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom.test_fuzz as of_dicom
import sources.test_nifti_io as of_nifti

from medseg.dicom import codec_pool


def main(kind: str, count: int, seed: int) -> None:
    times: list[float] = []
    cpu_times: list[float] = []

    def timed(read: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            start, start_cpu = time.perf_counter(), time.process_time()
            try:
                return read(*args, **options)
            finally:
                times.append(time.perf_counter() - start)
                cpu_times.append(time.process_time() - start_cpu)

        return wrapper

    before = peak_mib()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "dicom":
            of_dicom.read_dicom_volumes = timed(of_dicom.read_dicom_volumes)
            outcomes = of_dicom.run(Path(folder), count, seed=seed, clock=time.process_time)
        else:
            of_nifti.read_nifti = timed(of_nifti.read_nifti)
            outcomes = of_nifti._fuzz(Path(folder), count, seed)
    children = [child_peak_mib(child._process.pid) for child in codec_pool._POOL._idle]
    print(f"{kind}, seed {seed}: {len(times)} files in {time.perf_counter() - start:.0f} s")
    print(f"read {outcomes.pop('read')}, refused {sum(outcomes.values())}: {outcomes}")
    print(f"slowest {max(cpu_times):.2f} s of processor time, {max(times):.2f} s by the clock")
    print(
        f"peak memory {peak_mib():.0f} MiB ({before:.0f} before), "
        f"decoding child {max(children, default=0):.0f} MiB"
    )


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child_peak_mib(pid: int) -> float:
    # The kernel's sum over ended children counts the parent's memory at the time of the fork.
    status = Path("/proc", str(pid), "status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[2:]]
    main(sys.argv[1], *given, *(20_000, 10)[len(given) :])
