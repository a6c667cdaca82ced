"""Sends DICOM files to an Orthanc server of its own and writes what the server gives back.

Run in a network namespace that has nothing but loopback, as
`python orthanc_exchange.py FOLDER FILE...`: each file goes there by C-STORE (dcmtk's storescu) and
by STOW-RS, and comes back by WADO-RS (Orthanc's DICOMweb plugin) and by Orthanc's own REST
interface, into FOLDER/<way there>_<way back>/. The server is stopped at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email import message_from_bytes
from pathlib import Path

import pydicom
from orthanc_needed import find_program

HTTP, DIMSE = 8042, 4242
BASE = f"http://127.0.0.1:{HTTP}"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
UNKNOWN_TO_STORESCU = ("labelmap",)
"""Debian's dcmtk 3.6.7 is older than the SOP class of label maps and does not send it."""

_STARTS_WITHIN_S = 30


def main(folder: Path, files: list[Path]) -> None:
    server = start(folder / "server")
    try:
        for way in ("store", "stow"):
            for file in files:
                if way == "store" and file.stem in UNKNOWN_TO_STORESCU:
                    continue
                (c_store if way == "store" else stow)(file)
                for name, content in (("rest", rest(file)), ("wado", wado(file))):
                    target = folder / f"{way}_{name}" / file.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                request("DELETE", f"/instances/{instance_of(file)}")
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def start(folder: Path) -> subprocess.Popen[bytes]:
    """A server on loopback that keeps everything below a folder, once it answers."""
    folder.mkdir(parents=True)
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": HTTP,
        "DicomPort": DIMSE,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": True,
        "UnknownSopClassAccepted": True,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    program = find_program("Orthanc")
    with (folder / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            [str(program), str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT
        )
    until = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < until and server.poll() is None:
        try:
            request("GET", "/system")
        except OSError:
            time.sleep(0.1)
        else:
            return server
    server.kill()
    server.wait()
    raise SystemExit(f"Orthanc does not answer:\n{(folder / 'log.txt').read_text()[-2000:]}")


def c_store(file: Path) -> None:
    command = [
        str(find_program("storescu")),
        "-R",
        "-aec",
        "ORTHANC",
        "127.0.0.1",
        str(DIMSE),
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise SystemExit(f"C-STORE of {file.name} failed:\n{done.stdout}{done.stderr}")


def stow(file: Path) -> None:
    boundary = "a-line-between-parts"
    body = (
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + file.read_bytes()
        + f"\r\n--{boundary}--\r\n".encode()
    )
    content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
    headers = {"Content-Type": content_type, "Accept": "application/dicom+json"}
    request("POST", "/dicom-web/studies", body=body, headers=headers)


def rest(file: Path) -> bytes:
    return request("GET", f"/instances/{instance_of(file)}/file")[0]


def wado(file: Path) -> bytes:
    header = pydicom.dcmread(file, stop_before_pixels=True)
    path = (
        f"/dicom-web/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}"
        f"/instances/{header.SOPInstanceUID}"
    )
    accepted = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    content, content_type = request("GET", path, headers={"Accept": accepted})
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + content)
    (part,) = message.get_payload()
    # The parser of mail undoes line ends, so the part's bytes are cut out of the answer instead.
    assert part.get_content_type() == "application/dicom"
    start = content.index(b"\r\n\r\n") + 4
    end = content.rindex(b"\r\n--")
    return content[start:end]


def instance_of(file: Path) -> str:
    """Orthanc's own name for the instance in a file."""
    uid = pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID
    (found,) = json.loads(request("POST", "/tools/lookup", body=str(uid).encode())[0])
    return str(found["ID"])


def request(
    method: str, path: str, *, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[bytes, str]:
    """Content and content type of the server's answer."""
    asked = urllib.request.Request(BASE + path, data=body, headers=headers or {}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=60) as answer:
            return answer.read(), answer.headers["Content-Type"] or ""
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{method} {path}: {error.code} {error.read()[:500]!r}") from error


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
