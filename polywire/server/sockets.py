"""Sockets that listen: all addresses of a host name, the error where one is taken, its URL, and open files."""

from __future__ import annotations

import errno
import socket

from polywire.core.errors import Unavailable

__all__ = ["PortTaken", "allow_descriptors", "bind", "dialable_url"]

_OTHER_FILES = 1_024
"""Open files of the process besides connections: log, outgoing connections, the libraries' own."""
_UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - to be shown, not to listen on


class PortTaken(Unavailable):
    """The address cannot be listened on; ``wire``, ``host`` and ``port`` say which."""

    def __init__(self, wire: str, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"{wire} cannot listen on {host}:{port}: {reason}",
            hint=f"choose another with --{wire} PORT, or a free one with --free-ports, "
            f"or none with --no-{wire} or --only",
            extra={"wire": wire, "host": host, "port": port},
        )
        self.wire, self.host, self.port = wire, host, port


def bind(wire: str, host: str, port: int) -> list[socket.socket]:
    """Every address the host name stands for, all on one port; port 0: a free one. Nothing is accepted yet.

    Raises `PortTaken` where an address is taken, unknown or not allowed.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            bound = socket.socket(family, kind, proto)
            sockets.append(bound)
            _share_address(bound, family)
            bound.bind((address[0], sockets[0].getsockname()[1] if len(sockets) > 1 else port, *address[2:]))
    except OSError as error:
        for bound in sockets:
            bound.close()
        reason = "the port is taken" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        raise PortTaken(wire, host, port, reason) from error
    return sockets


def dialable_url(scheme: str, host: str, port: int) -> str:
    """Without a path. An unspecified address is shown as loopback."""
    host = _UNSPECIFIED.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def allow_descriptors(connections: int) -> None:
    """Raise the process's soft limit on open files, as far as the hard one, so that the connections fit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _share_address(bound: socket.socket, family: int) -> None:
    # A port in TIME_WAIT may be taken again at once. On Windows the option means something else: stealing it.
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
