"""What OpenVINO is kept from doing."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_openvino_reports_its_use_to_nobody():
    pytest.importorskip("openvino")
    program = (
        "from medseg.inference.openvino_runtime import import_openvino\n"
        "import_openvino()\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True
    )

    # Its own stand-in, whose functions do nothing.
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
