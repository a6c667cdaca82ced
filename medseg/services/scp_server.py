"""The listening side of DICOM, guarded: who may connect, how many at once, how long and how much.

pynetdicom alone would let connections that never speak take the place of real senders, let a
slow TLS handshake hold up everybody, read a message of any announced length into memory, and on a
busy machine close a connection whose request has come but was not looked at in time.
"""

from __future__ import annotations

import ipaddress
import logging
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

_log = logging.getLogger(__name__)

_PDU_SECONDS = 60.0
_REJECT_TRANSIENT_FULL = (0x02, 0x03, 0x02)
_REJECT_CALLING = (0x01, 0x01, 0x03)


@dataclass(frozen=True)
class Limits:
    """Of one listening port.

    Args:
        max_associations: established at once, of all peers.
        max_associations_per_peer: of one address.
        max_connections: open at once, spoken or not.
        max_message_bytes: length of one protocol unit; a longer one ends the connection.
        speak_within_s: for the TLS handshake, then until the first byte, then for the rest of the
            request.
    """

    max_associations: int = 50
    max_associations_per_peer: int = 20
    max_connections: int = 200
    max_message_bytes: int = 1 << 20
    speak_within_s: float = 5.0


@dataclass(frozen=True)
class Peer:
    """A system that may send.

    Args:
        network: addresses it sends from.
        host, port: where it listens for answers such as storage commitment; port 0 where it does
            not.
    """

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    host: str
    port: int


class GuardedServer(ThreadedAssociationServer):
    """Accepts connections within limits; constructor arguments as of pynetdicom's `make_server`.

    Args:
        peers: by AE title; empty for anybody.
        limits: see `Limits`.
        tls: for connections; None for none.
        refused: counts what was turned away, by reason.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,
        peers: Mapping[str, Peer],
        limits: Limits,
        tls: ssl.SSLContext | None,
        refused: Counter[str],
        **options: Any,
    ) -> None:
        self.peers = peers
        self.limits = limits
        self.tls = tls
        self.refused = refused
        self._silent: set[Any] = set()  # addresses of connections that have not spoken yet
        super().__init__(*args, request_handler=_GuardedHandler, **options)
        self.contexts: list[Any] = _Shared(self.contexts)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._silent.add(client_address)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._silent.discard(client_address)
            raise

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            super().finish_request(request, client_address)
        finally:
            self._silent.discard(client_address)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        address = client_address[0]
        if self.peers and not any(_lies_in(address, peer.network) for peer in self.peers.values()):
            self.refused["address"] += 1
            return False
        if len(self.active_associations) + len(self._silent) >= self.limits.max_connections:
            self.refused["connections"] += 1
            return False
        return True

    def judge(self, association: Any) -> tuple[int, int, int] | None:
        """Result, source and diagnostic of a rejection; None if the association may go on."""
        address = str(association.requestor.address)
        title = str(association.requestor.primitive.calling_ae_title).strip()
        if self.peers:
            peer = self.peers.get(title)
            if peer is None or not _lies_in(address, peer.network):
                self.refused["ae_title"] += 1
                return _REJECT_CALLING
        others = [one for one in self.active_associations if one.is_established]
        from_there = sum(str(one.requestor.address) == address for one in others)
        limits = self.limits
        if len(others) >= limits.max_associations or from_there >= limits.max_associations_per_peer:
            self.refused["associations"] += 1
            return _REJECT_TRANSIENT_FULL
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        # The base class prints a traceback; a peer that breaks off is no fault of this program.
        self.refused["broken"] += 1


class _GuardedHandler(RequestHandler):
    server: GuardedServer
    request: Any

    def setup(self) -> None:
        # In the connection's own thread: a peer that does not shake hands delays nobody else.
        if self.server.tls is not None:
            self.request.settimeout(self.server.limits.speak_within_s)
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.request.settimeout(self.server.ae.network_timeout)

    def handle(self) -> None:
        # Before the first byte a connection costs a sleeping thread; an association has two that
        # ask a thousand times a second. Its own time-out counts from here on, however late a busy
        # machine looks at a request that has come.
        if not _has_spoken(self.request, within_s=self.server.limits.speak_within_s):
            self.server.refused["silent"] += 1
        elif self.server.fileno() >= 0:  # not closed in the meantime
            super().handle()
            return
        self.server.shutdown_request(self.request)

    def _create_association(self) -> Any:
        association = super()._create_association()
        wrapped = association.dul.socket
        limits, refused = self.server.limits, self.server.refused

        def receive(count: int) -> bytearray:
            if count > limits.max_message_bytes:
                refused["oversized"] += 1
                raise OSError("a message of this length is not read")
            has_asked = association.requestor.primitive is not None
            within_s = _PDU_SECONDS if has_asked else limits.speak_within_s
            return _receive(wrapped.socket, count, within_s=within_s)

        wrapped.recv = receive
        return association


class _Shared(list[Any]):
    """Presentation contexts that every association reads: a copy of a hundred and seventy for each
    would take longer than anything else that it does.
    """

    def __deepcopy__(self, memo: object) -> _Shared:
        return self


def _has_spoken(source: socket.socket, *, within_s: float) -> bool:
    """Whether something has come, or the end of the connection, before the time is over."""
    if isinstance(source, ssl.SSLSocket) and source.pending():
        return True
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    return bool(waiting.poll(within_s * 1000))


def _receive(source: socket.socket, count: int, *, within_s: float) -> bytearray:
    """So many bytes, or as many as come before the peer closes or its time is over."""
    content, until = bytearray(), time.monotonic() + within_s
    pause_s = source.gettimeout()
    try:
        while len(content) < count:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("a message took too long")
            source.settimeout(left_s if pause_s is None else min(left_s, pause_s))
            piece = source.recv(min(1 << 16, count - len(content)))
            if not piece:
                break
            content += piece
    finally:
        source.settimeout(pause_s)
    return content


def peers_of(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Peer]:
    """Peers by AE title from {"CT1": {"address": "10.0.0.0/24", "port": 104}}.

    Raises:
        ValueError: an address is none.
    """
    found = {}
    for title, entry in entries.items():
        text = str(entry.get("address", ""))
        network = ipaddress.ip_network(text, strict=False)
        host = str(entry.get("host") or network.network_address)
        found[str(title).strip()] = Peer(network, host, int(entry.get("port", 0)))
    return found


def _lies_in(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        found = ipaddress.ip_address(address.removeprefix("::ffff:"))
    except ValueError:
        return False
    return found in network
