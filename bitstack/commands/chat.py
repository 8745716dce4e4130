"""`compress-model chat`: reads lines, answers messages, and runs the commands within a chat.

Does not hold the conversation; see `live.conversation`.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitstack.commands.early import check_inputs
from bitstack.commands.shared import (
    Budget,
    Device,
    DrawSeed,
    Json,
    MaxNewTokens,
    Model,
    Quiet,
    Temperature,
    silence_libraries,
    write_result,
)
from bitstack.errors import UserError

if TYPE_CHECKING:
    from bitstack.live.conversation import Answer, Conversation

_HELP = """\
/budget B  load more or fewer bits, such as /budget 3bpw, /budget 200MB, /budget everything
/stats     bytes in memory, bits per weight, tokens per second
/clear     begin a new conversation
/exit      end; so does Ctrl-D. Ctrl-C stops an answer."""


def chat(
    model: Model,
    budget: Budget = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help='How to answer, for example "Answer in one sentence."'),
    ] = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    seed: DrawSeed = 0,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Talk with a chat model, and change its size meanwhile.

    The chat is written in the model's own template. Within it, /budget 2bpw loads fewer bits,
    /stats shows what is in memory, /help lists all commands. Where the input is a file or a pipe,
    every line is a message.

    Example: compress-model chat out/small --budget 1GiB
    """
    check_inputs(model, budgets=[budget])
    silence_libraries(also_bitstack=quiet)
    from bitstack.live.conversation import Conversation
    from bitstack.live.opening import open_model

    opened = open_model(model, budget=budget, device=device)
    conversation = Conversation(
        opened, system=system, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    if sys.stdin.isatty() and not quiet:
        typer.echo(f"{_sizes(conversation)}; /help lists the commands", err=True)
    record: dict[str, Any] = {"model": model, "answers": []}
    try:
        _talk(conversation, record["answers"], shown=json != "-")
    finally:  # also of a chat that Ctrl-C ends
        write_result(json, record)


def _talk(conversation: "Conversation", answers: list[dict[str, Any]], *, shown: bool) -> None:
    """Answers until the input ends; adds every answer to `answers` as JSON values."""
    last: Answer | None = None
    for line in _lines():
        try:
            if line.startswith("/"):
                _command(line, conversation, last)
            else:
                last = _answer(conversation, line, shown)
                size = {"resident_bytes": _resident_bytes(conversation)}
                answers.append({"message": line} | asdict(last) | size)
        except UserError as error:  # of a message or command; the chat goes on
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)


def _lines() -> Iterator[str]:
    """Yields what the user types, without blank lines, until the input or the user ends it."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line in ("/exit", "/quit"):
            return
        if line:
            yield line


def _answer(conversation: "Conversation", text: str, shown: bool) -> "Answer":
    """Gives the answer to a message, printed as it comes if it is `shown`; Ctrl-C stops it."""
    from transformers import TextStreamer

    tokenizer = conversation.opened.tokenizer
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with _stopped_by_interrupt(conversation):
        answer = conversation.reply(text, streamer if shown else None)
    if answer.stopped:
        typer.echo("(stopped)", err=True)
    elif not answer.text.strip():
        typer.echo("(the model ended its answer at once)", err=True)
    elif answer.tokens >= conversation.max_new_tokens:
        typer.echo(f"(cut at {answer.tokens} tokens; see --max-new-tokens)", err=True)
    if answer.forgotten:
        typer.echo(f"(the oldest {answer.forgotten} messages are forgotten: no room)", err=True)
    return answer


@contextmanager
def _stopped_by_interrupt(conversation: "Conversation") -> Iterator[None]:
    """Within it, Ctrl-C ends the answer after its token; pressed again, it ends the command."""

    def stop(*_: Any) -> None:
        conversation.stop()
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread: nobody presses Ctrl-C there
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _command(line: str, conversation: "Conversation", last: "Answer | None") -> None:
    word, _, rest = line.partition(" ")
    if word == "/budget":
        _resize(conversation, rest.strip())
    elif word == "/stats":
        typer.echo(_sizes(conversation), err=True)
        if last and last.tokens:
            speed = last.tokens / last.seconds
            typer.echo(f"last answer: {last.tokens} tokens, {speed:.1f} tokens/s", err=True)
    elif word == "/clear":
        conversation.clear()
    elif word == "/help":
        typer.echo(_HELP, err=True)
    else:
        raise UserError(f"{word}: no such command; /help lists them")


def _resize(conversation: "Conversation", budget: str) -> None:
    from bitstack.live.resident import resize

    if not budget:
        raise UserError("/budget: give a size, such as /budget 3bpw or /budget 200MB")
    resize(conversation.opened.model, budget)
    conversation.forget_cache()  # what is in it was computed at another size
    typer.echo(_sizes(conversation), err=True)


def _sizes(conversation: "Conversation") -> str:
    """What of the model is in memory, in one line."""
    from bitstack.machine.sizes import format_bytes

    model = conversation.opened.model
    resident = getattr(model, "bitstack", None)
    if resident is None:
        return f"original model, {format_bytes(_resident_bytes(conversation))} in memory"
    budgets = resident.manifest.budgets
    low, high = format_bytes(budgets.floor_bytes), format_bytes(budgets.total_bytes)
    return (
        f"{format_bytes(resident.resident_bytes)} in memory, {resident.bits_per_weight:.2f} bits "
        f"per weight, levels {min(resident.levels)} to {max(resident.levels)} "
        f"(it can have {low} to {high})"
    )


def _resident_bytes(conversation: "Conversation") -> int:
    """Bytes of the model now; `opened` has those of the beginning."""
    opened = conversation.opened
    resident = getattr(opened.model, "bitstack", None)
    return int(opened.resident_bytes if resident is None else resident.resident_bytes)
