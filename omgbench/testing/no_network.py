"""A guard under which nothing leaves the machine, and attempts are written down."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuse connections and name look-ups to anything but this machine; yields the list of attempted addresses.

    The refusal is an `OSError`, as if the cable were out, so that code which can do without goes on. Local sockets
    and loopback stay open. Connections of other processes, or of C libraries past Python's `socket`, are not seen.
    """
    attempts: list[str] = []
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(target: str) -> None:
        attempts.append(target)
        raise OSError(f"no network: {target} was asked for while offline")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if not _is_local(address):
            refuse(str(address))
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if not _is_local(address):
            refuse(str(address))
        return connect_ex(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_local((host,)):
            refuse(host.decode(errors="replace") if isinstance(host, bytes) else str(host))
        return look_up(host, *args, **kwargs)

    with (
        mock.patch.object(socket.socket, "connect", guarded_connect),
        mock.patch.object(socket.socket, "connect_ex", guarded_connect_ex),
        mock.patch.object(socket, "getaddrinfo", guarded_look_up),
    ):
        yield attempts


def _is_local(address: Any) -> bool:
    """An address of a Unix socket (no tuple), or one whose host is this machine."""
    if not isinstance(address, tuple):
        return True
    host = address[0].decode(errors="replace") if isinstance(address[0], bytes) else str(address[0])
    return host in ("", "localhost", "::1", "0.0.0.0", "::") or host.startswith("127.")
