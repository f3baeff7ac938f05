"""``polywire dev-certs``: a certificate authority of one's own, and a certificate of it for this machine."""

from __future__ import annotations

import datetime as dt
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from polywire.cli.failures import USAGE, Failure
from polywire.cli.output import note

if TYPE_CHECKING:
    import trustme

__all__ = ["CA_FILE", "dev_certs"]

CA_FILE = "ca.pem"
"""What clients trust. It stands beside the certificate; the greeting of ``polywire run`` looks for it there."""
NAMES = ("localhost", "127.0.0.1", "::1")
_NAME = "polywire dev-certs"
_DAYS = 730
"""Apple's systems trust no certificate of a server for longer than 825."""


class _Files(NamedTuple):
    ca: Path
    ca_key: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, folder: Path) -> _Files:
        return cls(folder / CA_FILE, folder / "ca-key.pem", folder / "server.pem", folder / "server-key.pem")


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("polywire-certs"),
    metavar="DIR",
    help="Default: polywire-certs.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or address the hub has besides localhost; repeatable.",
)
@click.option("--force", is_flag=True, help="Replace the server's certificate; the authority stays.")
def dev_certs(out: Path, hosts: tuple[str, ...], force: bool) -> None:
    """Make a certificate authority and a certificate for a hub on this machine: for development only.

    Says how a hub is started with it and how clients trust it. Nothing that exists is replaced without --force.
    """
    files = _Files.of(out)
    if not force and (existing := [path for path in (files.certificate, files.key) if path.exists()]):
        raise Failure(f"{existing[0]} exists", hint="--force makes a new one", exit_code=USAGE)
    try:
        _make(files, hosts)
    except OSError as error:
        raise Failure(f"{error.filename or out}: {error.strerror}", exit_code=USAGE) from error
    _explain(files)
    certificate, key = shlex.quote(str(files.certificate)), shlex.quote(str(files.key))
    click.echo(f"polywire run --tls-cert {certificate} --tls-key {key}")


def _make(files: _Files, hosts: tuple[str, ...]) -> None:
    files.ca.parent.mkdir(parents=True, exist_ok=True)
    authority = _authority(files)
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=_DAYS)
    try:
        server = authority.issue_cert(*dict.fromkeys((*NAMES, *hosts)), organization_name=_NAME, not_after=until)
    except ValueError as error:
        raise Failure(f"no certificate can have this name: {error}", exit_code=USAGE) from None
    _write(files.key, server.private_key_pem.bytes(), 0o600)
    _write(files.certificate, b"".join(blob.bytes() for blob in server.cert_chain_pems), 0o644)


def _authority(files: _Files) -> trustme.CA:
    """The one that is there already, so that who trusts it need not be told again; else a new one."""
    try:
        import trustme
    except ImportError:
        raise Failure(
            "dev-certs needs the package trustme", hint="pip install 'polywire[dev-tls]'", exit_code=USAGE
        ) from None
    there = [path for path in (files.ca, files.ca_key) if path.exists()]
    if len(there) == 1:
        raise Failure(f"{there[0]} exists alone", hint="choose another folder with --out", exit_code=USAGE)
    if there:
        try:
            return trustme.CA.from_pem(files.ca.read_bytes(), files.ca_key.read_bytes())
        except (ValueError, TypeError):
            raise Failure(
                f"{files.ca} and {files.ca_key} are no authority", hint="remove both", exit_code=USAGE
            ) from None
    authority = trustme.CA(organization_name=_NAME)
    _write(files.ca_key, authority.private_key_pem.bytes(), 0o600)
    _write(files.ca, authority.cert_pem.bytes(), 0o644)
    return authority


def _write(path: Path, content: bytes, mode: int) -> None:
    """Anew: the mode of a file that was there does not count."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def _explain(files: _Files) -> None:
    ca = shlex.quote(str(files.ca))
    note(
        f"""made {files.certificate} and {files.key}, of the authority {files.ca}

clients trust them like this:
  curl --cacert {ca} https://localhost:8000/health
  polywire topics --url https://localhost:8000 --cacert {ca}
  mosquitto_sub --cafile {ca} -h localhost -p 8883 -t 'chat/#'
  Python, paho: client.tls_set({str(files.ca)!r})

start a hub with them:"""
    )
