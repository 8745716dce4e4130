"""`compress-model serve`.

Does not answer requests; see `serving`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitstack.commands.early import check_inputs
from bitstack.commands.numbers import size as parse_size
from bitstack.commands.numbers import whole
from bitstack.commands.shared import (
    Budget,
    Device,
    Json,
    Model,
    Quiet,
    silence_libraries,
    write_result,
)
from bitstack.errors import UserError
from bitstack.machine.extras import require

if TYPE_CHECKING:
    from bitstack.live.opening import Opened
    from bitstack.serving.app import Service


def serve(
    model: Model,
    budget: Budget = None,
    follow_memory: Annotated[
        bool,
        typer.Option(
            "--follow-memory",
            help="Shrink while memory is short and grow again later, up to the --budget.",
        ),
    ] = False,
    keep_free: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=parse_size,
            help="Memory that --follow-memory keeps free, for example 500MB [default: 2GiB].",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to serve on: clients of this machine alone reach 127.0.0.1, all that "
            "reach this machine 0.0.0.0.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to serve on; 0 for any.")
    ] = 8000,
    parallel: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="Requests that are answered in turn, a token each; further ones wait.",
        ),
    ] = 8,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="TOKENS", parser=whole, help="Most tokens a client may ask for.")
    ] = 4096,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Serve a model to OpenAI clients, and change its size meanwhile.

    POST /v1/chat/completions, /v1/completions and /v1/responses answer as OpenAI does. GET /health
    tells the bytes in memory and the levels, and POST /budget with {"budget": "3bpw"} changes them
    while requests run. With --json, address and bytes are written once it is served. Ctrl-C ends
    the server.

    Example: compress-model serve out/small --budget 1.5GiB --follow-memory --keep-free 2GiB
    """
    if keep_free is not None and not follow_memory:
        raise UserError(f"--keep-free {keep_free}: give --follow-memory, too, which it belongs to")
    require("fastapi", "openai", "starlette", "uvicorn")
    check_inputs(model, budgets=[budget])
    silence_libraries(also_bitstack=quiet)
    from bitstack.serving.listening import bind

    bound = bind(host, port)  # before the model is loaded, which takes longer
    from bitstack.live.opening import open_model
    from bitstack.serving.app import Service
    from bitstack.serving.listening import address, listen
    from bitstack.serving.listening import serve as serve_on
    from bitstack.serving.size import Size

    opened = open_model(model, budget=budget, device=device)
    size = Size(opened, budget, (keep_free or "2GiB") if follow_memory else None)
    name = Path(model).resolve().name if Path(model).is_dir() else model
    service = Service(
        opened, size, name=name, path=model, host=host, parallel=parallel,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    listen(bound)
    if not quiet:
        typer.echo("\n".join(_lines(service, opened, address(bound), host)), err=True)
    write_result(json, {"url": f"{address(bound)}/v1", "model": name} | size.summary())
    try:
        serve_on(service, bound)
    finally:
        service.close()


def _lines(service: "Service", opened: "Opened", url: str, host: str) -> list[str]:
    """What is served where and to whom, and what it cannot do."""
    from bitstack.machine.sizes import format_bytes
    from bitstack.serving.gate import is_loopback

    size = format_bytes(service.size.resident_bytes)
    lines = [f"{service.name}: {size} in memory, served on {url}/v1; Ctrl-C ends it"]
    if not opened.tokenizer.chat_template:
        lines.append("its tokenizer has no chat template: /v1/completions alone answers")
    if not is_loopback(host):
        lines.append(f"there is no password: whoever reaches {host} may use the model")
    return lines
