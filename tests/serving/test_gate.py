"""What comes from elsewhere, is too large or is no JSON ends at the gate."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bitstack.serving import gate as gate_module
from bitstack.serving.asked import Asked, current
from bitstack.serving.gate import Gate, is_loopback
from bitstack.serving.limits import MOST_BYTES

HEADERS = {"host": "127.0.0.1:8000", "content-type": "application/json"}
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Behind:
    """An app that notes what it gets."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.asked: list[Asked] = []
        self.hangs = False

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Any) -> None:
        if scope["method"] == "POST":
            message = await receive()
            self.bodies.append(json.loads(message["body"]))
            self.asked.append(current.get())
            length = dict(scope["headers"])[b"content-length"]
            assert int(length) == len(message["body"])
            if self.hangs:
                await asyncio.to_thread(current.get().gone.wait, 10)
                assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def checks(path: str, value: Any) -> tuple[Any, Asked]:
    return value, Asked(prompt=path)


def call(
    method: str = "POST", path: str = "/v1/completions", *, body: bytes = b"{}",
    host: str = "127.0.0.1", client: str = "127.0.0.1", behind: Behind | None = None,
    pieces: int = 1, disconnect: bool = False, **headers: str | None,
) -> tuple[int, str]:  # fmt: skip
    """Status and message of what the gate answers."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    sent = [(k.encode(), v.encode()) for k, v in (HEADERS | named).items() if v is not None]
    scope = {
        "type": "http", "method": method, "path": path, "headers": sent, "scheme": "http",
        "client": (client, 5000),
    }  # fmt: skip
    step = max(1, -(-len(body) // pieces))
    parts = [body[i : i + step] for i in range(0, len(body), step)] or [b""]
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        if not disconnect:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    gate = Gate(behind or Behind(), checks, host=host)  # type: ignore[arg-type]
    asyncio.run(gate(scope, receive, send))
    told = json.loads(answers[1]["body"])
    return answers[0]["status"], told.get("error", {}).get("message", "")


def test_a_body_arrives() -> None:
    behind = Behind()
    assert call(body=b'{"a": 1}', behind=behind, pieces=3) == (200, "")
    assert behind.bodies == [{"a": 1}]
    assert behind.asked[0].prompt == "/v1/completions"
    assert call("GET", "/health", behind=behind) == (200, "")


@pytest.mark.parametrize(
    ("path", "method", "status", "words"),
    [
        ("/docs", "GET", 404, "/docs: is not served; there are /budget, /health"),
        ("/v1/audio/transcriptions", "POST", 404, "is not served"),
        ("/reset", "POST", 404, "is not served"),
        ("/health", "POST", 405, "use GET"),
        ("/v1/completions", "GET", 405, "use POST"),
        ("/budget", "DELETE", 405, "use GET or POST"),
        ("/v1/models", "OPTIONS", 405, "use GET"),
    ],
)
def test_other_routes(path: str, method: str, status: int, words: str) -> None:
    given, message = call(method, path)
    assert given == status
    assert words in message


@pytest.mark.parametrize("path", ["/budget", "/v1/completions"])
def test_other_origins(path: str) -> None:
    for origin in (
        "http://evil.example",
        "null",
        "https://127.0.0.1:8000",
        "http://localhost:8000",
    ):
        status, message = call(path=path, origin=origin)
        assert status == 403
        assert "pages of other origins" in message
    assert call(path=path, origin="http://127.0.0.1:8000") == (200, "")


def test_names_that_another_site_gave_this_machine() -> None:
    """A page of evil.example, whose name means 127.0.0.1 by now: of the same origin."""
    for path in ("/budget", "/v1/completions"):
        headers = {"host": "evil.example:8000", "origin": "http://evil.example:8000"}
        status, message = call_with(path, headers)
        assert status == 403
        assert "only names of this machine" in message
    for name in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert call_with("/budget", {"host": name}) == (200, "")
    for name in ("", "[::1", "127.0.0.1.evil.example", "evil@x"):
        assert call_with("/v1/completions", {"host": name})[0] == 403


def call_with(path: str, headers: dict[str, str], **options: Any) -> tuple[int, str]:
    before = dict(HEADERS)
    HEADERS.update(headers)
    try:
        return call(path=path, **options)
    finally:
        HEADERS.clear()
        HEADERS.update(before)


def test_served_to_others() -> None:
    """Then any name of the machine goes, but the budget is for this machine still."""
    there = {"host": "0.0.0.0", "client": "192.0.2.7"}
    assert call_with("/v1/completions", {"host": "box:8000"}, **there) == (200, "")
    assert call_with("/budget", {"host": "box:8000"}, **there)[0] == 403
    status, message = call_with("/budget", {"host": "127.0.0.1"}, **there)
    assert status == 403
    assert "for clients on the server's own machine" in message
    assert call_with("/budget", {"host": "127.0.0.1"}, host="0.0.0.0") == (200, "")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_what_is_not_declared_as_json(kind: str | None) -> None:
    status, message = call(content_type=kind)
    assert status == 415
    assert "send application/json" in message


def test_json_with_a_charset() -> None:
    assert call(content_type="Application/JSON; charset=utf-8") == (200, "")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"[" * 1000, b"{}{}"]
)
def test_no_json(body: bytes) -> None:
    status, message = call(body=body)
    assert status == 400
    assert "no JSON that is read here" in message


def test_a_large_body() -> None:
    text = json.dumps({"a": "x" * (MOST_BYTES - 9)}).encode()
    assert len(text) == MOST_BYTES
    assert call(body=text, pieces=7) == (200, "")
    for pieces in (1, 7):
        status, message = call(body=text + b" ", pieces=pieces)
        assert status == 413
        assert f"larger than {MOST_BYTES} bytes" in message


def test_a_long_body_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noting(path: str, value: Any) -> tuple[Any, Asked]:
        threads.append(threading.current_thread() is threading.main_thread())
        return value, Asked()

    monkeypatch.setitem(globals(), "checks", noting)
    for size in (10, 100_000):
        assert call(body=json.dumps({"a": "x" * size}).encode()) == (200, "")
    assert threads == [True, False]


def test_an_endless_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "_DRAINED", 3 * MOST_BYTES)
    assert call(body=b"x" * 10 * MOST_BYTES, pieces=10)[0] == 413


def test_a_slow_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "BODY_SECONDS", 0.05)

    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    with pytest.raises(gate_module.Refused, match="has not come within"):
        asyncio.run(gate_module._read(never))


def test_a_client_that_hangs_up() -> None:
    """Seen whether the app reads or not, while it answers."""
    behind = Behind()
    behind.hangs = True
    assert call(behind=behind, disconnect=True) == (200, "")
    assert behind.asked[0].gone.is_set()


def test_loopback() -> None:
    for name in ("127.0.0.1", "127.8.9.1", "::1", "localhost", "LocalHost"):
        assert is_loopback(name)
    for name in ("0.0.0.0", "::", "192.168.1.2", "example.com", ""):
        assert not is_loopback(name)
