"""A DICOM node: takes studies by C-STORE, answers C-ECHO and storage commitment.

Success is answered only when an instance and its entry in the ledger are on the disk. A study is
looked at once nothing more has come for it for a while.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydicom import Dataset

from medseg.core.errors import ConfigError, InputError, MedsegError
from medseg.dicom.study_uid import study_uid_of
from medseg.dicom.syntaxes import ENCAPSULATED, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from medseg.services.dimse import TlsFiles, client_entity, connect, pynetdicom
from medseg.services.local_disk import is_full
from medseg.services.ranges import (
    require_above_zero,
    require_ae_titles,
    require_not_negative,
    require_ports,
)
from medseg.services.reception import Reception

_log = logging.getLogger(__name__)

_VERIFICATION = "1.2.840.10008.1.1"
_COMMITMENT = "1.2.840.10008.1.20.1"
_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
_OUT_OF_RESOURCES, _MISMATCH, _CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
_NO_SUCH_INSTANCE = 0x0112
_REPORT_TRIES, _REPORT_PAUSE_S = 5, 2.0
_MAX_COMMITTED = 10_000


class DicomNode:
    """Listens for senders.

    Args:
        ae_title: what this node is called; senders must call it so.
        host: address to listen at; 0.0.0.0 for all of this machine.
        port: to listen at.
        peers: who may send, by AE title: {"CT1": {"address": "10.0.3.17", "port": 104}}, where
            address may be a network and port is where the system takes storage commitment.
        allow_anybody: listen beyond this machine although no peers are named.
        quiet_s: a study is complete when nothing has come for it for so long.
        max_associations, max_associations_per_peer, max_connections, max_message_bytes: see
            `medseg.services.scp_server.Limits`.
        speak_within_s: a connection that says nothing for so long, or does not end its request
            within so long, is closed.
        timeout_s: longest pause within an association.
        tls: files of certificate, key and authority; None listens without TLS.

    Raises:
        ConfigError: anybody could send from anywhere, or a value makes no sense.
    """

    def __init__(
        self,
        *,
        ae_title: str = "MEDSEG",
        host: str = "127.0.0.1",
        port: int = 11112,
        peers: dict[str, dict[str, Any]] | None = None,
        allow_anybody: bool = False,
        quiet_s: float = 10.0,
        max_associations: int = 50,
        max_associations_per_peer: int = 20,
        max_connections: int = 200,
        max_message_bytes: int = 1 << 20,
        speak_within_s: float = 5.0,
        timeout_s: float = 30.0,
        tls: dict[str, str] | None = None,
    ) -> None:
        if not peers and not allow_anybody and not _is_loopback(host):
            raise ConfigError(
                "service.peers",
                f"is empty, so that anybody who reaches {host}:{port} could send",
                "name the senders, or set service.allow_anybody=true",
            )
        require_ae_titles("service", ae_title=ae_title)
        require_ports("service", port=port)
        require_not_negative("service", quiet_s=quiet_s)
        require_above_zero(
            "service",
            max_associations=max_associations,
            max_associations_per_peer=max_associations_per_peer,
            max_connections=max_connections,
            max_message_bytes=max_message_bytes,
            speak_within_s=speak_within_s,
            timeout_s=timeout_s,
        )
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self.peer_entries: Mapping[str, Mapping[str, Any]] = peers or {}
        self.quiet_s = quiet_s
        self.max_associations = max_associations
        self.max_associations_per_peer = max_associations_per_peer
        self.max_connections = max_connections
        self.max_message_bytes = max_message_bytes
        self.speak_within_s = speak_within_s
        self.timeout_s = timeout_s
        self.tls = TlsFiles(**tls) if tls else None
        self.refused: Counter[str] = Counter()
        self.received = 0
        self._server: Any = None
        self._reception: Reception | None = None
        self._thread: threading.Thread | None = None

    def start(self, reception: Reception) -> None:
        """Listens from now on.

        Raises:
            ConfigError: the port is taken, or an address of a peer is none.
        """
        library = pynetdicom()
        from medseg.services.scp_server import GuardedServer, Limits, peers_of

        try:
            peers = peers_of(self.peer_entries)
        except ValueError as error:
            raise ConfigError("service.peers", str(error), "give IP addresses") from error
        self._reception = reception
        reception.open()
        reception.announce_orphans(quiet_s=self.quiet_s)
        reception.hold_back(quiet_s=self.quiet_s)
        entity = library.AE(ae_title=self.ae_title)
        entity.require_called_aet = True
        # How long a connection may stay silent is the server's to judge: this time-out also runs
        # while a busy machine does not get to a request that has come.
        entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = self.timeout_s
        entity.maximum_associations = self.max_connections
        entity.maximum_pdu_size = min(self.max_message_bytes, 1 << 17)
        syntaxes = [EXPLICIT_LITTLE, IMPLICIT_LITTLE, *sorted(ENCAPSULATED)]
        for context in library.AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, syntaxes)
        for sop_class in (_VERIFICATION, _COMMITMENT):
            entity.add_supported_context(sop_class, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
        events = library.evt
        limits = Limits(
            self.max_associations,
            self.max_associations_per_peer,
            self.max_connections,
            self.max_message_bytes,
            self.speak_within_s,
        )
        try:
            self._server = entity.make_server(
                (self.host, self.port),
                evt_handlers=[
                    (events.EVT_REQUESTED, self._on_requested),
                    (events.EVT_C_ECHO, lambda event: 0x0000),
                    (events.EVT_C_STORE, self._on_store),
                    (events.EVT_N_ACTION, self._on_commitment),
                ],
                server_class=GuardedServer,
                peers=peers,
                limits=limits,
                tls=self.tls.context(is_server=True) if self.tls else None,
                refused=self.refused,
            )
        except OSError as error:
            raise ConfigError(
                "service.port",
                f"{self.host}:{self.port} cannot be listened at ({error.strerror})",
                "choose another port, or end the other program",
            ) from error
        entity._servers.append(self._server)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()
        _log.info("%s listens at %s:%d", self.ae_title, self.host, self.port)

    def stop(self) -> None:
        """Takes no more; associations end at the next message."""
        if self._server is None:
            return
        self._server.shutdown()
        for association in self._server.active_associations:
            association.abort()
        self._server = None

    def numbers(self) -> dict[str, float]:
        """For the metrics: instances received, associations now, and what was refused."""
        open_now = 0
        if self._server is not None:
            open_now = sum(one.is_established for one in self._server.active_associations)
        return {
            "instances_received": self.received,
            "associations": open_now,
            **{f"refused_{reason}": count for reason, count in self.refused.items()},
        }

    def _on_requested(self, event: Any) -> None:
        rejection = event.assoc._server.judge(event.assoc)
        if rejection is not None:
            event.assoc.acse.send_reject(*rejection)
            event.assoc.kill()

    def _on_store(self, event: Any) -> int:
        reception = self._reception
        assert reception is not None
        try:
            if not reception.has_room():
                return _OUT_OF_RESOURCES
            syntax = str(event.context.transfer_syntax)
            study_uid = study_uid_of(
                event.encoded_dataset(include_meta=False), is_implicit=syntax == IMPLICIT_LITTLE
            )
            reception.expect(study_uid, quiet_s=self.quiet_s)
            self.received += reception.keep(
                event.encoded_dataset(),
                study_uid=study_uid,
                sop_uid=str(event.request.AffectedSOPInstanceUID),
            )
            reception.expect(study_uid, quiet_s=self.quiet_s)
        except InputError as error:
            _log.warning("an instance was refused: %s", error.code)
            return _MISMATCH if error.code == "E_DUPLICATE" else _CANNOT_UNDERSTAND
        except (OSError, MedsegError) as error:
            is_room = is_full(error) or getattr(error, "code", "") == "E_DISK_FULL"
            _log.warning("an instance cannot be kept: %s", "no room" if is_room else "disk")
            return _OUT_OF_RESOURCES
        except Exception as error:  # its text may hold what was sent
            _log.debug("receiving failed", exc_info=error)
            return _CANNOT_UNDERSTAND
        return 0x0000

    def _on_commitment(self, event: Any) -> tuple[int, None]:
        """Takes a request; its answer goes over an association of its own (PS3.4 annex J)."""
        assert self._reception is not None
        try:
            asked = event.action_information
            transaction = str(asked.TransactionUID)
            items = [
                (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
                for item in asked.ReferencedSOPSequence[:_MAX_COMMITTED]
            ]
        except Exception:
            return 0x0115, None  # invalid argument value
        title = str(event.assoc.requestor.primitive.calling_ae_title).strip()
        entry = self.peer_entries.get(title, {})
        host = str(entry.get("host") or event.assoc.requestor.address)
        port = int(entry.get("port", 0))
        if not port:
            _log.warning("storage commitment was asked for by a peer without a port; not answered")
            return 0x0110, None  # processing failure
        report = self._report(transaction, items)
        threading.Thread(
            target=self._send_report, args=(report, title, host, port), daemon=True
        ).start()
        return 0x0000, None

    def _report(self, transaction: str, items: list[tuple[str, str]]) -> Dataset:
        assert self._reception is not None
        report = Dataset()
        report.TransactionUID = transaction
        kept, missing = [], []
        for sop_class, sop_uid in items:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
            if self._reception.holds(sop_uid):
                kept.append(item)
            else:
                item.FailureReason = _NO_SUCH_INSTANCE
                missing.append(item)
        report.ReferencedSOPSequence = kept
        if missing:
            report.FailedSOPSequence = missing
        return report

    def _send_report(self, report: Dataset, title: str, host: str, port: int) -> None:
        """Tells of what is kept: event type 1, or 2 if something is missing."""
        library = pynetdicom()
        for number in range(_REPORT_TRIES):
            try:
                entity = client_entity(
                    self.ae_title, [(_COMMITMENT, None)], timeout_s=self.timeout_s
                )
                # The roles are turned round: the node that stores asks the one that listens.
                role = library.build_role(_COMMITMENT, scp_role=True)
                with connect(
                    entity, host, port, title, tls=self.tls, ext_neg=[role]
                ) as association:
                    kind = 2 if "FailedSOPSequence" in report else 1
                    status, _ = association.send_n_event_report(
                        report, kind, _COMMITMENT, _COMMITMENT_INSTANCE
                    )
                    if status and status.Status == 0x0000:
                        return
            except Exception as error:
                _log.debug("storage commitment could not be reported", exc_info=error)
            time.sleep(_REPORT_PAUSE_S * 2**number)
        _log.warning("storage commitment could not be reported to a peer")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
