"""The guard lets nothing out, notes who tried, and leaves no trace."""

from __future__ import annotations

import socket

import pytest

from omgbench.testing.no_network import no_network


def test_outside_addresses_are_refused_and_noted() -> None:
    with no_network() as attempts:
        with pytest.raises(OSError, match="no network"):
            socket.getaddrinfo("models.example", 443)
        with socket.socket() as line, pytest.raises(OSError, match="no network"):
            line.connect(("192.0.2.7", 80))
        with pytest.raises(OSError):
            socket.create_connection(("other.example", 80), timeout=0.1)
    assert attempts == ["models.example", "('192.0.2.7', 80)", "other.example"]


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, no_network() as attempts:
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as line:
            assert line.getpeername()[1] == server.getsockname()[1]
        assert socket.getaddrinfo(None, 80)
        left, right = socket.socketpair()
        left.close()
        right.close()
    assert attempts == []


def test_everything_is_put_back() -> None:
    before = (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo)
    with pytest.raises(ZeroDivisionError), no_network():
        1 / 0  # noqa: B018
    assert (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo) == before
