"""What a server listens with: sockets and a certificate."""

import socket
from pathlib import Path


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses of `host`; on every address of the machine where it is empty. Raises OSError."""
    addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if port == 0:
        addresses = addresses[:1]
    # `::` means every address to most people, IPv4 ones included; without a host there is a socket for each kind.
    both = host == "::" and socket.has_dualstack_ipv6()
    return [
        socket.create_server(address[:2], family=family, backlog=2048, dualstack_ipv6=both)
        for family, *_, address in addresses
    ]


def url_host(host: str) -> str:
    """A host as URLs have it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host or "localhost"


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Raise OSError or ValueError where HTTPS is wanted and its files are no use."""
    if certificate is not None:
        import ssl  # takes a while, and few need it

        def no_password() -> str:
            raise ValueError("the key must not need a password")

        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_password)
    elif key is not None:
        raise ValueError("a key needs its certificate")
