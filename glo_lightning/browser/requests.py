"""Reading of requests: their bodies, the fields in these, and which of them are still wanted."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from glo_lightning.errors import InputError

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_UPLOAD_BYTES, MAX_BODY_BYTES = 20_000_000, 200_000
MAX_ITEMS = 256  # of a list in a request
MAX_TABS = 100
Value = TypeVar("Value")
Fields = dict[str, Any]


class SupersededError(Exception):
    """The same tab has asked for a newer picture."""


class LatestOnly:
    """Computes one picture at a time for each tab; of those that wait only the newest."""

    def __init__(self) -> None:
        self._tabs: OrderedDict[str, list[Any]] = OrderedDict()  # of each its lock and its newest ticket

    async def run(self, tab: str, make: Callable[[], Value]) -> Value:
        """Call ``make`` in another thread when it is this tab's turn.

        Raises:
            SupersededError: when the same tab has asked again before.
        """
        turn = self._tabs.setdefault(tab, [asyncio.Lock(), 0])
        self._tabs.move_to_end(tab)
        if len(self._tabs) > MAX_TABS:
            self._tabs.popitem(last=False)
        turn[1] += 1
        ticket = turn[1]
        async with turn[0]:
            if turn[1] != ticket:
                raise SupersededError
            return await in_thread(make)


async def in_thread(make: Callable[[], Value]) -> Value:
    """Call ``make`` in another thread; a server that stops does not wait for it."""
    from anyio.to_thread import run_sync

    return await run_sync(make, abandon_on_cancel=True)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body of a request; the rest of one that is too long is read too, so that the answer arrives.

    Raises:
        InputError: for more bytes.
    """
    content, length = bytearray(), 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= max_bytes:
            content += chunk
        elif length > 10 * max_bytes:
            break
    if length > max_bytes:
        raise InputError("upload", f"{length / 1e6:.1f} MB", f"is too much. Send at most {max_bytes / 1e6:g} MB.")
    return bytes(content)


async def read_fields(request: Request) -> Fields:
    """Read the JSON object that a request posts.

    Raises:
        InputError: for anything else.
    """
    try:
        fields = json.loads(await read_body(request, MAX_BODY_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError("request", "body", "is not JSON. Send an object.") from error
    if not isinstance(fields, dict):
        raise InputError("request", "body", "is not a JSON object. Send one.")
    return fields


def str_list(fields: Fields, key: str) -> list[str]:
    """A field that is a string or a list of strings."""
    return _list(fields, key, str)


def float_list(fields: Fields, key: str) -> list[float]:
    """A field that is a number or a list of numbers."""
    return [float(number) for number in _list(fields, key, (int, float))]


def _list(fields: Fields, key: str, kind: Any) -> list[Any]:
    value = fields.get(key)
    values = value if isinstance(value, list) else [value]
    number = kind is not str
    if len(values) > MAX_ITEMS or not all(isinstance(v, kind) and (not number or abs(v) < 1e30) for v in values):
        what = "a number" if number else "a string"
        raise InputError(key, repr(value)[:60], f"is not {what}. Give {what}, or a list.")
    return values


def bounded_int(value: Any, key: str, least: int, most: int) -> int:
    """A whole number in a range."""
    if not isinstance(value, int) or not least <= value <= most:
        raise InputError(key, repr(value)[:60], f"is out of range. Give a whole number from {least} to {most}.")
    return value
