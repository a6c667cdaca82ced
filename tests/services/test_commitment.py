"""Storage commitment asked of an archive made of pynetdicom on loopback."""

from __future__ import annotations

import threading

import pydicom
import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from service_cases import ct_study

from medseg.core.errors import ConfigError
from medseg.services.destinations import DicomDestination
from medseg.services.jobs import Result
from medseg.services.sender import RefusedError, UnavailableError

CT = "1.2.840.10008.5.1.4.1.1.2"
COMMITMENT = "1.2.840.10008.1.20.1"
INSTANCE = "1.2.840.10008.1.20.1.1"


class Archive:
    """Keeps nothing, and answers requests for commitment as it is told.

    Args:
        answer: on the "same" association, on its "own", "failed" with a reason, "late" when the
            test says so, or "unknown" to know nothing of it.
    """

    def __init__(self, answer, *, reason=0x0112):
        self.answer = answer
        self.reason = reason
        self.asked = []
        self.commitment = None
        entity = AE(ae_title="PACS")
        entity.add_supported_context(CT)
        if answer != "unknown":
            entity.add_supported_context(COMMITMENT)
        handlers = [(evt.EVT_C_STORE, lambda event: 0x0000), (evt.EVT_N_ACTION, self._on_action)]
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def _on_action(self, event):
        asked = event.action_information
        self.asked.append(asked)
        if self.answer in ("own", "failed"):
            threading.Thread(target=self.report, args=(asked,)).start()
        elif self.answer == "same":
            thread = threading.Thread(target=self._send, args=(event.assoc, self._content(asked)))
            thread.start()
        return 0x0000, None

    def _content(self, asked, transaction=None):
        report = Dataset()
        report.TransactionUID = transaction or asked.TransactionUID
        (item,) = asked.ReferencedSOPSequence
        if self.answer == "failed":
            item.FailureReason = self.reason
            report.ReferencedSOPSequence, report.FailedSOPSequence = [], [item]
        else:
            report.ReferencedSOPSequence = [item]
        return report

    def report(self, asked, transaction=None):
        entity = AE(ae_title="PACS")
        entity.add_requested_context(COMMITMENT)
        association = entity.associate(
            "127.0.0.1",
            self.commitment.listen_port,
            ae_title="MEDSEG",
            ext_neg=[build_role(COMMITMENT, scp_role=True)],
        )
        assert association.is_established
        status = self._send(association, self._content(asked, transaction))
        association.release()
        return status

    def _send(self, association, report):
        kind = 2 if "FailedSOPSequence" in report else 1
        status, _ = association.send_n_event_report(report, kind, COMMITMENT, INSTANCE)
        return status.get("Status")


@pytest.fixture
def archives():
    made = []

    def make(answer, **options):
        made.append(Archive(answer, **options))
        return made[-1]

    yield make
    for archive in made:
        archive.server.shutdown()


@pytest.fixture
def destinations():
    made = []

    def make(archive, **options):
        values = {"check": "commitment", "commitment_port": 0, "commitment_within_s": 30.0}
        made.append(DicomDestination("PACS", "127.0.0.1", archive.port, **{**values, **options}))
        archive.commitment = made[-1].commitment  # listens at a free port from its first request on
        return made[-1]

    yield make
    for destination in made:
        destination.commitment.stop()


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = ct_study(tmp_path_factory.mktemp("study"), 0)[0]
    header = pydicom.dcmread(path)
    return Result(
        str(path), "", str(header.SOPClassUID), str(header.SOPInstanceUID),
        str(header.StudyInstanceUID), str(header.SeriesInstanceUID),
    )  # fmt: skip


@pytest.mark.parametrize("answer", ["own", "same"])
def test_a_result_counts_once_the_archive_has_committed_itself(
    archives, destinations, result, answer
):
    archive = archives(answer)
    destination = destinations(archive)

    destination.send(result)

    assert destination.holds(result) is True
    (asked,) = archive.asked
    (item,) = asked.ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == result.sop_instance_uid
    assert item.ReferencedSOPClassUID == CT


def test_what_the_archive_does_not_have_is_to_be_sent_again(archives, destinations, result):
    assert destinations(archives("failed")).holds(result) is False


def test_an_archive_that_cannot_commit_itself_is_asked_again_later(archives, destinations, result):
    destination = destinations(archives("failed", reason=0x0213))

    with pytest.raises(UnavailableError, match=r"does not commit itself \(reason 0213\)"):
        destination.holds(result)


def test_a_late_answer_counts_and_is_not_asked_for_twice(archives, destinations, result):
    archive = archives("late")
    destination = destinations(archive, commitment_within_s=0.1)
    with pytest.raises(UnavailableError, match="has not committed itself yet"):
        destination.holds(result)

    assert archive.report(archive.asked[0]) == 0x0000

    assert destination.holds(result) is True
    assert len(archive.asked) == 1


def test_an_answer_that_nobody_asked_for_counts_for_nothing(archives, destinations, result):
    archive = archives("late")
    destination = destinations(archive, commitment_within_s=0.1)
    with pytest.raises(UnavailableError):
        destination.holds(result)

    assert archive.report(archive.asked[0], transaction="1.2.3") == 0x0115

    with pytest.raises(UnavailableError, match="has not committed itself yet"):
        destination.holds(result)


def test_an_archive_without_storage_commitment_is_told_of(archives, destinations, result):
    archive = archives("unknown")

    with pytest.raises(RefusedError, match="knows no storage commitment") as caught:
        destinations(archive).holds(result)

    assert caught.value.code == "E_REFUSED_COMMITMENT"


def test_commitment_needs_a_port_for_the_answer():
    with pytest.raises(ConfigError, match=r"commitment_port: is not set"):
        DicomDestination("PACS", "127.0.0.1", 104, check="commitment")
