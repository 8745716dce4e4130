"""Stands before the server: what comes from elsewhere, is too large, or is no JSON ends here.

A server on a person's own machine can be reached by every web page that the person opens. So
requests of other origins are refused, hosts must be names of this machine where only it is
served, and bodies must be declared as JSON, which a page cannot do without asking first. Does not
check the fields of a body; see `serving.checks`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from bitstack.machine.json_file import parse_json, reason_of
from bitstack.serving.asked import Asked, current
from bitstack.serving.checks import BODIES, Checks
from bitstack.serving.limits import MOST_BYTES
from bitstack.serving.refusals import Refused

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

READS = ("/health", "/budget", "/v1/models")  # GET; the POSTs are the keys of BODIES
ADMIN = ("/budget",)  # for this machine alone, whatever address is served
BODY_SECONDS = 30.0  # in which a body must have come
_LONG = 32 << 10  # bytes of a body that is checked beside the event loop, not in it
_DRAINED = 32 * MOST_BYTES  # of a body that is too large: its sender reads no answer before


class Gate:
    """An ASGI app before another one. It answers what it refuses."""

    def __init__(self, app: App, checks: Checks, *, host: str) -> None:
        """Makes a gate before `app`.

        Args:
            app: The server.
            checks: What the bodies must be like.
            host: The address that is served, a name or number of this machine.
        """
        self._app, self._checks = app, checks
        self._public = not is_loopback(host)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._pass(scope, receive, send)
            except Refused as refused:
                await _answer(send, refused)
        # A websocket gets no answer, which closes it.

    async def _pass(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        self._check_origin(scope, headers)
        _check_route(scope["method"], scope["path"])
        if scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        _check_type(headers)
        sent = await _read(receive)
        if len(sent) > _LONG:
            body, asked = await asyncio.to_thread(self._checked, scope["path"], sent)
        else:
            body, asked = self._checked(scope["path"], sent)
        current.set(asked)
        data = json.dumps(body).encode()
        with _watched(receive, data, asked) as watched:
            await self._app(_with_length(scope, len(data)), watched, send)

    def _checked(self, path: str, sent: bytes) -> tuple[dict[str, Any], Asked]:
        return self._checks(path, _json(sent))

    def _check_origin(self, scope: Message, headers: dict[str, str]) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        admin = scope["path"] in ADMIN
        if origin is not None and origin != f"{scope.get('scheme', 'http')}://{host}":
            raise Refused(403, f"origin {origin[:100]}: pages of other origins are not served")
        if (admin or not self._public) and not is_loopback(_name(host)):
            raise Refused(403, f"host {host[:100]}: only names of this machine are served here")
        client = scope.get("client")
        if admin and client is not None and not is_loopback(client[0]):
            raise Refused(403, f"{scope['path']}: is for clients on the server's own machine")


def is_loopback(host: str) -> bool:
    """Returns whether a name or address means this machine and is reached from it alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "localhost.")


def _name(host: str) -> str:
    """The name in a header Host, without the port and the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _check_route(method: str, path: str) -> None:
    allowed = [m for m, paths in (("GET", READS), ("POST", BODIES)) if path in paths]
    if not allowed:
        known = ", ".join(sorted({*READS, *BODIES}))
        raise Refused(404, f"{path[:100]}: is not served; there are {known}")
    if method not in allowed:
        raise Refused(405, f"{method} {path}: use {' or '.join(allowed)}")


def _check_type(headers: dict[str, str]) -> None:
    given = headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, f"content-type {given[:100]!r}: send application/json")


async def _read(receive: Receive) -> bytes:
    """Returns the body of a request."""
    data, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(499, "the client hung up")
                size += len(message.get("body", b""))
                if size <= MOST_BYTES:
                    data += message.get("body", b"")
                if not message.get("more_body") or size > _DRAINED:
                    break
    except TimeoutError:
        raise Refused(408, f"the body has not come within {BODY_SECONDS:.0f} s") from None
    if size > MOST_BYTES:
        raise Refused(413, f"the body is larger than {MOST_BYTES} bytes, the most that is read")
    return bytes(data)


def _json(data: bytes) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON that is read here ({reason_of(error)})") from None


def _with_length(scope: Message, length: int) -> Message:
    kept = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
    return scope | {"headers": [*kept, (b"content-length", str(length).encode())]}


@contextmanager
def _watched(receive: Receive, data: bytes, asked: Asked) -> Iterator[Receive]:
    """Gives what the app reads from: the body `data`, then whether the client hangs up.

    `asked.gone` is set then, whether the app reads or not.
    """
    messages = [{"type": "http.request", "body": data, "more_body": False}]
    gone = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        asked.gone.set()
        gone.set()

    async def read() -> Message:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    watcher = asyncio.create_task(watch())
    try:
        yield read
    finally:
        watcher.cancel()


async def _answer(send: Send, refused: Refused) -> None:
    data = json.dumps(refused.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
