"""Fixtures of all tests, and a count of the tests that ran on real images."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import own_logging

# Tests that import OpenVINO themselves report nothing to its makers either.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Gives the folder of a real data set; the test is skipped where it is absent."""
    root = Path(os.environ.get("MEDSEG_TEST_DATA", Path.home() / ".cache" / "medseg-test-data"))

    def find(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            pytest.skip(f"needs the real images {name}; unpack them or set MEDSEG_TEST_DATA")
        return folder

    return find


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the variables that change what medseg does."""
    for name in ("MEDSEG_CONF", "MEDSEG_ALLOWED_TARGETS", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    with own_logging():
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]
    outcome = yield
    report = outcome.get_result()
    if item.get_closest_marker("real_data"):
        report.user_properties.append(("real_data", True))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints how many tests ran on real images, so that a run without them is seen to be one."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for outcome in counts:
        for report in terminalreporter.stats.get(outcome, []):
            if ("real_data", True) in getattr(report, "user_properties", []):
                counts[outcome] += 1
    ran = counts["passed"] + counts["failed"]
    terminalreporter.write_line(
        f"real images: {ran} tests ran, {counts['skipped']} were skipped for want of them"
    )
