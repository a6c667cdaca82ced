"""A DICOMweb archive as the worklist: studies are searched (QIDO-RS) and fetched (WADO-RS)."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from medseg.core.errors import InputError, MedsegError
from medseg.dicom.study_uid import study_uid_of
from medseg.dicom.syntaxes import ACCEPTED, DEFLATED, EXPLICIT_BIG, IMPLICIT_LITTLE
from medseg.services.intake import recipes_of
from medseg.services.jobs import NewJob, job_key
from medseg.services.ranges import require_above_zero, require_not_negative
from medseg.services.reception import Reception
from medseg.services.sender import UnavailableError
from medseg.services.web_client import WebClient

_log = logging.getLogger(__name__)

_JSON = {"Accept": "application/dicom+json"}
_PAGE = 500
_MAX_INSTANCE = 2 << 30
_UID = re.compile(r"[0-9.]{1,64}")


class DicomWeb:
    """Asks an archive for studies again and again, and fetches those that are new or have grown.

    Args:
        url: root of the archive's DICOMweb service.
        query: what studies must match, as in QIDO-RS, such as {"ModalitiesInStudy": "CT"};
            StudyDate "today" or "last N days" is turned into dates.
        modalities: of the series to fetch.
        interval_s: between two questions.
        quiet_s: a study is complete when it has not grown for so long.
        max_studies: that one question looks at, the newest first.
        user_file, token_file, ca_file, timeout_s: as of
            `medseg.services.destinations.DicomWebDestination`.
    """

    def __init__(
        self,
        url: str,
        *,
        query: dict[str, str] | None = None,
        modalities: Sequence[str] = ("CT", "MR", "PT"),
        interval_s: float = 30.0,
        quiet_s: float = 60.0,
        max_studies: int = 5000,
        user_file: str | None = None,
        token_file: str | None = None,
        ca_file: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        require_above_zero(
            "service", interval_s=interval_s, max_studies=max_studies, timeout_s=timeout_s
        )
        require_not_negative("service", quiet_s=quiet_s)
        self.client = WebClient(
            url, user_file=user_file, token_file=token_file, ca_file=ca_file, timeout_s=timeout_s
        )
        self.query = query or {}
        self.modalities = tuple(modalities)
        self.interval_s = interval_s
        self.quiet_s = quiet_s
        self.max_studies = max_studies
        self.fetched = 0
        self.failures = 0
        self._seen: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, reception: Reception) -> None:
        reception.open()
        self._thread = threading.Thread(target=self._ask, args=(reception,), daemon=True)
        self._thread.start()
        _log.info("asking %s for studies", self.client.url)

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)

    def numbers(self) -> dict[str, float]:
        """For the metrics."""
        return {"studies_fetched": self.fetched, "worklist_failures": self.failures}

    def look(self, reception: Reception) -> int:
        """Fetches what is complete and not yet known; how many studies.

        Raises:
            UnavailableError: the archive cannot be asked.
        """
        now, count = time.monotonic(), 0
        seen: dict[str, tuple[str, float]] = {}
        for study_uid in self._studies():
            if self._stop.is_set():
                break
            series = self._series(study_uid)
            if not series:
                continue
            state = job_key(series)
            before, since = self._seen.get(study_uid, ("", now))
            since = since if before == state else now
            seen[study_uid] = (state, since)
            key = job_key("dicomweb", self.client.url, study_uid, state, self._recipe(reception))
            if reception.ledger.jobs(name=key) or now - since < self.quiet_s:
                continue
            if not reception.has_room():
                break
            self._fetch(study_uid, [uid for uid, _ in series], key, reception)
            count += 1
        self._seen = seen
        self.fetched += count
        return count

    def _ask(self, reception: Reception) -> None:
        while not self._stop.is_set():
            try:
                self.look(reception)
                self.failures = 0
            except MedsegError as error:
                self.failures += 1
                _log.warning("the worklist cannot be asked for: %s", error.code)
            except OSError as error:
                _log.warning("a study cannot be kept (%s)", type(error).__name__)
            self._stop.wait(self.interval_s * min(2 ** min(self.failures, 4), 10))

    def _recipe(self, reception: Reception) -> str:
        return recipes_of(reception.models, reception.reading)[0]

    def _studies(self) -> Iterator[str]:
        offset = 0
        while offset < self.max_studies:
            values = {**_with_dates(self.query), "limit": str(_PAGE), "offset": str(offset)}
            found = self._search(f"/studies?{urlencode(values)}")
            for item in found:
                uid = _value(item, "0020000D")
                if _UID.fullmatch(uid):
                    yield uid
            if len(found) < _PAGE:
                return
            offset += len(found)

    def _series(self, study_uid: str) -> list[tuple[str, int]]:
        """UID and number of instances of each series that may hold images."""
        found = self._search(f"/studies/{study_uid}/series?includefield=00201209")
        return sorted(
            (uid, int(_value(item, "00201209") or 0))
            for item in found
            if _value(item, "00080060") in self.modalities
            and _UID.fullmatch(uid := _value(item, "0020000E"))
        )

    def _search(self, path: str) -> list[dict[str, Any]]:
        answer = self.client.request("GET", path, headers=_JSON)
        if answer.status in (204, 404):
            return []
        found = answer.json()
        if answer.status != 200 or not isinstance(found, list):
            raise UnavailableError(self.client.url, f"answered HTTP status {answer.status}", "")
        return [item for item in found if isinstance(item, dict)]

    def _fetch(
        self, study_uid: str, series_uids: Sequence[str], key: str, reception: Reception
    ) -> None:
        """Keeps the series of a study, then tells the ledger."""
        for series_uid in series_uids:
            path = f"/studies/{study_uid}/series/{quote(series_uid)}"
            accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
            with self.client.open("GET", path, headers={"Accept": accept}) as answer:
                if answer.status != 200:
                    raise UnavailableError(
                        self.client.url, f"answered HTTP status {answer.status}", ""
                    )
                for content in parts_of(answer, str(answer.headers["Content-Type"])):
                    _keep(content, study_uid, reception)
        folder = reception.study_folder(study_uid)
        source = {
            "path": str(folder.absolute()),
            "root": str(reception.folder.absolute()),
            "is_loose": False,
        }
        job = NewJob("study", key, f"study_{key[:12]}", source, recipe=self._recipe(reception))
        reception.ledger.receive(job)


def parts_of(answer: BinaryIO | Any, content_type: str) -> Iterator[bytes]:
    """Bodies of a multipart answer, one after the other.

    Raises:
        UnavailableError: it is none, breaks off, or a part is larger than 2 GB.
    """
    found = re.search(r'boundary="?([^";,]+)"?', content_type)
    if "multipart/related" not in content_type or found is None:
        raise UnavailableError("DICOMweb", "gave an answer that is not multipart/related", "")
    mark = b"--" + found[1].encode()
    buffer = bytearray()
    begun = False
    while True:
        place = buffer.find(mark if not begun else b"\r\n" + mark)
        if place < 0:
            piece = answer.read(1 << 20)
            if not piece:
                raise UnavailableError("DICOMweb", "broke its answer off", "")
            buffer += piece
            if len(buffer) > _MAX_INSTANCE:
                raise UnavailableError("DICOMweb", "gave a part that is too large", "")
            continue
        if begun:
            head, _, body = bytes(buffer[:place]).partition(b"\r\n\r\n")
            if head or body:
                yield body
        length = len(mark) + (2 if begun else 0)
        while len(buffer) < place + length + 2:
            piece = answer.read(1 << 16)
            if not piece:
                break
            buffer += piece
        after = bytes(buffer[place + length : place + length + 2])
        if after == b"--":
            return
        # The line end behind the mark begins the head of the part; \r\n\r\n ends it.
        del buffer[: place + length + 2]
        begun = True


def _keep(content: bytes, study_uid: str, reception: Reception) -> None:
    """Keeps an instance that is DICOM and belongs to the study; others are left out."""
    if content[128:132] != b"DICM":
        raise UnavailableError("DICOMweb", "gave a part that is no DICOM file", "")
    length = int.from_bytes(content[140:144], "little")
    syntax = _meta_text(content, 144, 144 + length, b"\x02\x00\x10\x00")
    sop_uid = _meta_text(content, 144, 144 + length, b"\x02\x00\x03\x00")
    if syntax not in ACCEPTED - {DEFLATED, EXPLICIT_BIG} or not sop_uid:
        raise UnavailableError("DICOMweb", f"gave a file in transfer syntax {syntax[:64]!r}", "")
    found = study_uid_of(content[144 + length :], is_implicit=syntax == IMPLICIT_LITTLE)
    if found != study_uid:
        raise UnavailableError("DICOMweb", "gave an instance of another study", "")
    try:
        reception.keep(content, study_uid=study_uid, sop_uid=sop_uid)
    except InputError as error:
        _log.warning("an instance was left out: %s", error.code)


def _meta_text(content: bytes, start: int, end: int, tag: bytes) -> str:
    """A short element of the file meta information; "" if it is not there."""
    position = start
    while position + 8 <= min(end, len(content)):
        is_long = content[position + 4 : position + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        if is_long:
            length = int.from_bytes(content[position + 8 : position + 12], "little")
            value = position + 12
        else:
            length = int.from_bytes(content[position + 6 : position + 8], "little")
            value = position + 8
        if content[position : position + 4] == tag:
            return content[value : value + length].decode("ascii", "replace").strip("\0 ")
        position = value + length
    return ""


def _with_dates(query: dict[str, str]) -> dict[str, str]:
    """The query with "today" and "last N days" as DICOM dates."""
    values = dict(query)
    text = values.get("StudyDate", "")
    days = 0 if text == "today" else None
    if found := re.fullmatch(r"last (\d+) days?", text):
        days = int(found[1])
    if days is not None:
        first = time.strftime("%Y%m%d", time.localtime(time.time() - days * 86400))
        values["StudyDate"] = f"{first}-"
    return values


def _value(item: dict[str, Any], tag: str) -> str:
    values = (item.get(tag) or {}).get("Value") or [""]
    return str(values[0])
