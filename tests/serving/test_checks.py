"""What may stand in the body of a request. Also covers `serving.bodies`, `serving.asked` and
`serving.refusals`."""

import re
from typing import Any

import pytest

import pico
from bitstack.serving.checks import BODIES, Checks, parsed
from bitstack.serving.limits import Limits
from bitstack.serving.refusals import Refused

CHAT, TEXT, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES = [{"role": "user", "content": "Hi"}]
CALL = {"function": {"name": "f", "arguments": "{}"}}


def checks(template: str | None = pico.TEMPLATE) -> Checks:
    tokenizer = pico.tokenizer().__class__(tokenizer_object=pico.tokenizer().backend_tokenizer)
    tokenizer.chat_template = template
    return Checks("small", "out/small", tokenizer, pico.VOCABULARY, Limits(pico.POSITIONS, 64))


def message(path: str, body: Any, status: int = 400, **kwargs: Any) -> str:
    with pytest.raises(Refused) as caught:
        checks(**kwargs)(path, body)
    assert caught.value.status == status
    return caught.value.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": None}, "messages: is missing"),
        ({"messages": "Hi"}, "messages: 'Hi': Input should be a valid list"),
        ({"messages": []}, "at least 1 item"),
        ({"messages": [3]}, "messages.0: 3"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role: is missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content: 3"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages.0.content.0.type: 'image_url': Input should be 'text'",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {}}]}]},
            "messages.0.tool_calls.0.function.name: is missing",
        ),
        ({"max_tokens": 0}, "max_tokens: 0: Input should be greater than"),
        ({"max_tokens": "many"}, "max_tokens: 'many'"),
        ({"max_tokens": 65}, "max_tokens: 65 is more than the 64 of this server"),
        ({"max_completion_tokens": 65}, "more than the 64"),
        ({"temperature": -1}, "temperature: -1"),
        ({"temperature": float("nan")}, "temperature: NaN"),
        ({"top_p": 1.5}, "top_p: 1.5"),
        ({"seed": 2**63}, "seed: "),
        ({"stop": ["a"] * 5}, "at most 4 items"),
        ({"stop": ""}, "stop: ''"),
        ({"stop": ["x" * 65]}, "at most 64 characters"),
        ({"frequency_penalty": -1}, "frequency_penalty: -1: Input should be greater than -1"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a: 'a'"),
        ({"logit_bias": {"-1": 1}}, "ids of tokens, from 0"),
        ({"logit_bias": {"307": 1}}, "307 is no id of the model's 307 tokens"),
        ({"tools": [{"type": "function"}]}, "tools.0: {'type': 'function'}: a tool needs the name"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template: is not for clients"),
        ({"chat_template_kwargs": {"load_audio_from_video": True}}, "is not for clients to set"),
        ({"chat_template_kwargs": {"a": [1]}}, "chat_template_kwargs.a: [1]"),
        ({"generation_config": "{"}, "generation_config: '{': Invalid JSON"),
        ({"generation_config": '{"num_beams": 4}'}, "num_beams: 4: Extra inputs are not permitted"),
        ({"generation_config": '{"max_new_tokens": 65}'}, "more than the 64"),
        # What would change the answer and is not followed.
        ({"n": 2}, "n: 2"),
        ({"logprobs": True}, "logprobs: true"),
        ({"presence_penalty": 1}, "presence_penalty: 1"),
        ({"response_format": {"type": "json_object"}}, "response_format.type: 'json_object'"),
        ({"tool_choice": "required"}, "tool_choice: 'required'"),
        ({"functions": [{}]}, "functions: "),
        ({"modalities": ["audio"]}, "modalities.0: 'audio'"),
    ],
)  # fmt: skip
def test_a_field_that_is_refused_is_named(fields: dict[str, Any], words: str) -> None:
    assert words in message(CHAT, {"messages": MESSAGES} | fields)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "prompt: is missing"),
        ({"prompt": ""}, "prompt: ''"),
        ({"prompt": ["a", "b"]}, "prompt: ['a', 'b']: Input should be a valid string"),
        ({"prompt": "a", "echo": True}, "echo: true"),
        ({"prompt": "a", "best_of": 2}, "best_of: 2"),
        ({"prompt": "a", "logprobs": 5}, "logprobs: 5"),
    ],
)
def test_texts(body: dict[str, Any], words: str) -> None:
    assert words in message(TEXT, body)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": None}, "input: is missing"),
        ({"input": [{"type": "function_call"}]}, "type function_call needs the field call_id"),
        ({"input": [{"type": "input_image"}]}, "input.0.type: 'input_image'"),
        ({"input": [{"content": "a"}]}, "of type message needs the field role"),
        (
            {"input": [{"type": "input_text", "text": "a"}, *MESSAGES]},
            "messages, or pieces of one message, not both",
        ),
        ({"max_output_tokens": 65}, "more than the 64"),
        ({"previous_response_id": "a"}, "previous_response_id: 'a'"),
        ({"background": True}, "background: true"),
    ],
)
def test_responses(fields: dict[str, Any], words: str) -> None:
    assert words in message(RESPONSE, {"input": "Hi"} | fields)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("value", [None, 3, "a", [], [{}]])
def test_no_object(path: str, value: Any) -> None:
    assert "send a JSON object" in message(path, value)


def test_a_wrong_name() -> None:
    for path, body in ((CHAT, {"messages": MESSAGES}), ("/load_model", {})):
        words = message(path, body | {"model": "gpt-4"}, status=404)
        assert words == "model: 'gpt-4' is not served here; send 'small'"
        for name in ("small", "out/small"):
            assert checks()(path, body | {"model": name})[0]["model"] == "small"


def test_no_template() -> None:
    assert "no chat template" in message(CHAT, {"messages": MESSAGES}, template=None)
    assert "no chat template" in message(RESPONSE, {"input": "Hi"}, template=None)
    assert checks(template=None)(TEXT, {"prompt": "Hi"})


def test_what_the_handlers_get() -> None:
    given = {"messages": MESSAGES, "seed": 3, "max_tokens": None, "user": "me", "temperature": 0}
    body, asked = checks()(CHAT, given)
    assert body == {
        "messages": MESSAGES, "user": "me", "temperature": 0, "model": "small", "stream": False,
    }  # fmt: skip
    assert (asked.seed, asked.temperature, asked.max_new_tokens, asked.prompt) == (3, 0, None, None)
    assert checks()(TEXT, {"prompt": "Hi", "max_tokens": 5})[1].prompt == "Hi"
    assert checks()(RESPONSE, {"input": "Hi"})[0]["stream"] is False  # OpenAI's default


def test_what_a_generation_config_asks() -> None:
    """As `transformers chat` sends it; the other fields of the body count more."""
    config = '{"do_sample": true, "max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 5'
    given = {"messages": MESSAGES, "generation_config": config + ', "transformers_version": "5"}'}
    body, asked = checks()(CHAT, given)
    assert "generation_config" not in body
    assert (asked.max_new_tokens, asked.temperature) == (9, 0.5)
    assert asked.fields == {"do_sample": True, "top_p": 0.9, "top_k": 5}
    _, asked = checks()(CHAT, given | {"max_tokens": 3, "temperature": 0, "top_p": 0.5})
    assert (asked.max_new_tokens, asked.temperature) == (3, 0)
    assert "top_p" not in asked.fields


@pytest.mark.parametrize(
    "items",
    [
        "Hi",
        [{"role": "user", "content": "Hi"}],
        [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        [{"type": "input_text", "text": "Hi"}],
        [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
         {"type": "function_call_output", "call_id": "1", "output": "3"}],
    ],
)  # fmt: skip
def test_inputs_that_are_taken(items: Any) -> None:
    assert checks()(RESPONSE, {"input": items})[0]["input"] == items


def test_budgets() -> None:
    assert checks()("/budget", {"budget": "3bpw"})[0] == {"budget": "3bpw"}
    assert checks()("/budget", {"budget": 5000})[0] == {"budget": 5000}
    for body in ({}, {"budget": None}, {"budget": ""}, {"budget": [1]}, {"budget": "1MB", "x": 1}):
        assert message("/budget", body)


def test_a_text_far_too_long_is_counted_at_once() -> None:
    for path, body in (
        (TEXT, {"prompt": "word " * 500}),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 500}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a " * 999}]}]}),
        (RESPONSE, {"input": "Hi", "instructions": "word " * 500}),
    ):
        words = message(path, body)
        assert re.search(r"its \d+ tokens leave no room for an answer within the 128", words)
    assert checks()(TEXT, {"prompt": "word " * 10})


def test_a_long_value_is_cut() -> None:
    assert len(message(TEXT, {"prompt": ["word " * 1000]})) < 200


def test_a_message_fits_between_quotes() -> None:
    """transformers writes it into the JSON of a stream as it is."""
    assert Refused(500, 'a "b"\n\\c').message == "a 'b' /c"
    assert Refused(404, "x").body()["error"]["type"] == "not_found_error"


def test_parsed_gives_what_it_was_asked_for() -> None:
    assert parsed(BODIES["/load_model"], {"model": "a"}).model == "a"
