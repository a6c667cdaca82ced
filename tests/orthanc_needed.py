"""What a test with a real Orthanc needs of the machine; without it the test is skipped."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin:/usr/local/sbin"


def find_program(name: str) -> str | None:
    """Path of a program of the system: pynetdicom puts a storescu of its own, with other options,
    into an environment.
    """
    return shutil.which(name, path=_PATH)


def require_orthanc(programs: Mapping[str, str], *, plugin: Path) -> None:
    """Skips unless the programs, by name with their Debian packages, the DICOMweb plugin and a
    network namespace are to be had.
    """
    for program, package in programs.items():
        if find_program(program) is None:
            pytest.skip(f"{program} is not installed (Debian package {package})")
    if not plugin.exists():
        pytest.skip("Orthanc's DICOMweb plugin is not installed (Debian package orthanc-dicomweb)")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network namespace cannot be made; run as root")
