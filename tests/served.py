"""A container behind a real server on a real port, within this process."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from bitstack.live.opening import Opened, open_model
from bitstack.serving.app import Service
from bitstack.serving.listening import bind, make_server
from bitstack.serving.size import Size

NAME = "small"
JSON = {"Content-Type": "application/json"}


@dataclass
class Served:
    """What a test has of a server."""

    port: int
    service: Service
    opened: Opened
    client: OpenAI

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] = JSON
    ) -> tuple[int, Any]:
        """Returns status and JSON of an answer; `body` is sent as JSON, or as the bytes it is."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, data, headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body = self.call("GET", path)
        assert status == 200, body
        return body

    def post(self, path: str, **body: Any) -> Any:
        status, answer = self.call("POST", path, body)
        assert status == 200, answer
        return answer

    def refusal(self, path: str, body: Any, status: int = 400) -> str:
        """The message of a request that must be refused."""
        given, answer = self.call("POST", path, body)
        assert given == status, answer
        message: str = answer["error"]["message"]
        assert "\n" not in message
        return message


@contextmanager
def served(folder: Path, *, budget: str | None = None, **options: Any) -> Iterator[Served]:
    """Serves a container until the context ends."""
    opened = open_model(folder, budget=budget, device="cpu")
    size = Size(opened, budget, options.pop("keep_free", None))
    service = Service(opened, size, name=NAME, path=str(folder), **options)
    bound = bind("127.0.0.1", 0)
    bound.listen()
    port = bound.getsockname()[1]
    server = make_server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    url = f"http://127.0.0.1:{port}/v1"
    try:
        with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
            yield Served(port, service, opened, client)
    finally:
        service.running.stop()
        server.should_exit = True
        thread.join()
        service.close()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.01)
