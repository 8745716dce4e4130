"""The server as clients see it: OpenAI's own, and others. Also covers `serving.one_model`."""

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

import pico
from bitstack.live.generation import generate
from bitstack.live.opening import open_model
from served import NAME, Served, served, until

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
GREEDY: dict[str, Any] = {"model": NAME, "temperature": 0}
HALF = "\ufffd"  # of a character: a stream leaves it out at the end


@pytest.fixture(scope="module")
def answers(chatty: Path) -> dict[bool, str]:
    """Greedy answers of `generate` to "Hello", as a text and as a chat."""
    opened = open_model(chatty, budget="3bpw")
    return {chat: generate(opened, "Hello", max_new_tokens=12, chat=chat) for chat in (False, True)}


def test_models(server: Served) -> None:
    assert [model.id for model in server.client.models.list()] == [NAME]


def test_a_chat(server: Served, answers: dict[bool, str]) -> None:
    made = server.client.chat.completions.create(messages=MESSAGES, max_tokens=12, **GREEDY)
    assert made.choices[0].message.content == answers[True]
    assert made.choices[0].finish_reason in ("length", "stop")
    assert made.usage
    assert 0 < made.usage.completion_tokens <= 12


def test_a_streamed_chat(server: Served, answers: dict[bool, str]) -> None:
    stream = server.client.chat.completions.create(
        messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True},
        **GREEDY,
    )  # fmt: skip
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answers[True].rstrip(HALF)
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert len(chunks) > 3


def test_a_text(server: Served, answers: dict[bool, str]) -> None:
    ask = server.client.completions.create
    made = ask(prompt="Hello", max_tokens=12, **GREEDY)
    assert made.choices[0].text == answers[False]
    stream = ask(prompt="Hello", max_tokens=12, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in stream) == answers[False].rstrip(HALF)


def test_a_response(server: Served, answers: dict[bool, str]) -> None:
    ask = server.client.responses.create
    made = ask(input="Hello", max_output_tokens=12, **GREEDY)
    assert made.output_text == answers[True]
    events = list(ask(input="Hello", max_output_tokens=12, stream=True, **GREEDY))
    assert events[-1].type == "response.completed"
    parts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(parts) == answers[True].rstrip(HALF)


def test_a_generation_config(server: Served, answers: dict[bool, str]) -> None:
    """As `transformers chat` sends it: transformers alone would forget the model's end token."""
    config = {"generation_config": json.dumps({"do_sample": False, "max_new_tokens": 12})}
    made = server.client.chat.completions.create(model=NAME, messages=MESSAGES, extra_body=config)
    assert made.choices[0].message.content == answers[True]


def test_a_bias_of_tokens(server: Served) -> None:
    word = server.opened.tokenizer.decode([70] * 4)
    ways: dict[str, Any] = {"max_tokens": 4, "logit_bias": {"70": 100}, **GREEDY}
    made = server.client.completions.create(prompt="Hello", **ways)
    assert made.choices[0].text == word
    chat = server.client.chat.completions.create(messages=MESSAGES, **ways)
    assert chat.choices[0].message.content == word


def test_a_stop_string(server: Served, answers: dict[bool, str]) -> None:
    text = answers[False]
    end = next(c for c in text[1:] if c.isascii() and c.isprintable())
    made = server.client.completions.create(prompt="Hello", max_tokens=12, stop=[end], **GREEDY)
    assert made.choices[0].text == text[: text.index(end) + 1]


def test_no_number_of_tokens_ends_with_the_positions(server: Served) -> None:
    made = server.client.completions.create(prompt="Hello", logit_bias={"0": -100}, **GREEDY)
    assert made.usage
    assert made.usage.total_tokens == pico.POSITIONS
    assert made.choices[0].finish_reason == "length"


def test_a_prompt_longer_than_the_context(server: Served) -> None:
    long = "word " * pico.POSITIONS
    for path, body in (
        ("/v1/completions", {"prompt": long}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream": True} | {"messages": [
            {"role": "user", "content": long}]}),
        ("/v1/responses", {"input": long}),
    ):  # fmt: skip
        assert "leave no room for an answer within the 128" in server.refusal(path, body)
    with pytest.raises(openai.BadRequestError, match="128 positions"):
        server.client.completions.create(prompt=long, stream=True, **GREEDY)


def test_a_wrong_name(server: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="send 'small'"):
        server.client.chat.completions.create(model="gpt-4", messages=MESSAGES)


def test_an_unknown_field(server: Served) -> None:
    assert "nonsense" in server.refusal("/v1/completions", {"prompt": "a", "nonsense": 1}, 422)


def test_roles_that_the_template_refuses(server: Served, chatty: Path) -> None:
    template = server.opened.tokenizer.chat_template
    server.opened.tokenizer.chat_template = "{{ raise_exception('only users speak here') }}"
    try:
        message = server.refusal("/v1/chat/completions", {"messages": MESSAGES})
        assert "the chat template of the model does not take them (only users speak" in message
    finally:
        server.opened.tokenizer.chat_template = template


def test_a_model_without_a_template(stacked: Callable[..., Path]) -> None:
    with served(stacked("llama-gqa", calibration="none")) as server:
        body = {"messages": MESSAGES}
        assert "send a text to /v1/completions" in server.refusal("/v1/chat/completions", body)
        assert server.post("/v1/completions", prompt="Hello", max_tokens=3)["choices"][0]["text"]


GARBAGE: list[bytes] = [
    b"", b"garbage", b"null", b"[]", b'"a"', b"\x00\xff", b"{" * 5000, b'{"prompt": 1e999}',
    b'{"prompt": "a", "max_tokens": -1}', b'{"messages": [[[]]]}', b'{"prompt": {"a": 1}}',
    b'{"input": [{"role": {}}]}', b'{"model": {}}', b'{"prompt": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/budget", "/load_model"]
)
def test_garbage(server: Served, path: str) -> None:
    for data in GARBAGE:
        status, answer = server.call("POST", path, data)
        assert 400 <= status < 500, (data, answer)
        assert answer["error"]["message"]
    assert server.get("/health")["status"] == "ok"


def test_garbage_that_is_no_http(server: Served) -> None:
    for data in (b"\x16\x03\x01" * 50, b"GET\r\n\r\n", b"A" * 100_000, b""):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
            plain.sendall(data)
            plain.shutdown(socket.SHUT_WR)
    assert server.get("/health")["status"] == "ok"


def test_health_tells_bytes_and_levels(server: Served) -> None:
    told = server.get("/health")
    model = server.opened.model
    assert told["resident_bytes"] == model.bitstack.resident_bytes
    assert told["bits_per_weight"] == model.bitstack.bits_per_weight
    levels = {int(level): count for level, count in told["matrices_at_level"].items()}
    assert sum(levels.values()) == len(model.bitstack.levels)
    assert levels[3] == model.bitstack.levels.count(3)
    each = server.get("/budget")["levels"]
    assert list(each.values()) == model.bitstack.levels
    assert told["budget"] == "3bpw"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("much", "'much' is not understood"),
        ("3", "did you mean 3bpw (3 bits"),
        (100, "below the floor"),
    ],
)
def test_a_budget_that_cannot_be(server: Served, budget: Any, message: str) -> None:
    before = server.get("/health")
    assert message in server.refusal("/budget", {"budget": budget})
    assert server.get("/health") == before


def test_budgets_while_requests_run(chatty: Path) -> None:
    """Every request is answered; at the budget of the beginning, texts are as they were."""
    prompts = [pico.TEXT[i : i + 20] for i in range(0, 160, 20)]
    with served(chatty, budget="3bpw") as server:

        def ask(prompt: str) -> str:
            stream = server.client.completions.create(
                prompt=prompt, max_tokens=10, stream=True, logit_bias={"0": -100}, **GREEDY
            )
            chunks = list(stream)
            assert chunks[-1].choices[0].finish_reason == "length"
            return "".join(chunk.choices[0].text for chunk in chunks)

        before = [ask(prompt) for prompt in prompts]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, prompts)) == before
            running = [pool.submit(ask, prompt) for prompt in prompts * 4]
            sizes = [server.post("/budget", budget=b)["resident_bytes"] for b in (
                "floor", "everything", "2bpw", "4bpw", "3bpw")]  # fmt: skip
            for one in running:
                one.result()
        assert len(set(sizes)) == 5
        assert [ask(prompt) for prompt in prompts] == before


def test_the_size_follows_free_memory_while_requests_run(
    chatty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [1 << 30]
    monkeypatch.setattr("bitstack.live.memory_follower.free_memory", lambda: room[0])
    monkeypatch.setattr("bitstack.live.memory_follower.follow_memory.__kwdefaults__", {
        "at_most": None, "interval": 0.02, "free": None})  # fmt: skip
    with served(chatty, budget="3bpw", keep_free="1MB") as server, ThreadPoolExecutor(2) as pool:
        whole = server.get("/health")
        assert whole["follow_memory"] == {"keep_free": 1_000_000, "error": None}

        def ask(_: int) -> Any:
            return server.post("/v1/completions", prompt="Hello", max_tokens=20)

        running = pool.map(ask, range(8))
        room[0] = 0
        until(lambda: server.get("/health")["resident_bytes"] == whole["floor_bytes"])
        room[0] = 1 << 30
        until(lambda: server.get("/health")["resident_bytes"] == whole["resident_bytes"])
        assert all(list(running))
        server.post("/budget", budget="2bpw")  # a new bound from above
        smaller = server.get("/health")
        assert whole["floor_bytes"] < smaller["resident_bytes"] < whole["resident_bytes"]
        assert smaller["budget"] == "2bpw"
        server.post("/budget", budget="4bpw")
        until(lambda: server.get("/health")["resident_bytes"] > whole["resident_bytes"])


def test_an_original_model(pico_model: Callable[..., Path]) -> None:
    folder = pico_model("llama-gqa")
    with served(folder) as server:
        assert server.post("/v1/completions", prompt="Hello", max_tokens=3)["choices"]
        assert server.get("/health")["resident_bytes"] == server.opened.resident_bytes
        assert "was not loaded by bitstack" in server.refusal("/budget", {"budget": "3bpw"})


def long_request(server: Served, *, stream: bool) -> socket.socket:
    """A request of many tokens, whose answer nobody reads."""
    body = {"prompt": "Hello", "stream": stream, "logit_bias": {"0": -100}}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    plain.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    return plain


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_hang_up(chatty: Path, stream: bool) -> None:
    """Their requests end, those that run and those that wait, and the next one is answered."""
    with served(chatty, parallel=2) as server:
        forward = server.opened.model.forward

        def slow(*args: Any, **kwargs: Any) -> Any:
            time.sleep(0.05)
            return forward(*args, **kwargs)

        server.opened.model.forward = slow  # 120 tokens would take 6 s each
        clients = [long_request(server, stream=stream) for _ in range(5)]
        until(lambda: server.get("/health")["waiting"] == 3)
        assert server.get("/health")["running"] == 2
        start = time.monotonic()
        for client in clients:
            client.close()
        until(lambda: server.get("/health")["running"] == 0)
        assert time.monotonic() - start < 5
        assert server.post("/v1/completions", prompt="Hello", max_tokens=2)["choices"]


def test_what_transformers_chat_asks_first(server: Served) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"model": NAME})
    connection.request("POST", "/load_model", body, {"Content-Type": "application/json"})
    event = connection.getresponse().read().decode()
    connection.close()
    assert json.loads(event.removeprefix("data: ")) == {
        "status": "ready", "model": NAME, "cached": True,
    }  # fmt: skip
