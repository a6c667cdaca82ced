"""The inbox folder and the DICOMweb worklist, the latter against answers made here."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from service_cases import ct_study, recipe, tiny_bundle

from medseg.core.errors import ConfigError
from medseg.services.destinations import DicomWebDestination
from medseg.services.dicomweb import DicomWeb, parts_of
from medseg.services.jobs import Result
from medseg.services.ledger import Ledger
from medseg.services.reception import Reception
from medseg.services.sender import RefusedError, UnavailableError
from medseg.services.watch_folder import WatchFolder
from medseg.services.web_client import WebClient, multipart


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


class Archive:
    """A DICOMweb service over some files; `answers` replaces what it would say, by path."""

    def __init__(self, files):
        self.files = files
        self.answers = {}
        self.posted = []
        archive = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                archive.reply(self, urlsplit(self.path))

            def do_POST(self):
                archive.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
                archive.reply(self, urlsplit(self.path))

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"

    def reply(self, handler, parts):
        path = parts.path.removeprefix("/dicom-web")
        status, kind, body = self.answers.get(path) or self.usual(path, parse_qs(parts.query))
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def usual(self, path, query):
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in self.files]
        if path == "/studies":
            uids = sorted({header.StudyInstanceUID for header in headers})
            uids = uids[int(query["offset"][0]) :][: int(query["limit"][0])]
            return as_json([{"0020000D": {"Value": [uid]}} for uid in uids])
        study = path.split("/")[2]
        inside = [header for header in headers if header.StudyInstanceUID == study]
        if path.endswith("/series"):
            counts = {}
            for header in inside:
                key = (header.SeriesInstanceUID, header.Modality)
                counts[key] = counts.get(key, 0) + 1
            return as_json(
                [
                    {
                        "0020000E": {"Value": [uid]},
                        "00080060": {"Value": [modality]},
                        "00201209": {"Value": [count]},
                    }
                    for (uid, modality), count in counts.items()
                ]
            )
        body, kind = multipart([file.read_bytes() for file in self.files])
        return 200, kind, body


def as_json(value):
    return 200, "application/dicom+json", json.dumps(value).encode()


@pytest.fixture
def archive(tmp_path):
    made = Archive(ct_study(tmp_path / "archive", 0))
    yield made
    made.server.shutdown()


def test_a_study_is_received_once_it_has_stopped_growing(tmp_path, reception):
    paths = ct_study(tmp_path / "inbox" / "study", 0)
    watch = WatchFolder(str(tmp_path / "inbox"), quiet_s=0.0)
    growing = WatchFolder(str(tmp_path / "inbox"), quiet_s=3600)

    assert growing.look(reception) == 0
    assert watch.look(reception) == 1
    assert watch.look(reception) == 0

    paths[0].unlink()  # it changes, and is another study to look at
    assert watch.look(reception) == 1
    assert {job.source["path"] for job in reception.ledger.jobs()} == {
        str(tmp_path / "inbox" / "study")
    }


def test_a_study_of_the_worklist_is_fetched_whole_and_once(archive, reception):
    web = DicomWeb(archive.url, quiet_s=0)

    assert web.look(reception) == 1
    assert web.look(reception) == 0

    (folder,) = reception.studies()
    assert {pydicom.dcmread(path).SOPInstanceUID for path in folder.iterdir()} == {
        pydicom.dcmread(path).SOPInstanceUID for path in archive.files
    }
    (job,) = reception.ledger.jobs()
    assert job.source["path"] == str(folder)


def test_series_of_other_kinds_are_not_fetched(archive, reception):
    assert DicomWeb(archive.url, quiet_s=0, modalities=["MR"]).look(reception) == 0
    assert list(reception.studies()) == []


def test_an_answer_that_breaks_off_leaves_no_job(archive, reception):
    uid = pydicom.dcmread(archive.files[0]).StudyInstanceUID
    series = pydicom.dcmread(archive.files[0]).SeriesInstanceUID
    body, kind = multipart([file.read_bytes() for file in archive.files])
    path = f"/studies/{uid}/series/{series}"
    archive.answers[path] = (200, kind, body[: len(body) // 2])

    with pytest.raises(UnavailableError, match="broke its answer off"):
        DicomWeb(archive.url, quiet_s=0).look(reception)
    assert reception.ledger.jobs() == []

    del archive.answers[path]
    assert DicomWeb(archive.url, quiet_s=0).look(reception) == 1


def test_uids_of_an_archive_never_become_paths(archive, reception, tmp_path):
    archive.answers["/studies"] = as_json([{"0020000D": {"Value": ["../../etc"]}}])

    assert DicomWeb(archive.url, quiet_s=0).look(reception) == 0
    assert list(reception.studies()) == []


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_parts_are_found_whatever_pieces_they_come_in(size):
    contents = [b"\r\n--not the mark\r\n" * 3, b"", b"x" * 5000]
    body, kind = multipart(contents)

    class Slow:
        position = 0

        def read(self, count):
            piece = body[self.position : self.position + min(size, count)]
            self.position += len(piece)
            return piece

    assert [part for part in parts_of(Slow(), kind) if part] == [contents[0], contents[2]]


RESULT = Result("", "", "1.2.840.10008.5.1.4.1.1.66.4", "2.25.1", "2.25.2", "2.25.3")


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (200, None, None),
        (202, None, None),
        (409, 0x0111, RefusedError),
        (200, 0xA700, UnavailableError),
        (202, 0xC000, RefusedError),
        (400, None, RefusedError),
        (503, None, UnavailableError),
        (302, None, UnavailableError),  # redirects are not followed
    ],
)
def test_what_an_archive_says_of_a_result_is_understood(
    archive, tmp_path, status, reason, expected
):
    path = tmp_path / "result.dcm"
    path.write_bytes(b"content")
    failed = {"00081155": {"Value": ["2.25.1"]}, "00081197": {"Value": [reason]}}
    body = {"00081198": {"Value": [failed]}} if reason else {}
    archive.answers["/studies"] = (status, "application/dicom+json", json.dumps(body).encode())
    destination = DicomWebDestination(archive.url)
    result = Result(str(path), "", RESULT.sop_class_uid, "2.25.1", "2.25.2", "2.25.3")

    if expected is None:
        destination.send(result)
        assert b"content" in archive.posted[0]
    else:
        with pytest.raises(expected):
            destination.send(result)


def test_a_result_counts_as_there_only_if_it_is_named(archive):
    path = "/studies/2.25.2/series/2.25.3/instances"
    destination = DicomWebDestination(archive.url)

    archive.answers[path] = as_json([{"00080018": {"Value": ["2.25.9"]}}])
    assert destination.holds(RESULT) is False
    archive.answers[path] = as_json([{"00080018": {"Value": ["2.25.1"]}}])
    assert destination.holds(RESULT) is True
    archive.answers[path] = (204, "text/plain", b"")
    assert destination.holds(RESULT) is False
    archive.answers[path] = (500, "text/plain", b"")
    with pytest.raises(UnavailableError):
        destination.holds(RESULT)


def test_a_password_never_goes_over_a_network_in_clear(tmp_path):
    secret = tmp_path / "user"
    secret.write_text("medseg:word")

    with pytest.raises(ConfigError, match="would send the password in clear"):
        WebClient("http://192.0.2.1/dicom-web", user_file=str(secret))
    with pytest.raises(ConfigError, match="no http or https address"):
        WebClient("ftp://192.0.2.1")
    WebClient("https://192.0.2.1/dicom-web", user_file=str(secret))
    WebClient("http://127.0.0.1/dicom-web", user_file=str(secret))


def test_nobody_there_is_no_end():
    with pytest.raises(UnavailableError, match="cannot be reached"):
        WebClient("http://127.0.0.1:9/dicom-web").request("GET", "/studies")
