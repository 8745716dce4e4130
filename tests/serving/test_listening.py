"""Ports and addresses that can be served on, and those that cannot."""

import signal
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from bitstack.errors import UserError
from bitstack.serving.listening import address, bind, listen, serve


def test_any_free_port() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert address(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: is in use on 127.0.0.1; .* --port"):
            bind("127.0.0.1", port)


def test_a_port_that_another_server_took_while_the_model_was_loaded() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        second = bind("127.0.0.1", port)  # nobody listens yet
        first.listen()
        with pytest.raises(UserError, match=f"port {port}: is in use"):
            listen(second)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a b", "x" * 300])
def test_hosts_that_are_not_here(host: str) -> None:
    with pytest.raises(UserError, match="host"):
        bind(host, 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6() -> None:
    try:
        bound = bind("::1", 0)
    except UserError:
        pytest.skip("no IPv6 here")
    with bound:
        assert address(bound).startswith("http://[::1]:")


def test_a_signal_that_python_dropped_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn raises it at its end; within a finaliser Python drops what is raised."""
    uvicorn = pytest.importorskip("uvicorn")
    service: Any = SimpleNamespace(app=None, running=SimpleNamespace(stop=lambda: None))

    def run(server: Any, sockets: list[socket.socket]) -> None:
        server.handle_exit(signal.SIGINT, None)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    with bind("127.0.0.1", 0) as bound, pytest.raises(KeyboardInterrupt):
        serve(service, bound)


def test_a_server_that_ends_by_itself_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    service: Any = SimpleNamespace(app=None)
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)
    with bind("127.0.0.1", 0) as bound:
        serve(service, bound)
        assert bound.fileno() == -1
