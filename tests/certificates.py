"""A certificate authority of the tests, and certificates of it in files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import trustme

from polywire.server.settings import TlsSettings

__all__ = ["Certificates", "make_certificates"]


class Certificates(NamedTuple):
    """For ``localhost`` and its addresses. Paths of PEM files, and what made them."""

    ca: str
    certificate: str
    key: str
    authority: trustme.CA

    @property
    def settings(self) -> TlsSettings:
        return TlsSettings(self.certificate, self.key)

    def trusting(self) -> ssl.SSLContext:
        """A client's."""
        return ssl.create_default_context(cafile=self.ca)

    def with_certificate(self, name: str) -> ssl.SSLContext:
        """A client's that has a certificate of its own."""
        context = self.trusting()
        self.authority.issue_cert(name).configure_cert(context)
        return context


def make_certificates(folder: Path) -> Certificates:
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1", "::1")
    ca, certificate, key = (folder / name for name in ("ca.pem", "server.pem", "server-key.pem"))
    authority.cert_pem.write_to_path(str(ca))
    server.private_key_pem.write_to_path(str(key))
    certificate.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    return Certificates(str(ca), str(certificate), str(key), authority)
