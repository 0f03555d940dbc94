"""A small server on your own machine for the page in ``page/``, where a run's learned space is explored."""

from __future__ import annotations

import base64
import importlib.util
import re
import socket
import threading
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glo_lightning.browser.address import Guard, address_of
from glo_lightning.browser.requests import (
    MAX_UPLOAD_BYTES,
    LatestOnly,
    SupersededError,
    bounded_int,
    float_list,
    in_thread,
    read_body,
    read_fields,
    str_list,
)
from glo_lightning.browser.session import Session
from glo_lightning.errors import InputError, check_at_least, check_choice

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


class Endpoints:
    """The page, and the answers to what it asks; a method each. All but the page's files are JSON or pictures."""

    def __init__(self, session: Session):
        from starlette.responses import JSONResponse, Response

        self.session, self.latest = session, LatestOnly()
        self.json, self.raw = JSONResponse, Response

    async def page(self, request: Request) -> Response:
        name, kind = FILES[request.url.path]
        return self.raw((PAGE / name).read_bytes(), media_type=kind)

    async def thumbnails(self, request: Request) -> Response:
        if self.session.map.thumbnails is None:
            raise InputError("thumbnails", self.session.path, "the run's images are missing. Give --data.root.")
        return self.raw(self.session.map.thumbnails, media_type="image/jpeg")

    async def about(self, request: Request) -> Response:
        return self.json(self.session.about())

    async def tsne(self, request: Request) -> Response:
        return self.json({"map": self.session.map.places.get("tsne")})

    async def picture(self, request: Request) -> Response:
        """A mix, or a code moved along directions: what sliders ask for again and again."""
        fields = await read_fields(request)
        if "moves" in fields:
            name = None if fields.get("name") is None else str_list(fields, "name")[0]
            moves = list(zip(str_list(fields, "moves"), float_list(fields, "amounts"), strict=False))
            make = partial(self.session.moved, name, moves)
        else:
            (path,) = str_list(fields, "path")
            make = partial(self.session.mixed, str_list(fields, "names"), float_list(fields, "weights"), path)
        return self.json(await self.latest.run(str_list(fields, "tab")[0], make))

    async def image(self, request: Request) -> Response:
        row, num_images = request.path_params["row"], len(self.session.run.codes)
        if row >= num_images:
            raise InputError("image", row, f"the run has {num_images} images. Give a smaller index.")
        return self.json(await in_thread(partial(self.session.image, row)))

    async def decode(self, request: Request) -> Response:
        """The image of a name that the user typed."""
        (name,) = str_list(await read_fields(request), "name")
        return self.json(await in_thread(partial(self.session.decoded, name)))

    async def find(self, request: Request) -> Response:
        text = request.query_params.get("text", "").strip()[:200]
        return self.json({"rows": await in_thread(partial(self.session.find, text))})

    async def samples(self, request: Request) -> Response:
        fields = await read_fields(request)
        num, seed = bounded_int(fields.get("num"), "num", 1, 64), bounded_int(fields.get("seed"), "seed", 0, 2**32 - 1)
        temperature, guidance = float_list(fields, "temperature")[0], float_list(fields, "guidance")[0]
        check_at_least("guidance", guidance, 0)
        options = (str_list(fields, "prior")[0], num, seed, temperature, str_list(fields, "conditions"), guidance)
        return self.json(await in_thread(partial(self.session.samples, *options)))

    async def upload(self, request: Request) -> Response:
        record, file = await read_body(request, MAX_UPLOAD_BYTES), request.query_params.get("file", "")
        encode = "encode" in request.query_params
        return self.json(await in_thread(partial(self.session.upload, record, file, encode)))

    async def fill(self, request: Request) -> Response:
        fields = await read_fields(request)
        try:
            mask = base64.b64decode(str_list(fields, "mask")[0], validate=True)
        except ValueError as error:
            raise InputError("mask", "painted", "is not base64. Send a PNG in base64.") from error
        return self.json(await in_thread(partial(self.session.filled, str_list(fields, "name")[0], mask)))

    async def strip(self, request: Request) -> Response:
        query, kind = request.query_params, request.path_params["kind"]
        names, path, text = query.getlist("name")[:8], query.get("path", ""), query.get("steps", "")
        steps = bounded_int(int(text) if re.fullmatch("[0-9]{1,3}", text) else text, "steps", 2, 65)
        self.session.check_path(path)
        if kind == "command":
            return self.json({"command": await in_thread(partial(self.session.strip_command, names, path, steps))})
        check_choice("strip", kind, ("png", "webp"))
        strip = await in_thread(partial(self.session.strip, names, path, steps, kind))
        return self.raw(strip, media_type=f"image/{kind}")

    async def save(self, request: Request) -> Response:
        fields = await read_fields(request)
        make = partial(self.session.save, str_list(fields, "name")[0], str_list(fields, "code")[0])
        return self.json(await in_thread(make))

    async def wrong_input(self, request: Request, error: Exception) -> Response:
        return self.json({"message": str(error)}, 400)

    async def superseded(self, request: Request, error: Exception) -> Response:
        return self.json({"message": "a newer position came"}, 409)

    async def failed(self, request: Request, error: Exception) -> Response:
        return self.json({"message": "the program failed; its terminal says where"}, 500)


def make_app(session: Session) -> Starlette:
    """Make an ASGI application of the page and its answers; wrap it in ``Guard``."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    e = Endpoints(session)
    routes = [Route(path, e.page) for path in FILES]
    queries = {"thumbnails": e.thumbnails, "about": e.about, "map": e.tsne, "image/{row:int}": e.image}
    queries |= {"find": e.find, "strip.{kind}": e.strip}
    routes += [Route(f"/{path}", endpoint) for path, endpoint in queries.items()]
    posts = (e.picture, e.decode, e.samples, e.upload, e.fill, e.save)
    routes += [Route(f"/{endpoint.__name__}", endpoint, methods=["POST"]) for endpoint in posts]
    handlers = {InputError: e.wrong_input, SupersededError: e.superseded, Exception: e.failed}
    return Starlette(routes=routes, exception_handlers=handlers)


def require_server() -> None:
    """Raise InputError where the packages of the server are missing."""
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise InputError("browse", package, "is not installed. Run pip install -e '.[browse]'.")


def serve(session: Session, listening: socket.socket, host: str, opens: bool) -> None:
    """Answer the page until Ctrl-C.

    Raises:
        KeyboardInterrupt: at Ctrl-C; the port is free again.
    """
    import uvicorn

    app = Guard(make_app(session), host, listening.getsockname()[1])
    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    threading.Thread(target=session.map.add_tsne, daemon=True).start()
    if opens:
        threading.Thread(target=webbrowser.open, args=(address_of(listening),), daemon=True).start()
    uvicorn.Server(config).run(sockets=[listening])
    raise KeyboardInterrupt  # uvicorn also stops where a shell ignores the signal
