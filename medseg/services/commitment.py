"""Asks an archive to commit itself to results that it has taken (storage commitment, PS3.4 J).

The archive answers when it likes, mostly over an association of its own, for which a port is kept
open here.
"""

from __future__ import annotations

import logging
import secrets
import threading
from typing import Any

from pydicom import Dataset

from medseg.core.errors import ConfigError
from medseg.dicom.uids import derive_uid
from medseg.services.dimse import TlsFiles, client_entity, connect, pynetdicom
from medseg.services.jobs import Result
from medseg.services.sender import RefusedError, UnavailableError

_log = logging.getLogger(__name__)

_COMMITMENT = "1.2.840.10008.1.20.1"
_INSTANCE = "1.2.840.10008.1.20.1.1"
_NO_SUCH_OBJECT = 0x0112
_SAME_ASSOCIATION_SECONDS = 1.0


class CommitmentClient:
    """Requests commitment to one result after the other and listens for the answers.

    Args:
        ae_title, host, port: of the archive.
        calling_ae_title: what medseg calls itself; the archive must know it at `listen_port`.
        listen_host, listen_port: where answers come; port 0 takes any.
        within_s: how long to wait for an answer before the result is asked for again later.
        timeout_s: for connecting and for each message.
        tls: as of the destination.
    """

    def __init__(
        self,
        ae_title: str,
        host: str,
        port: int,
        *,
        calling_ae_title: str,
        listen_host: str,
        listen_port: int,
        within_s: float,
        timeout_s: float,
        tls: TlsFiles | None,
    ) -> None:
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self.calling_ae_title = calling_ae_title
        self.listen_host = listen_host
        self.listen_port = listen_port
        self.within_s = within_s
        self.timeout_s = timeout_s
        self.tls = tls
        self._server: Any = None
        self._asked: dict[str, str] = {}  # SOP instance by transaction
        self._outcomes: dict[str, int] = {}  # failure reason by SOP instance; 0 is committed
        self._unanswered: dict[int, bool] = {}  # associations whose report was taken: thanks sent?
        self._came = threading.Condition()

    def is_committed(self, result: Result) -> bool:
        """Whether the archive has committed itself; False if it says that it has no such object.

        An answer to an earlier request, that came late, counts.

        Raises:
            UnavailableError: there is no answer yet, or the archive cannot commit itself now.
            RefusedError: the archive knows no storage commitment.
        """
        self._listen()
        uid = result.sop_instance_uid
        with self._came:
            is_asked = uid not in self._outcomes
        if is_asked:
            self._ask(result)
        with self._came:
            self._came.wait_for(lambda: uid in self._outcomes, self.within_s)
            reason = self._outcomes.pop(uid, None)
        if reason is None:
            where = f"{self.calling_ae_title} at {self.listen_host}:{self.listen_port}"
            raise UnavailableError(
                self.ae_title, "has not committed itself yet", f"it must know and reach {where}"
            )
        if reason not in (0, _NO_SUCH_OBJECT):
            what = f"does not commit itself (reason {reason:04X})"
            raise UnavailableError(self.ae_title, what, "see the archive's log")
        return reason == 0

    def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _ask(self, result: Result) -> None:
        transaction = derive_uid("commitment", secrets.token_hex(16))
        item, request = Dataset(), Dataset()
        item.ReferencedSOPClassUID = result.sop_class_uid
        item.ReferencedSOPInstanceUID = result.sop_instance_uid
        request.TransactionUID = transaction
        request.ReferencedSOPSequence = [item]
        with self._came:
            self._asked[transaction] = result.sop_instance_uid
        entity = client_entity(
            self.calling_ae_title, [(_COMMITMENT, None)], timeout_s=self.timeout_s
        )
        events = pynetdicom().evt
        handlers = [
            (events.EVT_N_EVENT_REPORT, self._on_report),
            (events.EVT_DIMSE_SENT, self._on_answer),
            (events.EVT_PDU_SENT, self._on_sent),
        ]
        with connect(
            entity, self.host, self.port, self.ae_title, tls=self.tls, evt_handlers=handlers
        ) as association:
            if not association.accepted_contexts:
                raise RefusedError(
                    self.ae_title,
                    "knows no storage commitment",
                    "set destination.check=find",
                    code="E_REFUSED_COMMITMENT",
                )
            answer, _ = association.send_n_action(request, 1, _COMMITMENT, _INSTANCE)
            status = answer.get("Status")
            if status != 0x0000:
                what = "gave no answer" if status is None else f"answered status {status:04X}"
                remedy = f"it must know {self.calling_ae_title} and let it ask; see its log"
                raise UnavailableError(self.ae_title, what, remedy)
            with self._came:  # some archives answer at once, while they are still connected
                self._came.wait_for(
                    lambda: result.sop_instance_uid in self._outcomes, _SAME_ASSOCIATION_SECONDS
                )
                # Not released before it has been thanked for.
                self._came.wait_for(lambda: id(association) not in self._unanswered, self.timeout_s)

    def _on_report(self, event: Any) -> tuple[int, None]:
        """Takes an answer; one to a question that was never asked is refused."""
        try:
            report = event.event_information
            transaction = str(report.TransactionUID)
            kept = [str(item.ReferencedSOPInstanceUID) for item in _items(report, "Referenced")]
            failed = {
                str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or 0x0110)
                for item in _items(report, "Failed")
            }
        except Exception:  # whatever may be wrong with it
            return 0x0115, None  # invalid argument value
        with self._came:
            self._unanswered[id(event.assoc)] = False
            uid = self._asked.get(transaction)
            if uid is None:
                return 0x0115, None
            if uid in failed:
                self._outcomes[uid] = failed[uid]
            elif uid in kept:
                self._outcomes[uid] = 0
            else:
                return 0x0115, None
            del self._asked[transaction]
            self._came.notify_all()
        return 0x0000, None

    def _on_answer(self, event: Any) -> None:
        """The thanks for a report are about to be sent."""
        with self._came:
            if type(event.message).__name__ == "N_EVENT_REPORT_RSP":
                self._unanswered[id(event.assoc)] = True

    def _on_sent(self, event: Any) -> None:
        """Something was sent; behind the thanks, an association may be released."""
        with self._came:
            if self._unanswered.get(id(event.assoc)) and type(event.pdu).__name__ == "P_DATA_TF":
                del self._unanswered[id(event.assoc)]
                self._came.notify_all()

    def _listen(self) -> None:
        if self._server is not None:
            return
        library = pynetdicom()
        entity = library.AE(ae_title=self.calling_ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = [self.ae_title]
        entity.maximum_associations = 10
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.timeout_s
        # The archive opens the association and yet is the provider: the roles are turned round.
        entity.add_supported_context(_COMMITMENT, scu_role=True, scp_role=True)
        try:
            self._server = entity.start_server(
                (self.listen_host, self.listen_port),
                block=False,
                evt_handlers=[
                    (library.evt.EVT_N_EVENT_REPORT, self._on_report),
                    (library.evt.EVT_DIMSE_SENT, self._on_answer),
                    (library.evt.EVT_PDU_SENT, self._on_sent),
                ],
                ssl_context=self.tls.context(is_server=True) if self.tls else None,
            )
        except OSError as error:
            raise ConfigError(
                "destination.commitment_port",
                f"{self.listen_host}:{self.listen_port} cannot be listened at ({error.strerror})",
                "choose another port, or end the other program",
            ) from error
        self.listen_port = self._server.server_address[1]


def _items(report: Dataset, kind: str) -> list[Dataset]:
    return list(report.get(f"{kind}SOPSequence") or [])
