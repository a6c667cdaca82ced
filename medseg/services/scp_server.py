"""The listening side of DICOM, guarded: who may connect, how many at once, how long and how much.

pynetdicom alone would let connections that never speak take the place of real senders, let a
slow TLS handshake hold up everybody, and read a message of any announced length into memory.
"""

from __future__ import annotations

import ipaddress
import logging
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
        handshake_s: for TLS.
    """

    max_associations: int = 50
    max_associations_per_peer: int = 20
    max_connections: int = 200
    max_message_bytes: int = 1 << 20
    handshake_s: float = 5.0


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
        super().__init__(*args, request_handler=_GuardedHandler, **options)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        address = client_address[0]
        if self.peers and not any(_lies_in(address, peer.network) for peer in self.peers.values()):
            self.refused["address"] += 1
            return False
        if len(self.active_associations) >= self.limits.max_connections:
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
            self.request.settimeout(self.server.limits.handshake_s)
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.request.settimeout(self.server.ae.network_timeout)

    def _create_association(self) -> Any:
        association = super()._create_association()
        wrapped = association.dul.socket
        limits, refused = self.server.limits, self.server.refused

        def receive(count: int) -> bytearray:
            if count > limits.max_message_bytes:
                refused["oversized"] += 1
                raise OSError("a message of this length is not read")
            return _receive(wrapped.socket, count)

        wrapped.recv = receive
        return association


def _receive(source: socket.socket, count: int) -> bytearray:
    """So many bytes, or as many as come before the peer closes or its time is over."""
    content, until = bytearray(), time.monotonic() + _PDU_SECONDS
    while len(content) < count:
        if time.monotonic() > until:
            raise TimeoutError("a message took too long")
        piece = source.recv(min(1 << 16, count - len(content)))
        if not piece:
            break
        content += piece
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
