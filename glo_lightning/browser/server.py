"""A small server on your own machine for the page in ``page/``, where a run's learned space is explored."""

from __future__ import annotations

import base64
import importlib.util
import json
import socket
import threading
import webbrowser
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glo_lightning.browser.address import Guard, address_of
from glo_lightning.browser.requests import (
    MAX_SECONDS,
    MAX_UPLOAD_BYTES,
    BusyError,
    LatestOnly,
    SupersededError,
    WorkQueue,
    bounded_int,
    field,
    list_field,
    read_body,
    read_fields,
)
from glo_lightning.browser.session import Session
from glo_lightning.errors import InputError, check_choice
from glo_lightning.priors.prior import check_draw
from glo_lightning.progress import StoppedError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_STEPS = 65  # of a strip
PAGE = Path(__file__).parent / "page"
FAILURES: dict[type[Exception], tuple[int, str]] = {  # status and message, by error
    InputError: (400, ""),  # its own message
    SupersededError: (409, "a newer position came"),
    StoppedError: (409, "stopped"),
    BusyError: (503, "the server is busy with other requests. Try again later."),
    Exception: (500, "the program failed; its terminal says where"),
}


class Endpoints:
    """The answers to what the page asks, a method each: JSON or pictures.

    A GET changes nothing. What takes seconds or minutes is done one after another, in ``slow``.
    """

    def __init__(self, session: Session):
        from starlette.responses import Response

        self.session, self.latest = session, LatestOnly()
        self.quick, self.slow = WorkQueue(2, max_waiting=60), WorkQueue(1, max_waiting=8)
        self.raw = Response

    def json(self, content: Any, status: int = 200) -> Response:
        """ASCII alone: names of files need not be valid Unicode."""
        return self.raw(json.dumps(content, allow_nan=False), status, media_type="application/json")

    def queue(self, names: Sequence[str], path: str = "line") -> WorkQueue:
        """The queue for a picture of these images."""
        return self.quick if self.session.is_quick(names, path) else self.slow

    async def thumbnails(self, request: Request) -> Response:
        number = bounded_int(request.path_params["number"], "thumbnails", 0, self.session.map.num_sheets - 1)
        return self.raw(await self.quick.run(request, partial(self.session.map.sheet, number)), media_type="image/jpeg")

    async def labels(self, request: Request) -> Response:
        """The number of the value that each image on the map has of an attribute; -1 where it is not known."""
        return self.json({"numbers": self.session.map.labels(request.query_params.get("name", ""))})

    async def psnr(self, request: Request) -> Response:
        return self.json({"psnr": await self.slow.run(request, self.session.map.psnr)})

    async def about(self, request: Request) -> Response:
        return self.json(self.session.about())

    async def places(self, request: Request) -> Response:
        """The t-SNE map, and while there is none its progress."""
        work = self.session.map.work
        about = None if work is None else work.about or {}
        return self.json({"map": self.session.map.places.get("tsne"), "work": about})

    async def tsne(self, request: Request) -> Response:
        """Start the t-SNE map, or stop it."""
        if (await read_fields(request)).get("wanted") is True:
            self.session.map.start_tsne()
        elif work := self.session.map.work:
            work.stopped = True
        return self.json({})

    async def progress(self, request: Request) -> Response:
        """How far the slow work is that all wait for; see ``Work``."""
        return self.json({"work": self.slow.work.about})

    async def picture(self, request: Request) -> Response:
        """A mix, or a code moved along directions: what sliders ask for again and again."""
        fields = await read_fields(request)
        if "moves" in fields:
            name = None if fields.get("name") is None else field(fields, "name", str)
            moves, amounts = list_field(fields, "moves", str), list_field(fields, "amounts", float)
            make = partial(self.session.moved, name, moves, amounts)
            queue = self.queue([] if name is None else [name])
        else:
            names, path = list_field(fields, "names", str), field(fields, "path", str)
            make = partial(self.session.mixed, names, list_field(fields, "weights", float), path)
            queue = self.queue(names, path)
        return self.json(await self.latest.run(field(fields, "tab", str), lambda: queue.run(request, make)))

    async def image(self, request: Request) -> Response:
        row = bounded_int(request.path_params["row"], "image", 0, len(self.session.run.codes) - 1)
        return self.json(await self.quick.run(request, partial(self.session.image, row)))

    async def decode(self, request: Request) -> Response:
        """The image of a name that the user typed."""
        name = field(await read_fields(request), "name", str)
        return self.json(await self.queue([name]).run(request, partial(self.session.decoded, name)))

    async def target(self, request: Request) -> Response:
        name = field(await read_fields(request), "name", str)
        return self.json(await self.quick.run(request, partial(self.session.filler.target, name)))

    async def find(self, request: Request) -> Response:
        text = request.query_params.get("text", "").strip()[:200]
        return self.json({"rows": await self.quick.run(request, partial(self.session.images.find, text))})

    async def samples(self, request: Request) -> Response:
        fields = await read_fields(request)
        num, seed = bounded_int(fields.get("num"), "num", 1, 64), bounded_int(fields.get("seed"), "seed", 0, 2**32 - 1)
        temperature, guidance = field(fields, "temperature", float), field(fields, "guidance", float)
        check_draw(num, seed, temperature, guidance)
        options = (field(fields, "prior", str), num, seed, temperature, list_field(fields, "conditions", str), guidance)
        make = partial(self.session.samples, *options, neighbours=fields.get("neighbours") is not False)
        return self.json(await self.slow.run(request, make))

    async def upload(self, request: Request) -> Response:
        record, file = await read_body(request, MAX_UPLOAD_BYTES), request.query_params.get("file", "")
        encode = "encode" in request.query_params
        queue = self.slow if encode else self.quick
        return self.json(await queue.run(request, partial(self.session.upload, record, file, encode)))

    async def fill(self, request: Request) -> Response:
        fields = await read_fields(request)
        try:
            mask = base64.b64decode(field(fields, "mask", str), validate=True)
        except ValueError as error:
            raise InputError("mask", "painted", "is not base64. Send a PNG in base64.") from error
        make = partial(self.session.filler.fill, field(fields, "name", str), mask)
        return self.json(await self.slow.run(request, make))

    async def strip(self, request: Request) -> Response:
        """The images of a strip from each image to the next; a flow may have to be fitted for it."""
        fields = await read_fields(request)
        steps = bounded_int(fields.get("steps"), "steps", 2, MAX_STEPS)
        make = partial(self.session.strip, list_field(fields, "names", str), field(fields, "path", str), steps)
        return self.json(await self.slow.run(request, make))

    async def strip_file(self, request: Request) -> Response:
        """The file of a strip that was shown."""
        query, kind = request.query_params, request.path_params["kind"]
        check_choice("strip", kind, ("png", "webp"))
        steps = bounded_int(query.get("steps", ""), "steps", 2, MAX_STEPS)
        make = partial(self.session.strip_file, query.getlist("name"), query.get("path", ""), steps, kind)
        return self.raw(await self.slow.run(request, make), media_type=f"image/{kind}")

    async def save(self, request: Request) -> Response:
        fields = await read_fields(request)
        make = partial(self.session.save, field(fields, "name", str), field(fields, "code", str))
        return self.json(await self.quick.run(request, make))

    async def saved(self, request: Request) -> Response:
        return self.json({"saved": await self.quick.run(request, self.session.saved_codes)})

    async def failed(self, request: Request, error: Exception) -> Response:
        status, message = next(answer for kind, answer in FAILURES.items() if isinstance(error, kind))
        return self.json({"message": message or str(error)}, status)


def make_app(session: Session) -> Starlette:
    """Make an ASGI application of the page and its answers; wrap it in ``Guard``."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    e = Endpoints(session)
    queries = {"thumbnails/{number}": e.thumbnails, "labels": e.labels, "psnr": e.psnr, "about": e.about}
    queries |= {"map": e.places, "progress": e.progress, "image/{row}": e.image, "find": e.find}
    queries |= {"saved": e.saved, "strip.{kind}": e.strip_file}
    posts = (e.tsne, e.picture, e.decode, e.target, e.samples, e.upload, e.fill, e.strip, e.save)
    routes = [
        *(Route(f"/{path}", endpoint) for path, endpoint in queries.items()),
        *(Route(f"/{endpoint.__name__}", endpoint, methods=["POST"]) for endpoint in posts),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    compressed = Middleware(GZipMiddleware, compresslevel=1)  # for a slow line: 0.1 ms for a picture
    return Starlette(routes=routes, middleware=[compressed], exception_handlers=dict.fromkeys(FAILURES, e.failed))


def require_packages(extra: str, *packages: str) -> None:
    """Raise InputError where a package of an extra of this project is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(extra, package, f"is not installed. Run pip install -e '.[{extra}]'.")


def serve(session: Session, listening: socket.socket, host: str, opens: bool) -> None:
    """Answer the page until Ctrl-C, and then raise KeyboardInterrupt; the port is free again."""
    import uvicorn

    app = Guard(make_app(session), host, listening.getsockname()[1])
    options: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "ws": "none", "timeout_graceful_shutdown": 1}
    config = uvicorn.Config(app, http=protocol(), **options)
    session.map.start_tsne()
    if opens:
        threading.Thread(target=webbrowser.open, args=(address_of(listening),), daemon=True).start()
    uvicorn.Server(config).run(sockets=[listening])
    raise KeyboardInterrupt  # uvicorn also stops where a shell ignores the signal


def protocol() -> Any:
    """uvicorn's HTTP protocol, which also closes a connection whose first request does not arrive in time."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(MAX_SECONDS, self.close_if_silent)

        def close_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    return Protocol
