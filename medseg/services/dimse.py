"""DICOM over the network as a client: entities, associations and TLS, without a word in the log."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from medseg.core.errors import ConfigError
from medseg.services.sender import UnavailableError


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a side that shows a certificate and asks for the other's (BCP 195).

    Args:
        certificate, key: of this side.
        authority: whose certificates are trusted.
        host_name: that the other side's certificate must be for; "" takes any of the authority's,
            as certificates of modalities rarely name a host.
    """

    certificate: str
    key: str
    authority: str
    host_name: str = ""

    def context(self, *, is_server: bool) -> ssl.SSLContext:
        """TLS 1.2 or later; the other side must show a certificate too.

        Raises:
            ConfigError: a file cannot be read, or is none.
        """
        purpose = ssl.Purpose.CLIENT_AUTH if is_server else ssl.Purpose.SERVER_AUTH
        try:
            context = ssl.create_default_context(purpose, cafile=self.authority)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ConfigError("tls", f"cannot be set up ({reason})", "check its files") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = not is_server and bool(self.host_name)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def pynetdicom() -> Any:
    """The library, silenced: its log quotes names and identifiers."""
    import pynetdicom as library

    library._config.LOG_HANDLER_LEVEL = "none"
    library._config.STORE_SEND_CHUNKED_DATASET = True
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    return library


def client_entity(
    ae_title: str, contexts: Sequence[tuple[str, Sequence[str] | None]], *, timeout_s: float
) -> Any:
    """An application entity that asks for these SOP classes, each in its transfer syntaxes."""
    entity = pynetdicom().AE(ae_title=ae_title)
    for sop_class, syntaxes in contexts:
        entity.add_requested_context(sop_class, list(syntaxes) if syntaxes else None)
    entity.acse_timeout = entity.dimse_timeout = timeout_s
    entity.network_timeout = entity.connection_timeout = timeout_s
    return entity


@contextmanager
def connect(
    entity: Any, host: str, port: int, ae_title: str, *, tls: TlsFiles | None, **options: Any
) -> Iterator[Any]:
    """An association, released when the block ends.

    Raises:
        UnavailableError: there is nobody, or the association is rejected or breaks.
    """
    tls_args = (tls.context(is_server=False), tls.host_name or None) if tls else None
    association = entity.associate(host, port, ae_title=ae_title, tls_args=tls_args, **options)
    if association.is_rejected:
        raise UnavailableError(ae_title, "rejects the association", "check AE titles")
    if not association.is_established:
        # Aborted also when the peer accepts none of the contexts.
        if association.rejected_contexts:
            yield _Nothing()
            return
        raise UnavailableError(ae_title, "cannot be reached", "check host and port")
    try:
        yield association
        if not association.is_established:
            raise UnavailableError(ae_title, "broke the association off", "")
    except (RuntimeError, ValueError) as error:
        if association.is_established:
            raise
        raise UnavailableError(ae_title, "broke the association off", "") from error
    finally:
        if association.is_established:
            association.release()


class _Nothing:
    """What an association is that was left because no context was accepted."""

    accepted_contexts: tuple[Any, ...] = ()
