"""The addresses that a server listens on."""

import socket

import pytest

from ggserve.server.sockets import listen, url_host
from tests.processes import PATIENCE


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_two_colons_are_every_address() -> None:
    (listening,) = listen("::", 0)
    with listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=PATIENCE).close()


@pytest.mark.parametrize(
    ("host", "shown"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("box", "box"), ("", "localhost")]
)
def test_a_host_in_a_url(host: str, shown: str) -> None:
    assert url_host(host) == shown
