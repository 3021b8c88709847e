"""The listening sockets of a server, and its certificate."""

import socket
from pathlib import Path


def listen(host: str, port: int) -> list[socket.socket]:
    """Open sockets on all addresses of `host`, or on every address of the machine if it is empty. Raises OSError."""
    addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if port == 0:
        addresses = addresses[:1]
    # `::` means every address to most people, including IPv4. Without a host there is a socket for each kind.
    both = host == "::" and socket.has_dualstack_ipv6()
    return [
        socket.create_server(address[:2], family=family, backlog=2048, dualstack_ipv6=both)
        for family, *_, address in addresses
    ]


def url_host(host: str) -> str:
    """Return a host in URL form: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host or "localhost"


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Raise OSError or ValueError if HTTPS is configured and its files cannot be used."""
    if certificate is not None:
        import ssl  # imported here because it takes a while, and few need it

        def no_password() -> str:
            raise ValueError("the key must not have a password")

        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_password)
    elif key is not None:
        raise ValueError("a key needs a certificate")
