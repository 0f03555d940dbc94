"""Where the server listens, and whose requests it answers."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import urllib.parse
from typing import Any

from glo_lightning.errors import InputError, check_range

PORTS = range(8000, 8100)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI application that answers for ``app``, on this host and port, and adds headers to all answers.

    Requests that name another host, or come from another site's page, are refused.
    """

    def __init__(self, app: Any, host: str, port: int):
        self.app, self.host, self.port = app, host, port

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        app = self.app
        own = origin in (None, f"http://{host}") and headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        if not own or not self.is_mine(host):
            app = PlainTextResponse("this server only answers its own page", 403)
        try:
            await app(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the server stops, and waits no longer for what is being computed
            await PlainTextResponse("the server has stopped", 503)(scope, receive, send)

    def is_mine(self, host: str) -> bool:
        """Whether a Host header names this server; another name that resolves to it does not."""
        try:
            parts = urllib.parse.urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if parts.netloc != host or "@" in host:
            return False
        names = {"localhost", "127.0.0.1", "::1", self.host.lower()}
        public = not is_loopback(self.host)
        return port == self.port and (name in names or (public and as_address(name) is not None))


def as_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address; None for another name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a server that listens there can only be reached from this machine."""
    address = as_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def listen(host: str, port: int | None) -> socket.socket:
    """Open a socket that listens on the port or, by default, on the first free one from 8000 on.

    Raises:
        InputError: for a port that is taken, or a host that is not this machine's.
    """
    if port is not None:
        check_range("port", port, 1, 65_535)
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise InputError("host", host, "is not an address of this machine. Give 127.0.0.1 or 0.0.0.0.") from error
    for number in PORTS if port is None else [port]:
        try:
            listening = socket.create_server((host, number), family=family)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            continue
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each answer waits 40 ms
        return listening
    raise InputError("port", port or f"{PORTS[0]} to {PORTS[-1]}", f"cannot be opened ({why}). Give another one.")


def address_of(listening: socket.socket) -> str:
    """The URL for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
