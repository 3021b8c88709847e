"""`ggserve health`: asks the server that runs with the same settings for its state, for a container's health check."""

import ssl
import sys
import urllib.error
import urllib.request

from ggserve.server.sockets import url_host
from ggserve.settings import SettingsError, load_settings

_SECONDS = 10.0


def main(arguments: list[str]) -> int:
    """Print what is wrong and return 0 if the server answers requests, else 1."""
    try:
        settings = load_settings(command_line=arguments)
    except SettingsError as error:
        print(f"ggserve: {error}", file=sys.stderr)
        return 1
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host
    scheme = "https" if settings.ssl_certfile else "http"
    url = f"{scheme}://{url_host(host)}:{settings.port}/health"
    own = ssl.create_default_context()
    own.check_hostname, own.verify_mode = False, ssl.CERT_NONE  # the certificate is for the name that clients use
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=own))
    try:
        direct.open(url, timeout=_SECONDS).close()
    except (OSError, urllib.error.URLError) as error:
        print(f"ggserve: {url}: {error}", file=sys.stderr)
        return 1
    return 0
