"""What a service tells of itself over HTTP: alive, ready, figures, and a page for people.

It listens at loopback unless told otherwise, takes no data and changes nothing. A request must name
an address, this machine or a name it was told of: a page of a strange site, whose name its owner
lets point here (DNS rebinding), gets nothing.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from medseg.core.errors import ConfigError, MedsegError
from medseg.services.figures import figures, prometheus
from medseg.services.ledger import Ledger
from medseg.services.overlays import Overlays
from medseg.services.status_page import ICON, PAGE, SCRIPT, STYLE

_log = logging.getLogger(__name__)

_SECURITY = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MAX_CONNECTIONS = 32
_STRANGE_NAME = b"asked for by a name that is not in health_names\n"


class HealthServer:
    """Answers /healthz, /readyz, /metrics, /status.json and / for browsers.

    Args:
        ledger: whose figures are told.
        host, port: to listen at; port 0 takes a free one.
        reason_not_ready: why the service cannot take more at the moment; "" if it can.
        numbers: of the way in.
        overlays: pictures of the last results.
        names: by which others may ask for it, beside addresses, localhost and `host`.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        host: str,
        port: int,
        reason_not_ready: Callable[[], str],
        numbers: Callable[[], Mapping[str, float]],
        overlays: Overlays,
        names: Sequence[str] = (),
    ) -> None:
        self.ledger = ledger
        self.names = {name.lower() for name in ("localhost", host, *names)}
        self.reason_not_ready = reason_not_ready
        self.numbers = numbers
        self.overlays = overlays
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        try:
            self._server = _Server((host, port), _handler_for(self))
        except OSError as error:
            raise ConfigError(
                "health_port",
                f"{host}:{port} cannot be listened at ({error.strerror})",
                "choose another port, or null for none",
            ) from error
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        if path == "/healthz":
            return 200, "text/plain; charset=utf-8", b"alive\n"
        if path == "/readyz":
            reason = self._reason()
            text = f"not ready: {reason}\n" if reason else "ready\n"
            return 503 if reason else 200, "text/plain; charset=utf-8", text.encode()
        if path == "/metrics":
            text = prometheus(figures(self.ledger), self.numbers())
            return 200, "text/plain; version=0.0.4; charset=utf-8", text.encode()
        if path == "/status.json":
            return 200, "application/json", json.dumps(self._status()).encode()
        pages = {
            "/": ("text/html; charset=utf-8", PAGE),
            "/status.svg": ("image/svg+xml", ICON),
            "/status.css": ("text/css; charset=utf-8", STYLE),
            "/status.js": ("text/javascript; charset=utf-8", SCRIPT),
        }
        if path in pages:
            kind, content = pages[path]
            return 200, kind, content.encode()
        if path.startswith("/overlays/"):
            picture = self.overlays.content(path.removeprefix("/overlays/"))
            if picture is not None:
                return 200, "image/png", picture
        return 404, "text/plain; charset=utf-8", b"there is nothing here\n"

    def is_own_name(self, asked: str | None) -> bool:
        """Whether the Host of a request is an address or one of the names; so is none, which no
        browser sends.
        """
        if asked is None:
            return True
        try:
            name = urlsplit(f"//{asked.strip()}").hostname or ""
        except ValueError:
            return False
        return name in self.names or _is_address(name)

    def _status(self) -> dict[str, Any]:
        reason = self._reason()
        return {
            **figures(self.ledger),
            "intake": dict(self.numbers()),
            "overlays": self.overlays.names(),
            "ready": not reason,
            "reason": reason,
        }

    def _reason(self) -> str:
        try:
            with self.ledger.transaction():
                pass
        except MedsegError as error:
            return f"the ledger cannot be written ({error.code})"
        return self.reason_not_ready()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a request broke off")


def _handler_for(health: HealthServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0
        server_version = "medseg"
        sys_version = ""

        def do_GET(self) -> None:
            if not health._free.acquire(timeout=1.0):
                self.send_error(503)
                return
            try:
                if health.is_own_name(self.headers.get("Host")):
                    status, kind, body = health.answer(self.path.partition("?")[0])
                else:
                    status, kind, body = 421, "text/plain", _STRANGE_NAME
            except MedsegError as error:
                status, kind, body = 503, "text/plain", f"{error.code}\n".encode()
            finally:
                health._free.release()
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), **_SECURITY}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
