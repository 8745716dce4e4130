"""Puts the server together: transformers' handlers around one loaded model, routes of its size
beside them, and the gate before all.

Does not listen to a port; see `serving.listening`.
"""

import inspect
from typing import Any

from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.original.model_limits import positions
from bitstack.serving.checks import Checks
from bitstack.serving.gate import Gate
from bitstack.serving.limits import Limits
from bitstack.serving.one_model import OneModel, OneState
from bitstack.serving.refusals import Refused
from bitstack.serving.running import Running
from bitstack.serving.size import Size


class Service:
    """One model that is served: `app` is the ASGI app, `close` ends what runs."""

    def __init__(
        self, opened: Opened, size: Size, *, name: str, path: str, host: str = "127.0.0.1",
        parallel: int = 8, max_new_tokens: int = 4096,
    ) -> None:  # fmt: skip
        """Makes the app.

        Args:
            opened: The model.
            size: Its size.
            name: What clients call the model.
            path: Folder or Hub name it was opened by, which clients may say, too.
            host: The address that is served.
            parallel: Requests that compute in turn; further ones wait for an end.
            max_new_tokens: Most tokens of an answer.
        """
        limits = Limits(positions(opened.model), max_new_tokens)
        self.name, self.size = name, size
        self.running = Running(limits, parallel)
        embeddings = int(opened.model.get_input_embeddings().num_embeddings)
        checks = Checks(name, path, opened.tokenizer, embeddings, limits)
        self.app = Gate(self._routes(_transformers(name, opened, self.running)), checks, host=host)

    def close(self) -> None:
        """Ends all requests, and following the memory."""
        self.running.close()
        self.size.close()

    def _routes(self, served: Any) -> Any:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse
        from starlette.routing import Mount, Route

        def health(_: Any) -> Any:
            return JSONResponse(self.health())

        def levels(_: Any) -> Any:
            return JSONResponse(self.size.summary() | {"levels": self.size.levels()})

        async def change(request: Any) -> Any:
            budget = (await request.json())["budget"]
            await run_in_threadpool(self.size.change, budget)
            return JSONResponse(self.size.summary())

        routes = [
            Route("/health", health),
            Route("/budget", levels),
            Route("/budget", change, methods=["POST"]),
            Mount("/", served),
        ]
        return Starlette(routes=routes, exception_handlers=_handlers())

    def health(self) -> dict[str, Any]:
        """Returns what GET /health answers."""
        requests = self.running.unfinished
        running = min(requests, self.running.parallel)
        counts = {"running": running, "waiting": requests - running}
        return {"status": "ok", "model": self.name, **counts, **self.size.summary()}


def _transformers(name: str, opened: Opened, running: Running) -> Any:
    """transformers' own server, with the routes that are served."""
    from transformers.cli.serving import build_server
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.response import ResponseHandler

    one, state = OneModel(name, opened), OneState(running)
    parts: dict[str, Any] = {
        "model_manager": one,
        "generation_state": state,
        "chat_handler": ChatCompletionHandler(one, state),
        "completion_handler": CompletionHandler(one, state),
        "response_handler": ResponseHandler(one, state),
    }
    # The gate lets no request through to the handlers of other routes.
    names = inspect.signature(build_server).parameters
    build: Any = build_server
    app = build(**{n: parts.get(n) for n in names if n in parts or n.endswith("_handler")})
    for kind, handler in _handlers().items():
        app.add_exception_handler(kind, handler)
    return app


def _handlers() -> dict[Any, Any]:
    """What turns exceptions into answers, by their classes."""
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse

    def answer(refused: Refused) -> Any:
        return JSONResponse(refused.body(), status_code=refused.status)

    return {
        Refused: lambda _, error: answer(error),
        UserError: lambda _, error: answer(Refused(400, str(error))),
        HTTPException: lambda _, error: answer(Refused(error.status_code, str(error.detail))),
        Exception: lambda _, error: answer(
            Refused(500, f"the server failed ({type(error).__name__}); its log tells where")
        ),
    }
