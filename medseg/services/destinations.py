"""Archives that take results: by C-STORE, or by STOW-RS."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydicom import Dataset, dcmread

from medseg.core.errors import ConfigError
from medseg.services.commitment import CommitmentClient
from medseg.services.dimse import TlsFiles, client_entity, connect
from medseg.services.jobs import Result
from medseg.services.ranges import require_above_zero, require_ae_titles, require_ports
from medseg.services.sender import RefusedError, UnavailableError
from medseg.services.web_client import WebClient, multipart

_log = logging.getLogger(__name__)

_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_DUPLICATE = 0x0111
_NOT_SUPPORTED = 0x0122
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_FAILED_SOPS, _FAILURE_REASON, _REFERENCED = "00081198", "00081197", "00081155"


class DicomDestination:
    """An archive that takes results by C-STORE, and is asked for them by C-FIND.

    Args:
        ae_title: of the archive.
        host, port: where it listens.
        calling_ae_title: what medseg calls itself.
        check: "find" asks the archive for each result at the level of instances; "commitment" asks
            it to commit itself to each (storage commitment), and a result counts as delivered only
            then; "none" takes its word.
        timeout_s: for connecting and for each answer.
        tls: files of certificate, key and the authority trusted; None speaks without TLS.
        commitment_host, commitment_port: where the archive's commitments come, for
            check="commitment"; the archive must know `calling_ae_title` at this port.
        commitment_within_s: how long to wait for one before another result has its turn.

    Raises:
        ConfigError: commitment is wanted, and there is no port for it; or a value makes no sense.
    """

    def __init__(
        self,
        ae_title: str,
        host: str,
        port: int,
        *,
        calling_ae_title: str = "MEDSEG",
        check: Literal["find", "commitment", "none"] = "find",
        timeout_s: float = 30.0,
        tls: dict[str, str] | None = None,
        commitment_host: str = "127.0.0.1",
        commitment_port: int | None = None,
        commitment_within_s: float = 30.0,
    ) -> None:
        if check == "commitment" and commitment_port is None:
            raise ConfigError(
                "destination.commitment_port",
                "is not set, so that the archive's commitments could not arrive",
                "set the port at which the archive knows destination.calling_ae_title",
            )
        require_ae_titles("destination", ae_title=ae_title, calling_ae_title=calling_ae_title)
        require_ports("destination", port=port, commitment_port=commitment_port)
        require_above_zero(
            "destination", timeout_s=timeout_s, commitment_within_s=commitment_within_s
        )
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self.calling_ae_title = calling_ae_title
        self.check = check
        self.timeout_s = timeout_s
        self.tls = TlsFiles(**tls) if tls else None
        self.commitment = CommitmentClient(
            ae_title,
            host,
            port,
            calling_ae_title=calling_ae_title,
            listen_host=commitment_host,
            listen_port=commitment_port or 0,
            within_s=commitment_within_s,
            timeout_s=timeout_s,
            tls=self.tls,
        )

    def send(self, result: Result) -> None:
        with Path(result.path).open("rb") as file:
            header = dcmread(file, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        syntax = str(header.file_meta.TransferSyntaxUID)
        contexts = [(result.sop_class_uid, [syntax])]
        with self._association(contexts) as association:
            if not association.accepted_contexts:
                raise RefusedError(
                    self.ae_title,
                    f"does not take objects of this kind (SOP class {result.sop_class_uid} in "
                    f"transfer syntax {syntax})",
                    code="E_REFUSED_CONTEXT",
                )
            status = association.send_c_store(result.path).get("Status")
        self._judge(status)

    def holds(self, result: Result) -> bool:
        if self.check == "none":
            return True
        if self.check == "commitment":
            return self.commitment.is_committed(result)
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "IMAGE"
        wanted.StudyInstanceUID = result.study_uid
        wanted.SeriesInstanceUID = result.series_uid
        wanted.SOPInstanceUID = result.sop_instance_uid
        with self._association([(_STUDY_ROOT_FIND, None)]) as association:
            found = 0
            for status, identifier in association.send_c_find(wanted, _STUDY_ROOT_FIND):
                code = status.get("Status") if status else None
                if code in (0xFF00, 0xFF01):
                    uid = identifier.get("SOPInstanceUID") if identifier else None
                    found += uid == result.sop_instance_uid
                elif code != 0x0000:
                    raise UnavailableError(self.ae_title, "did not answer a query", "")
        return found > 0

    def _association(self, contexts: Sequence[tuple[str, Sequence[str] | None]]) -> Any:
        entity = client_entity(self.calling_ae_title, contexts, timeout_s=self.timeout_s)
        return connect(entity, self.host, self.port, self.ae_title, tls=self.tls)

    def _judge(self, status: int | None) -> None:
        if status is None or status in _OUT_OF_RESOURCES:
            what = "gave no answer" if status is None else "has no room"
            raise UnavailableError(self.ae_title, what, "")
        # Warnings (0xBxxx) say that the object was stored, with elements coerced or left out.
        if status in (0x0000, _DUPLICATE) or 0xB000 <= status < 0xC000:
            return
        code = "E_REFUSED_CLASS" if status == _NOT_SUPPORTED else "E_REFUSED"
        what = f"refused the result with status {status:04X}"
        raise RefusedError(self.ae_title, what, "see the archive's log", code=code)


class DicomWebDestination:
    """An archive that takes results by STOW-RS, and is asked for them by QIDO-RS.

    Args:
        url: root of the archive's DICOMweb service, such as https://pacs/dicom-web.
        user_file: file that holds USER:PASSWORD; None where the archive asks for none.
        token_file: file that holds a bearer token, instead.
        ca_file: certificate of the authority that signed the archive's; None takes the system's.
        timeout_s: for connecting and for each answer.

    Raises:
        ConfigError: the address is none, or would send a password in clear over the network.
    """

    def __init__(
        self,
        url: str,
        *,
        user_file: str | None = None,
        token_file: str | None = None,
        ca_file: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        if user_file and token_file:
            raise ConfigError("destination", "has user_file and token_file", "give one of them")
        require_above_zero("destination", timeout_s=timeout_s)
        self.client = WebClient(
            url, user_file=user_file, token_file=token_file, ca_file=ca_file, timeout_s=timeout_s
        )

    def send(self, result: Result) -> None:
        content = Path(result.path).read_bytes()
        body, content_type = multipart([content])
        headers = {"Content-Type": content_type, "Accept": "application/dicom+json"}
        answer = self.client.request("POST", "/studies", body=body, headers=headers)
        if answer.status in (200, 202):
            self._judge(answer.json(), result)
        elif answer.status in (400, 406, 409, 413, 415, 422):
            self._judge(answer.json(), result)
            raise RefusedError(
                self.client.url,
                f"refused the result with HTTP status {answer.status}",
                "see the archive's log",
            )
        else:
            raise UnavailableError(self.client.url, f"answered HTTP status {answer.status}", "")

    def holds(self, result: Result) -> bool:
        path = f"/studies/{result.study_uid}/series/{result.series_uid}/instances"
        answer = self.client.request(
            "GET",
            f"{path}?SOPInstanceUID={result.sop_instance_uid}",
            headers={"Accept": "application/dicom+json"},
        )
        if answer.status in (204, 404):
            return False
        if answer.status != 200:
            raise UnavailableError(self.client.url, f"answered HTTP status {answer.status}", "")
        found = answer.json()
        return isinstance(found, list) and any(
            result.sop_instance_uid in (item.get("00080018") or {}).get("Value", [])
            for item in found
            if isinstance(item, dict)
        )

    def _judge(self, answer: Any, result: Result) -> None:
        """Raises an error if the answer names the result among those that were not stored."""
        failed = (answer or {}).get(_FAILED_SOPS) if isinstance(answer, dict) else None
        for item in (failed or {}).get("Value", []):
            uids = (item.get(_REFERENCED) or {}).get("Value", [])
            (reason, *_) = (item.get(_FAILURE_REASON) or {}).get("Value", [0]) or [0]
            if result.sop_instance_uid not in uids or reason in (_DUPLICATE,):
                continue
            if reason in _OUT_OF_RESOURCES or reason == 0x0110:
                raise UnavailableError(self.client.url, f"failed with reason {reason:04X}", "")
            what = f"refused the result with reason {int(reason):04X}"
            raise RefusedError(self.client.url, what, "see the archive's log")
