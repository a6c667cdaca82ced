"""The DICOM node against a client of pynetdicom's, on loopback."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import threading
import time

import pydicom
import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.transport import AssociationSocket
from service_cases import ct_study, recipe, tiny_bundle

from medseg.core.errors import ConfigError
from medseg.dicom.study_uid import study_uid_of
from medseg.services.dicom_node import DicomNode
from medseg.services.dimse import TlsFiles
from medseg.services.ledger import Ledger
from medseg.services.reception import Reception

CT = "1.2.840.10008.5.1.4.1.1.2"
ECHO = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def reception(tmp_path, bundle):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield Reception(
        ledger, {"model": recipe(bundle)}, {}, tmp_path / "incoming", disk_reserve_bytes=0
    )
    ledger.close()


@pytest.fixture
def listening(reception):
    nodes = []

    def start(**options):
        node = DicomNode(port=0, **options)
        node.start(reception)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture
def study(tmp_path):
    return ct_study(tmp_path / "study", 0)


def associate(node, *, calling="CT1", called="MEDSEG", contexts=(CT, ECHO), **options):
    entity = AE(ae_title=calling)
    for context in contexts:
        entity.add_requested_context(context)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    return entity.associate("127.0.0.1", node.port, ae_title=called, **options)


def store(node, paths, **options):
    association = associate(node, **options)
    assert association.is_established
    statuses = [association.send_c_store(pydicom.dcmread(path)).Status for path in paths]
    association.release()
    return statuses


def test_an_echo_is_answered(listening):
    association = associate(listening())

    assert association.send_c_echo().Status == 0x0000
    association.release()


def test_success_is_said_when_file_and_ledger_have_the_instance(listening, reception, study):
    node = listening(quiet_s=3600)

    assert store(node, study) == [0x0000] * 12

    (folder,) = reception.studies()
    assert len(list(folder.iterdir())) == 12
    (job,) = reception.ledger.jobs()
    assert (job.kind, job.state, job.source["path"]) == ("study", "received", str(folder))
    assert reception.ledger.lease("a", lease_s=10) is None  # not before it has been quiet
    kept = {pydicom.dcmread(path).SOPInstanceUID for path in folder.iterdir()}
    assert kept == {pydicom.dcmread(path).SOPInstanceUID for path in study}


def test_a_study_is_looked_at_once_it_has_been_quiet(listening, reception, study):
    store(listening(quiet_s=0.5), study[:2])

    time.sleep(0.7)

    assert reception.ledger.lease("a", lease_s=10).kind == "study"


def test_an_instance_sent_again_is_kept_once_and_another_of_its_uid_refused(
    listening, reception, study
):
    node = listening()
    changed = pydicom.dcmread(study[0])
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(study[1])

    assert store(node, [study[0], study[0], study[1]]) == [0x0000, 0x0000, 0xA900]
    (folder,) = reception.studies()
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID"])
def test_a_uid_never_becomes_a_path(listening, reception, study, tmp_path, keyword):
    node = listening()
    before = {path for path in tmp_path.rglob("*") if "incoming" not in path.parts}
    hostile = pydicom.dcmread(study[0])
    setattr(hostile, keyword, "../../../escaped")
    association = associate(node)
    association.send_c_store(hostile)
    association.release()

    after = {path for path in tmp_path.rglob("*") if "incoming" not in path.parts}
    assert after == before
    for path in (tmp_path / "incoming").rglob("*.dcm"):
        assert len(path.stem) == 32


@pytest.mark.parametrize(
    ("options", "diagnostic"), [({"called": "OTHER"}, 0x07), ({"calling": "STRANGER"}, 0x03)]
)
def test_a_wrong_ae_title_is_rejected(listening, options, diagnostic):
    node = listening(peers={"CT1": {"address": "127.0.0.1"}})

    association = associate(node, **options)

    assert association.is_rejected
    answer = association.acceptor.primitive
    assert (answer.result, answer.diagnostic) == (0x01, diagnostic)
    assert associate(node).is_established


def test_an_address_that_is_not_listed_is_turned_away(listening):
    node = listening(peers={"CT1": {"address": "10.9.8.0/24"}})

    assert not associate(node).is_established
    assert node.numbers()["refused_address"] == 1


def test_nobody_can_send_from_everywhere_by_oversight():
    with pytest.raises(ConfigError, match="anybody who reaches"):
        DicomNode(host="0.0.0.0")
    DicomNode(host="0.0.0.0", allow_anybody=True)
    DicomNode(host="0.0.0.0", peers={"CT1": {"address": "10.0.0.1"}})


def test_connections_that_never_speak_do_not_keep_senders_out(listening, study):
    node = listening(speak_within_s=1)
    idle = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(30)]
    began = time.monotonic()

    assert store(node, study[:1]) == [0x0000]

    assert time.monotonic() - began < 10  # not the idle ones' time, but that of a busy machine
    for connection in idle:
        connection.settimeout(20)
        assert connection.recv(100) == b""
        connection.close()
    assert node.numbers()["refused_silent"] == 30


def test_a_request_that_never_ends_is_not_waited_for(listening):
    node = listening(speak_within_s=1)
    with socket.create_connection(("127.0.0.1", node.port)) as connection:
        connection.settimeout(20)  # less than timeout_s, which holds for those who have asked
        connection.sendall(struct.pack(">BBL", 1, 0, 200) + b"\0" * 10)

        assert connection.recv(100) == b""


def test_a_request_that_a_busy_machine_looks_at_late_is_answered(listening, monkeypatch):
    node = listening(speak_within_s=0.5)
    looked = AssociationSocket.ready.fget
    until = time.monotonic() + 2

    def late(self):
        return looked(self) if self.assoc.is_requestor or time.monotonic() > until else False

    monkeypatch.setattr(AssociationSocket, "ready", property(late))

    assert associate(node).is_established


def test_a_message_of_unbelievable_length_ends_the_connection(listening):
    node = listening()
    with socket.create_connection(("127.0.0.1", node.port)) as connection:
        connection.settimeout(20)
        connection.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFF0) + b"\0" * 1000)
        while connection.recv(100):
            pass

    assert node.numbers()["refused_oversized"] == 1
    assert associate(node).is_established


def test_more_associations_than_allowed_are_told_to_come_again(listening):
    node = listening(max_associations_per_peer=2)
    held = [associate(node) for _ in range(2)]

    refused = associate(node)

    assert refused.is_rejected
    assert refused.acceptor.primitive.result == 0x02  # transient
    held[0].release()
    until = time.monotonic() + 20
    while not associate(node).is_established and time.monotonic() < until:
        time.sleep(0.2)
    assert time.monotonic() < until


def test_without_room_senders_are_told_so_and_nothing_is_left(
    listening, reception, study, monkeypatch
):
    node = listening()
    real = os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medseg.services.reception.os.fsync", full)
    assert store(node, study[:2]) == [0xA700] * 2
    assert list(reception.folder.rglob("*.dcm")) == []
    assert list((reception.folder / ".receiving").iterdir()) == []

    monkeypatch.setattr("medseg.services.reception.os.fsync", real)
    assert store(node, study[:2]) == [0x0000] * 2


def test_below_the_reserve_nothing_is_taken(tmp_path, bundle, study):
    ledger = Ledger(tmp_path / "other.sqlite")
    reception = Reception(
        ledger, {"m": recipe(bundle)}, {}, tmp_path / "in2", disk_reserve_bytes=1e18
    )
    node = DicomNode(port=0)
    node.start(reception)

    assert store(node, study[:1]) == [0xA700]
    node.stop()
    ledger.close()


def test_a_study_that_lay_on_the_disk_when_the_program_ended_is_looked_at(
    listening, reception, study
):
    content = study[0].read_bytes()
    length = int.from_bytes(content[140:144], "little")
    uid = study_uid_of(content[144 + length :], is_implicit=False)
    reception.open()
    reception.keep(content, study_uid=uid, sop_uid="1.2.3")
    (reception.folder / ".receiving" / "half").write_bytes(b"half an image")
    assert reception.ledger.jobs() == []

    listening()

    assert list((reception.folder / ".receiving").iterdir()) == []

    assert [job.kind for job in reception.ledger.jobs()] == ["study"]


def test_a_study_that_was_cut_off_by_a_restart_waits_for_its_sender_to_go_on(
    listening, reception, study
):
    node = listening(quiet_s=0.0)
    store(node, study[:6])
    node.stop()

    listening(quiet_s=3600.0)

    assert reception.ledger.num_open() == 1
    assert reception.ledger.lease("worker", lease_s=60) is None


def test_storage_commitment_is_answered_over_an_association_of_its_own(listening, study, tmp_path):
    reports, came = [], threading.Event()

    def on_report(event):
        reports.append((event.event_type, event.event_information))
        came.set()
        return 0x0000, None

    scanner = AE(ae_title="CT1")
    scanner.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
    server = scanner.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)]
    )
    node = listening(peers={"CT1": {"address": "127.0.0.1", "port": server.server_address[1]}})
    store(node, study[:2])
    asked = Dataset()
    asked.TransactionUID = "1.2.3.4.5"
    asked.ReferencedSOPSequence = [Dataset(), Dataset()]
    for item, uid in zip(
        asked.ReferencedSOPSequence,
        (pydicom.dcmread(study[0]).SOPInstanceUID, "1.2.9"),
        strict=True,
    ):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
    association = associate(node, contexts=(COMMITMENT,))
    status, _ = association.send_n_action(asked, 1, COMMITMENT, "1.2.840.10008.1.20.1.1")
    association.release()

    assert status.Status == 0x0000
    assert came.wait(30)
    server.shutdown()
    ((kind, report),) = reports
    assert kind == 2  # something is missing
    assert report.TransactionUID == "1.2.3.4.5"
    assert [item.ReferencedSOPInstanceUID for item in report.FailedSOPSequence] == ["1.2.9"]
    assert len(report.ReferencedSOPSequence) == 1
    assert build_role(COMMITMENT) is not None


def test_with_tls_both_sides_show_a_certificate(listening, study, tmp_path):
    own, other = certificates(tmp_path / "a"), certificates(tmp_path / "b")
    node = listening(tls=own, speak_within_s=2)
    # A connection that shakes no hands delays nobody.
    idle = socket.create_connection(("127.0.0.1", node.port))

    with_own = (TlsFiles(**own).context(is_server=False), None)
    assert store(node, study[:1], tls_args=with_own) == [0x0000]
    assert not associate(node).is_established
    with_other = (TlsFiles(**other).context(is_server=False), None)
    assert not associate(node, tls_args=with_other).is_established
    idle.close()


def certificates(folder):
    """A certificate that signs itself, and so is its own authority."""
    folder.mkdir()
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return {"certificate": str(certificate), "key": str(key), "authority": str(certificate)}
