"""Requests run in turn, each with draws of its own, and end when nobody waits for them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from bitstack.live.opening import open_model
from bitstack.serving import running as running_module
from bitstack.serving.asked import Asked, current
from bitstack.serving.limits import Limits
from bitstack.serving.refusals import Refused
from bitstack.serving.running import Draws, Running
from served import NAME, Served, served


def sampled(server: Served, seed: int) -> str:
    made = server.client.completions.create(
        model=NAME, prompt="Hello", max_tokens=20, temperature=1, seed=seed
    )
    return made.choices[0].text


def test_a_seed_gives_the_same_text_whatever_else_runs(server: Served) -> None:
    alone = [sampled(server, seed) for seed in range(6)]
    assert len(set(alone)) == 6
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda seed: sampled(server, seed), range(6))) == alone


def test_draws_leave_the_state_as_it_was() -> None:
    before = torch.get_rng_state()
    draws = [Draws(torch.device("cpu"), seed) for seed in (1, 1, None, None)]
    values = []
    for one in draws:
        one.swap()
        values.append(float(torch.rand(1)))
        one.swap()
    assert torch.equal(torch.get_rng_state(), before)
    assert values[0] == values[1]
    assert len(set(values)) == 3
    draws[0].swap()
    second = float(torch.rand(1))
    draws[0].swap()
    assert second not in values


def test_too_many_wait(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "MOST_WAITING", -8)
    message = server.refusal("/v1/completions", {"prompt": "Hello"}, 503)
    assert "0 requests run or wait already; try again later" in message


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), 503, "no memory for this request"),
        (torch.OutOfMemoryError("CUDA"), 503, "no memory for this request"),
        (RuntimeError('a "quoted"\nreason'), 500, "RuntimeError: a 'quoted' reason"),
    ],
)
def test_a_model_that_fails(chatty: Path, error: Exception, status: int, words: str) -> None:
    with served(chatty) as server:

        def fail(*_: Any, **__: Any) -> Any:
            raise error

        forward, server.opened.model.forward = server.opened.model.forward, fail
        assert words in server.refusal("/v1/completions", {"prompt": "Hello"}, status)
        stream = server.client.completions.create(model=NAME, prompt="Hello", stream=True)
        with pytest.raises(Exception, match="during streaming"):
            list(stream)
        server.opened.model.forward = forward
        assert server.post("/v1/completions", prompt="Hello", max_tokens=2)["choices"]


def test_who_is_gone_costs_nothing(chatty: Path) -> None:
    opened = open_model(chatty)
    running = Running(Limits(128, 64), 2)
    asked = Asked(prompt="Hello")
    asked.gone.set()
    current.set(asked)

    async def ask() -> Any:
        config = opened.model.generation_config
        return await running.generate_non_streaming(
            opened.model, opened.tokenizer, {}, config, request_id="1"
        )

    opened.model.forward = None  # not to be called
    with pytest.raises(Refused, match="hung up"):
        asyncio.run(ask())
    running.close()
    asked.gone.clear()
    with pytest.raises(RuntimeError, match="after shutdown"):
        asyncio.run(ask())


def test_a_server_that_stops_ends_its_requests(chatty: Path) -> None:
    with served(chatty) as server, ThreadPoolExecutor(1) as pool:
        begun = []
        forward = server.opened.model.forward

        def slow(*args: Any, **kwargs: Any) -> Any:
            begun.append(True)
            if len(begun) == 3:
                server.service.running.stop()
            return forward(*args, **kwargs)

        server.opened.model.forward = slow
        body = {"prompt": "Hello", "logit_bias": {"0": -100}}
        status, answer = pool.submit(server.call, "POST", "/v1/completions", body).result()
        assert (status, answer["error"]["message"]) == (503, "the server stops")
        assert len(begun) == 3


def test_tokens_of_other_prompts_do_not_come_in_between(server: Served) -> None:
    """An end token that the tokenizer itself appends is no part of a prompt."""
    tokenizer = server.opened.tokenizer
    usage = server.post("/v1/completions", prompt="Hello", max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == len(tokenizer("Hello")["input_ids"])
