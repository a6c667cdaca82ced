"""OpenVINO, without the client that would report its import and use to its makers."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def import_openvino() -> ModuleType:
    """The package; NNCF, imported after it, reports nothing either.

    Raises:
        ImportError: it is not installed.
    """
    # None makes `import openvino_telemetry` fail, upon which both do without it.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    return importlib.import_module("openvino")
