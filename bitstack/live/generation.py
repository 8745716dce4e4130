"""Continues a prompt with an opened model, for the command line and the demo.

One prompt, continued as it is or answered in the model's chat template. Does not draft, see
`live.draft`, or hold a conversation, see `live.conversation`; the loop over tokens is transformers'
own.
"""

from typing import Any

import torch

from bitstack.container.budget import Budget
from bitstack.errors import UserError
from bitstack.live.chat_template import chat_ids
from bitstack.live.opening import Opened
from bitstack.original.model_limits import positions


def generate(
    opened: Opened,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    streamer: Any = None,
    draft_budget: str | int | Budget | None = None,
) -> str:
    """Returns the continuation of a prompt, without the prompt.

    Args:
        opened: A model of `live.opening.open_model`.
        prompt: The text to continue.
        max_new_tokens: Most tokens to add.
        temperature: 0 for greedy text; above, tokens are sampled from the whole distribution.
        seed: Seed of the sampling. The global generator keeps its state.
        chat: Send the prompt as a user's message, in the model's chat template, and return the
            answer.
        streamer: A transformers streamer, which gets prompt and continuation as they come.
        draft_budget: Budget of a draft model of the same container (`live.draft`), which does not
            change greedy text; None for no drafts.

    Raises:
        UserError: The prompt is empty, there is no chat template for `chat`, `max_new_tokens` or
            `temperature` is out of range, prompt and new tokens exceed the model's positions, or an
            original model is to draft.
    """
    if max_new_tokens < 1:
        raise UserError(f"max new tokens is {max_new_tokens}; it must be at least 1")
    chosen = sampling(temperature)
    if draft_budget is not None and not hasattr(opened.model, "bitstack"):
        raise UserError(
            f"draft budget {draft_budget}: an original model has no blocks to draft with; compress "
            "it first and name the container"
        )
    inputs = _inputs(opened, prompt, max_new_tokens, chat)
    draft = {} if draft_budget is None else {"draft_budget": draft_budget}
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        output = opened.model.generate(
            **inputs, **chosen, max_new_tokens=max_new_tokens, streamer=streamer,
            pad_token_id=padding_id(opened), **draft,
        )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    return str(opened.tokenizer.decode(output[0, length:], skip_special_tokens=True))


def sampling(temperature: float) -> dict[str, Any]:
    """Returns options of transformers' `generate` that override the model's generation config.

    Raises:
        UserError: The temperature is below 0 or no number.
    """
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature is {temperature}; it must be 0 (greedy) or above")
    if temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}


def _inputs(opened: Opened, prompt: str, max_new_tokens: int, chat: bool) -> dict[str, Any]:
    encoded = (_chat if chat else encoded_prompt)(opened.tokenizer, prompt)
    ids = encoded["input_ids"]
    if ids.shape[1] == 0:
        raise UserError("prompt: holds no tokens; give at least one word")
    most = positions(opened.model)
    if most and ids.shape[1] + max_new_tokens > most:
        raise UserError(
            f"prompt: its {ids.shape[1]} tokens and {max_new_tokens} new ones are more than the "
            f"{most} positions of the model; shorten the prompt or lower --max-new-tokens"
        )
    return {name: value.to(opened.model.device) for name, value in encoded.items()}


def _chat(tokenizer: Any, prompt: str) -> dict[str, Any]:
    ids = chat_ids(tokenizer, [{"role": "user", "content": prompt}])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def encoded_prompt(tokenizer: Any, prompt: str) -> dict[str, Any]:
    """The prompt's tensors [1, tokens], without an end token that the tokenizer itself appends:
    behind it a model continues another text."""
    encoded = dict(tokenizer(prompt, return_tensors="pt", return_token_type_ids=False))
    ids, end = encoded["input_ids"], tokenizer.eos_token_id
    if end is None or ids.shape[1] < 2 or int(ids[0, -1]) != end:
        return encoded
    own = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    appended = not own or own[-1] != end
    return {name: value[:, :-1] if appended else value for name, value in encoded.items()}


def padding_id(opened: Opened) -> int:
    """Returns a padding id. One sequence is never padded, but without an id transformers warns."""
    padding = opened.tokenizer.pad_token_id
    end = opened.model.generation_config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    return next((i for i in (padding, end) if i is not None), 0)
