"""HTTP to one DICOMweb service: no redirects, no proxies, bounded answers, passwords from files."""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medseg.core.errors import ConfigError
from medseg.services.sender import UnavailableError

_MAX_ANSWER = 64 << 20


@dataclass(frozen=True)
class WebAnswer:
    """Status and body of an answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class WebClient:
    """Asks one service; see `DicomWebDestination` for the arguments.

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
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ConfigError(
                "url", "is no http or https address without a password", "such as https://pacs/wado"
            )
        if parts.scheme == "http" and (user_file or token_file) and not _is_here(parts.hostname):
            raise ConfigError("url", "would send the password in clear", "use https")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._parts = parts
        self._user_file, self._token_file = user_file, token_file
        self._ca_file = ca_file
        self._timeout_s = timeout_s

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> WebAnswer:
        """The answer to one request, below the service's root.

        Raises:
            UnavailableError: nobody answers, or the answer breaks off or is too long.
        """
        with self.open(method, path, body=body, headers=headers) as answer:
            content = answer.read(_MAX_ANSWER + 1)
            if len(content) > _MAX_ANSWER:
                raise UnavailableError(self.url, "gave an answer that is too long", "")
            return WebAnswer(answer.status, content)

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """As `request`, for an answer that is read in pieces."""
        connection = self._connection()
        try:
            root = self._parts.path.rstrip("/")
            all_headers = {**self._authorization(), **(headers or {})}
            connection.request(method, f"{root}{path}", body=body, headers=all_headers)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            kind = type(error).__name__
            raise UnavailableError(self.url, f"cannot be reached ({kind})", "") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        context = ssl.create_default_context(cafile=self._ca_file)
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)

    def _authorization(self) -> dict[str, str]:
        if self._token_file:
            return {"Authorization": f"Bearer {_secret(self._token_file)}"}
        if self._user_file:
            word = base64.b64encode(_secret(self._user_file).encode()).decode()
            return {"Authorization": f"Basic {word}"}
        return {}


def multipart(contents: Sequence[bytes]) -> tuple[bytes, str]:
    """DICOM files as the body of a STOW-RS request, and its content type."""
    boundary = hashlib.sha256(b"".join(contents)).hexdigest()
    parts = [
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + content + b"\r\n"
        for content in contents
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, f'multipart/related; type="application/dicom"; boundary={boundary}'


def _secret(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})", "check it") from error


def _is_here(host: str) -> bool:
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return False
    return ipaddress.ip_address(address).is_loopback
