"""Requests: their bodies, the fields in these, and the queues in which they wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from glo_lightning.browser.work import Work
from glo_lightning.errors import InputError
from glo_lightning.progress import watcher

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_UPLOAD_BYTES, MAX_BODY_BYTES = 20_000_000, 200_000
MAX_ITEMS = 256  # of a list in a request
MAX_TABS = 100
MAX_SECONDS = 30  # that a request may take to arrive
Value = TypeVar("Value")
Fields = dict[str, Any]


class SupersededError(Exception):
    """Nobody waits for this answer any more: the tab has asked for a newer picture, or has closed."""


class BusyError(Exception):
    """Too many requests are waiting."""


class WorkQueue:
    """Runs functions in ``workers`` threads. Other requests wait for their turn; beyond ``max_waiting`` are refused.

    ``work`` is what began last.
    """

    def __init__(self, workers: int, max_waiting: int):
        self._turns, self._left = asyncio.Semaphore(workers), workers + max_waiting
        self.work = Work()

    async def run(self, request: Request, make: Callable[[], Value]) -> Value:
        """Call ``make`` in a thread when it is the request's turn; a server that stops does not wait for it.

        Long work ends, by StoppedError, when nobody waits for the answer any more.
        """
        from anyio.to_thread import run_sync

        if not self._left:
            raise BusyError
        self._left -= 1
        try:
            async with self._turns:
                if await request.is_disconnected():
                    raise SupersededError
                self.work = work = Work()
                watcher.set(work)  # of this request, and of its thread
                answer = asyncio.ensure_future(run_sync(make, abandon_on_cancel=True))
                try:
                    while not (await asyncio.wait([answer], timeout=0.5))[0]:
                        work.stopped = await request.is_disconnected()
                    return answer.result()
                finally:
                    answer.cancel()
                    work.about = None
        finally:
            self._left += 1


class LatestOnly:
    """Computes one picture at a time for each tab; of those that wait only the newest."""

    def __init__(self) -> None:
        self._tabs: OrderedDict[str, list[Any]] = OrderedDict()  # of each its lock and its newest ticket

    async def run(self, tab: str, make: Callable[[], Awaitable[Value]]) -> Value:
        """Await ``make()`` when it is this tab's turn; SupersededError when the tab has asked again before."""
        turn = self._tabs.setdefault(tab, [asyncio.Lock(), 0])
        self._tabs.move_to_end(tab)
        if len(self._tabs) > MAX_TABS:
            self._tabs.popitem(last=False)
        turn[1] += 1
        ticket = turn[1]
        async with turn[0]:
            if turn[1] != ticket:
                raise SupersededError
            return await make()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body of a request; the rest of one that is too long is read too, so that the answer arrives."""
    from anyio import fail_after
    from starlette.requests import ClientDisconnect

    content, length = bytearray(), 0
    try:
        with fail_after(MAX_SECONDS):
            async for chunk in request.stream():
                length += len(chunk)
                if length <= max_bytes:
                    content += chunk
                elif length > 10 * max_bytes:
                    break
    except TimeoutError as error:
        raise InputError("upload", f"{length} bytes", f"took more than {MAX_SECONDS} s. Send it again.") from error
    except ClientDisconnect as error:
        raise SupersededError from error
    if length > max_bytes:
        raise InputError("upload", f"{length / 1e6:.1f} MB", f"is too much. Send at most {max_bytes / 1e6:g} MB.")
    return bytes(content)


async def read_fields(request: Request) -> Fields:
    """Read the JSON object that a request posts."""
    body = await read_body(request, MAX_BODY_BYTES)
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(body)
        if isinstance(fields, dict):
            return fields
    raise InputError("request", "body", "is not a JSON object. Send one.")


def field(fields: Fields, key: str, kind: type[Value]) -> Value:
    """A field that is a string (``str``) or a number of moderate size (``float``)."""
    return _check(fields.get(key), key, kind)


def list_field(fields: Fields, key: str, kind: type[Value]) -> list[Value]:
    """A field that is a list of strings or of numbers."""
    values = fields.get(key)
    if not isinstance(values, list) or len(values) > MAX_ITEMS:
        raise InputError(key, repr(values)[:60], f"is not a list of at most {MAX_ITEMS}. Give one.")
    return [_check(value, key, kind) for value in values]


def _check(value: Any, key: str, kind: type[Value]) -> Value:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
    if not (isinstance(value, str) if kind is str else number):
        raise InputError(key, repr(value)[:60], f"is not {'a string' if kind is str else 'a number'}. Give one.")
    return kind(value)  # type: ignore[call-arg]


def bounded_int(value: Any, key: str, least: int, most: int) -> int:
    """A whole number in a range; also as digits, from an address."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,12}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(key, repr(value)[:60], f"is out of range. Give a whole number from {least} to {most}.")
    return value
