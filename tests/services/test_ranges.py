"""Numbers and names that make no sense are refused where they are given, before a job is begun."""

from __future__ import annotations

import pytest

from medseg.core.errors import ConfigError
from medseg.services.destinations import DicomDestination, DicomWebDestination
from medseg.services.dicom_node import DicomNode
from medseg.services.dicomweb import DicomWeb
from medseg.services.executors import LocalExecutor
from medseg.services.ray_executor import RayExecutor
from medseg.services.watch_folder import WatchFolder

URL = "https://pacs/dicom-web"


@pytest.mark.parametrize(
    ("build", "option", "value"),
    [
        (LocalExecutor, "executor.lease_s", -1.0),
        (LocalExecutor, "executor.max_attempts", 0),
        (LocalExecutor, "executor.read_memory_gb", 0.0),
        (LocalExecutor, "executor.read_seconds", float("nan")),
        (LocalExecutor, "executor.disk_reserve_gb", -1.0),
        (RayExecutor, "executor.num_workers", 0),
        (RayExecutor, "executor.gpus_per_worker", -1.0),
        (DicomNode, "service.port", 99999),
        (DicomNode, "service.ae_title", "LONGER_THAN_AE_TITLES"),
        (DicomNode, "service.ae_title", " "),
        (DicomNode, "service.ae_title", "A\\B"),
        (DicomNode, "service.max_associations", 0),
        (DicomNode, "service.quiet_s", -1.0),
        (lambda **given: WatchFolder("inbox", **given), "service.interval_s", 0.0),
        (lambda **given: DicomWeb(URL, **given), "service.timeout_s", 0.0),
        (lambda **given: DicomWebDestination(URL, **given), "destination.timeout_s", 0.0),
        (
            lambda **given: DicomDestination("PACS", "pacs", 104, **given),
            "destination.calling_ae_title",
            "",
        ),
        (
            lambda **given: DicomDestination("PACS", "pacs", 104, **given),
            "destination.commitment_port",
            70000,
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(build, option, value):
    with pytest.raises(ConfigError) as caught:
        build(**{option.partition(".")[2]: value})

    assert caught.value.where == option
    assert str(value) in caught.value.what
    assert caught.value.remedy
