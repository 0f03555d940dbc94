"""A small server on one's own machine for the page in ``page/``, where a run's learned space is played with."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import ipaddress
import json
import logging
import os
import re
import socket
import threading
import urllib.parse
import webbrowser
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from glo_lightning.browser.session import Explorer
from glo_lightning.errors import InputError, check_at_least

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PORTS = range(8000, 8100)
MOST_UPLOADED, MOST_ASKED = 20_000_000, 200_000  # bytes
TABS = 100
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Value = TypeVar("Value")


class SupersededError(Exception):
    """A tab has asked for a newer picture; nobody waits for this one."""


class Turns:
    """One decode at a time for each tab; of those that wait, the newest alone is made."""

    def __init__(self) -> None:
        self._tabs: OrderedDict[str, list[Any]] = OrderedDict()  # the lock and the newest ticket of each

    async def take(self, tab: str, make: Callable[[], Value]) -> Value:
        """What ``make`` returns, made in another thread when this tab's turn comes.

        Raises:
            SupersededError: when the same tab asked again before.
        """
        turn = self._tabs.setdefault(tab, [asyncio.Lock(), 0])
        self._tabs.move_to_end(tab)
        if len(self._tabs) > TABS:
            self._tabs.popitem(last=False)
        turn[1] += 1
        ticket = turn[1]
        async with turn[0]:
            if turn[1] != ticket:
                raise SupersededError
            return await in_thread(make)


async def in_thread(make: Callable[[], Value]) -> Value:
    """What ``make`` returns; a server that stops does not wait for it."""
    from anyio.to_thread import run_sync

    return await run_sync(make, abandon_on_cancel=True)


class Guard:
    """Lets through what the page itself asks: not what names another host, or comes from another site's page.

    Args:
        app: what is guarded.
        host: that the server listens on.
        port: likewise.
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

        asked = Headers(scope=scope)
        host, origin = asked.get("host", ""), asked.get("origin")
        app = self.app
        if not self.is_mine(host) or origin not in (None, f"http://{host}"):
            app = PlainTextResponse("this server answers its own page alone", 403)
        await app(scope, receive, send_with_headers)

    def is_mine(self, host: str) -> bool:
        """Whether a Host header names this server; a foreign name that was made to lead here does not."""
        try:
            asked = urllib.parse.urlsplit(f"//{host}")
            name, port = asked.hostname or "", asked.port or 80
        except ValueError:
            return False
        names = {"localhost", "127.0.0.1", "::1", self.host.lower()}
        everywhere = not is_loopback(self.host)
        return port == self.port and (name in names or (everywhere and as_address(name) is not None))


def as_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a name is, if it is one."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from this machine alone."""
    address = as_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def make_app(explorer: Explorer) -> Starlette:
    """The page and what it asks for, as an ASGI application; ``Guard`` goes around it."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    turns = Turns()

    async def page(request: Request) -> Response:
        name, kind = FILES[request.url.path]
        return Response((PAGE / name).read_bytes(), media_type=kind)

    async def thumbnails(request: Request) -> Response:
        if explorer.thumbnails is None:
            raise InputError("thumbnails", explorer.run, "its images cannot be had")
        return Response(explorer.thumbnails, media_type="image/jpeg")

    async def about(request: Request) -> Response:
        return JSONResponse(explorer.about())

    async def better_map(request: Request) -> Response:
        return JSONResponse({"map": explorer.maps.get("tsne")})

    async def picture(request: Request) -> Response:
        """A mix, or a code moved along directions: what a slider asks for again and again."""
        asked = await read_json(request)
        if "moves" in asked:
            name = None if asked.get("name") is None else texts(asked, "name")[0]
            moves = list(zip(texts(asked, "moves"), numbers(asked, "amounts"), strict=False))
            make = partial(explorer.moved, name, moves)
        else:
            (way,) = texts(asked, "way")
            make = partial(explorer.mixed, texts(asked, "names"), numbers(asked, "weights"), way)
        return JSONResponse(await turns.take(texts(asked, "tab")[0], make))

    async def image(request: Request) -> Response:
        row = request.path_params["row"]
        if row >= len(explorer.table):
            raise InputError("image", row, f"the run has {len(explorer.table)} images")
        return JSONResponse(await in_thread(partial(explorer.image, row)))

    async def decode(request: Request) -> Response:
        """The image of a name that the user has typed."""
        (name,) = texts(await read_json(request), "name")
        return JSONResponse(await in_thread(partial(explorer.decoded, name)))

    async def find(request: Request) -> Response:
        text = request.query_params.get("text", "").strip()[:200]
        return JSONResponse({"rows": await in_thread(partial(explorer.find, text))})

    async def samples(request: Request) -> Response:
        asked = await read_json(request)
        num, seed = whole(asked, "num", 1, 64), whole(asked, "seed", 0, 2**32 - 1)
        temperature, guidance = numbers(asked, "temperature")[0], numbers(asked, "guidance")[0]
        check_at_least("guidance", guidance, 0)
        make = partial(
            explorer.samples, texts(asked, "prior")[0], num, seed, temperature, texts(asked, "given"), guidance
        )
        return JSONResponse(await in_thread(make))

    async def upload(request: Request) -> Response:
        record, file = await read_body(request, MOST_UPLOADED), request.query_params.get("file", "")
        encode = "encode" in request.query_params
        return JSONResponse(await in_thread(partial(explorer.upload, record, file, encode)))

    async def fill(request: Request) -> Response:
        asked = await read_json(request)
        try:
            mask = base64.b64decode(texts(asked, "mask")[0], validate=True)
        except ValueError as error:
            raise InputError("mask", "painted", "is no base64") from error
        return JSONResponse(await in_thread(partial(explorer.filled, texts(asked, "name")[0], mask)))

    async def strip(request: Request) -> Response:
        asked, kind = request.query_params, request.path_params["kind"]
        names, way = asked.getlist("name")[:8], asked.get("way", "")
        text = asked.get("steps", "")
        steps = whole({"steps": int(text) if re.fullmatch("[0-9]{1,3}", text) else text}, "steps", 2, 65)
        explorer.check_way(way)
        if kind == "command":
            return JSONResponse({"command": await in_thread(partial(explorer.strip_command, names, way, steps))})
        if kind not in ("png", "webp"):
            raise InputError("strip", kind, "give png or webp")
        made = await in_thread(partial(explorer.strip, names, way, steps, kind))
        return Response(made, media_type=f"image/{kind}")

    async def save(request: Request) -> Response:
        asked = await read_json(request)
        make = partial(explorer.save, texts(asked, "name")[0], texts(asked, "code")[0])
        return JSONResponse(await in_thread(make))

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, InputError)
        return JSONResponse({"message": str(error)}, 400)

    async def superseded(request: Request, error: Exception) -> Response:
        return JSONResponse({"message": "a newer position came"}, 409)

    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"message": "the program failed; its terminal says where"}, 500)

    shown = [*(Route(path, page) for path in FILES), Route("/thumbnails", thumbnails), Route("/about", about)]
    shown += [Route("/map", better_map), Route("/image/{row:int}", image), Route("/find", find)]
    shown += [Route("/strip.{kind}", strip)]
    posted = {"picture": picture, "decode": decode, "samples": samples, "upload": upload, "fill": fill, "save": save}
    shown += [Route(f"/{name}", endpoint, methods=["POST"]) for name, endpoint in posted.items()]
    handlers = {InputError: wrong, SupersededError: superseded, Exception: failed}
    return Starlette(routes=shown, exception_handlers=handlers)


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request; of one that is too long the rest is read and dropped, so that the answer is heard.

    Raises:
        InputError: for more bytes than that.
    """
    content, length = bytearray(), 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= most:
            content += chunk
        elif length > 10 * most:
            break
    if length > most:
        raise InputError("upload", f"{length / 1e6:.1f} MB", f"is too much; {most / 1e6:g} MB are taken")
    return bytes(content)


async def read_json(request: Request) -> dict[str, Any]:
    """The object that a request posts.

    Raises:
        InputError: for anything else.
    """
    try:
        asked = json.loads(await read_body(request, MOST_ASKED))
    except (ValueError, RecursionError) as error:
        raise InputError("request", "body", "is no JSON") from error
    if not isinstance(asked, dict):
        raise InputError("request", "body", "is no JSON object")
    return asked


def texts(asked: dict[str, Any], key: str) -> list[str]:
    """A field that is a text or a list of some."""
    value = asked.get(key)
    value = value if isinstance(value, list) else [value]
    if len(value) > 256 or not all(isinstance(text, str) for text in value):
        raise InputError(key, repr(asked.get(key))[:60], "is no text")
    return value


def numbers(asked: dict[str, Any], key: str) -> list[float]:
    """A field that is a number or a list of some."""
    value = asked.get(key)
    value = value if isinstance(value, list) else [value]
    if len(value) > 256 or not all(isinstance(number, int | float) and abs(number) < 1e30 for number in value):
        raise InputError(key, repr(asked.get(key))[:60], "is no number")
    return [float(number) for number in value]


def whole(asked: dict[str, Any], key: str, least: int, most: int) -> int:
    """A field that is a whole number in that range."""
    value = asked.get(key)
    if not isinstance(value, int) or not least <= value <= most:
        raise InputError(key, repr(value)[:60], f"give a whole number from {least} to {most}")
    return value


def require_server() -> None:
    """Raises InputError where the packages of the page's server are missing."""
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise InputError("browse", package, "is not installed; pip install -e '.[browse]'")


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens on the port or, without one, on the first free one from 8000 on.

    Raises:
        InputError: for a port that cannot be had, or a host that is none of this machine's.
    """
    if port is not None and not 1 <= port <= 65_535:
        raise InputError("port", port, "give one from 1 to 65535")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise InputError("host", host, "is no address of this machine; give 127.0.0.1 or 0.0.0.0") from error
    for number in PORTS if port is None else [port]:
        try:
            listening = socket.create_server((host, number), family=family)
        except OSError as error:
            if port is not None:
                why = os.strerror(error.errno) if error.errno else error
                raise InputError("port", port, f"cannot be had ({why}); give another, or none") from error
        else:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each answer waits 40 ms
            return listening
    raise InputError("port", f"{PORTS[0]} to {PORTS[-1]}", f"none can be had on {host}; give one by --port")


def address_of(listening: socket.socket) -> str:
    """What to give a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(explorer: Explorer, listening: socket.socket, host: str, opens: bool) -> None:
    """Answers the page until Ctrl-C.

    Raises:
        KeyboardInterrupt: then; the port is free again.
    """
    import uvicorn

    app = Guard(make_app(explorer), host, listening.getsockname()[1])
    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    threading.Thread(target=explorer.draw_map, daemon=True).start()
    if opens:
        threading.Thread(target=webbrowser.open, args=(address_of(listening),), daemon=True).start()
    uvicorn.Server(config).run(sockets=[listening])
    raise KeyboardInterrupt  # where a shell has the signal ignored, uvicorn stops at it all the same
