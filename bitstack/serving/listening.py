"""Listens to a port and serves an app on it, until a signal ends it.

Does not make the app; see `serving.app`.
"""

import errno
import os
import signal
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

from bitstack.errors import UserError

if TYPE_CHECKING:
    from bitstack.serving.app import Service

END_SECONDS = 5  # that a request has to end when the server does


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to an address, but does not listen yet.

    Args:
        host: Name or number of an address of this machine.
        port: 0 for any that is free.

    Raises:
        UserError: The address is not of this machine, or the port is in use or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"host {host}: is no address ({getattr(error, 'strerror', error)}); give one of this "
            "machine, such as 127.0.0.1"
        ) from None
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # elsewhere a port stays taken for a minute after its server
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _refused(error, host, port) from None
    return bound


def listen(bound: socket.socket) -> None:
    """Lets clients connect; they wait for `serve` to answer them.

    Raises:
        UserError: Another program began to listen to the port after `bind`.
    """
    try:
        bound.listen()
    except OSError as error:
        host, port = bound.getsockname()[:2]
        bound.close()
        raise _refused(error, host, port) from None


def serve(service: "Service", bound: socket.socket) -> None:
    """Serves on a socket that listens until SIGINT or SIGTERM, which is raised again at the end."""
    server = make_server(service)
    with closing(bound):
        server.run(sockets=[bound])
    if server.ended_by is not None:  # uvicorn raised it, but Python drops it within a finaliser
        signal.raise_signal(server.ended_by)


def make_server(service: "Service") -> Any:
    """Returns a server of uvicorn, which ends all requests when a signal ends it."""
    import uvicorn

    class Server(uvicorn.Server):
        ended_by: int | None = None  # the signal

        def handle_exit(self, sig: int, frame: Any) -> None:
            service.running.stop()
            self.ended_by = sig
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        service.app, log_level="warning", access_log=False, proxy_headers=False, ws="none",
        server_header=False, timeout_graceful_shutdown=END_SECONDS,
    )  # fmt: skip
    return Server(config)


def address(bound: socket.socket) -> str:
    """Returns a bound socket's address as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _refused(error: OSError, host: str, port: int) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"port {port}: is in use on {host}; end what listens there, or choose another --port"
        )
    return UserError(f"host {host}, port {port}: cannot be served ({error.strerror})")
