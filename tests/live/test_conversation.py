"""A conversation is the same as its messages written out at once, whatever is kept between them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

import pico
from bitstack.errors import UserError
from bitstack.live.chat_template import chat_ids
from bitstack.live.conversation import Conversation
from bitstack.live.opening import Opened, open_model


@pytest.fixture
def opened(stacked: Callable[..., Path]) -> Opened:
    opened = open_model(stacked("llama-gqa", calibration="none"), level=4, device="cpu")
    opened.tokenizer.chat_template = pico.TEMPLATE
    opened.model.config.max_position_embeddings = 128
    return opened


def alone(opened: Opened, messages: list[dict[str, str]], tokens: int) -> str:
    """The answer to a whole chat in one call, without a cache from before."""
    ids = chat_ids(opened.tokenizer, messages)
    output = opened.model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return str(opened.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def test_every_answer_is_that_of_the_whole_chat(opened: Opened) -> None:
    chat = Conversation(opened, system="Be brief.", max_new_tokens=6)
    messages = [{"role": "system", "content": "Be brief."}]
    for text in ("Hello", "Why?", "And then?"):
        messages.append({"role": "user", "content": text})
        answer = chat.reply(text)
        assert answer.text == alone(opened, messages, 6)
        assert (answer.tokens, answer.stopped, answer.forgotten) == (6, False, 0)
        messages.append({"role": "assistant", "content": answer.text})
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 3
    chat.clear()
    assert chat.reply("Hello").text == messages[2]["content"]


def test_the_cache_is_used_where_the_chat_goes_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    forward = opened.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    # A byte tokenizer gives back the same ids for the answer only where they decode: made so here.
    monkeypatch.setattr(opened.model, "forward", counted)
    chat = Conversation(opened, max_new_tokens=4)
    first = chat_ids(opened.tokenizer, [{"role": "user", "content": "Hello"}]).shape[1]
    chat.reply("Hello")
    assert lengths[0] == first
    seen = chat._seen
    assert seen is not None
    longer = torch.cat([seen, torch.tensor([[5, 6, 7]])], 1)
    lengths.clear()
    chat._generate(longer, None)
    assert lengths[0] == 4  # the last token of the answer, and the new ones
    chat.forget_cache()
    lengths.clear()
    chat._generate(longer, None)
    assert lengths[0] == longer.shape[1]


def test_an_answer_can_be_stopped(opened: Opened) -> None:
    chat = Conversation(opened, max_new_tokens=50)

    class Stopper(BaseStreamer):
        def __init__(self) -> None:
            self.count = 0

        def put(self, value: torch.Tensor) -> None:
            self.count += 1
            if self.count == 4:  # the prompt and three tokens
                chat.stop()

        def end(self) -> None: ...

    answer = chat.reply("Hello", Stopper())
    assert answer.stopped
    assert answer.tokens < 6
    assert not chat.reply("Go on").stopped


def test_the_oldest_messages_are_forgotten(opened: Opened) -> None:
    chat = Conversation(opened, max_new_tokens=10)
    forgotten = 0
    for index in range(8):
        answer = chat.reply(f"This is message number {index}")
        forgotten += answer.forgotten
    assert forgotten >= 2
    assert forgotten % 2 == 0
    assert len(chat.messages) == 16 - forgotten
    before = list(chat.messages)
    with pytest.raises(UserError, match=r"more than the 128 positions"):
        chat.reply("x" * 200)
    assert chat.messages == before


def test_what_a_template_refuses_is_said_at_once(opened: Opened) -> None:
    opened.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + pico.TEMPLATE
    )
    with pytest.raises(UserError, match=r"roles system, user \(no system\)"):
        Conversation(opened, system="Be brief.")
    Conversation(opened)
    opened.tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        Conversation(opened)


def test_draws_follow_the_seed(opened: Opened) -> None:
    state = torch.random.get_rng_state()
    texts = {
        seed: Conversation(opened, max_new_tokens=12, temperature=1.5, seed=seed).reply("Hi").text
        for seed in (1, 1, 2)
    }
    again = Conversation(opened, max_new_tokens=12, temperature=1.5, seed=1).reply("Hi").text
    assert texts[1] == again != texts[2]
    assert torch.equal(state, torch.random.get_rng_state())
