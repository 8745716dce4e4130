"""Verifies drafted tokens so that greedy text is the same as without drafts, bit for bit.

A bf16 model has many near ties, and two parts of a forward over several tokens round differently
from one token at a time: attention, and a prompt that runs together with its first draft. While
verifying, attention runs token by token, and the prompt by itself. Products, norms and whatever
else works on each token alone stay as they are: the CPU kernels give the same result for a few
tokens as for one. Does not draft; see `live.draft`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

_NAME = "sdpa_by_token"
_lock = threading.Lock()
_thread = threading.local()  # .verifying: whether this thread verifies drafts


def attention_by_token(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Computes transformers' sdpa attention; while verifying, one query token at a time.

    Args:
        module: The attention module.
        query: [1, heads, queries, head size].
        key: [1, key heads, keys, head size].
        value: As `key`.
        attention_mask: Boolean [1, 1, queries, keys]; each query sees the keys that its row
            allows, as if it came alone.
        kwargs: As in transformers.

    Returns:
        [1, queries, heads, head size], and None for the attention weights.
    """
    sdpa: Any = AttentionInterface()["sdpa"]  # of steps, the kernel; see `nn.attention`
    several = query.shape[2] > 1 and attention_mask is not None
    if not (several and getattr(_thread, "verifying", False)):
        return sdpa(module, query, key, value, attention_mask, **kwargs)
    outputs = []
    for i, (begin, end) in enumerate(_key_ranges(attention_mask)):
        # Copies, laid out as those of a single token: the last bits of a sum depend on the layout.
        keys, values = (x[:, :, begin:end].contiguous() for x in (key, value))
        token = query[:, :, i : i + 1].contiguous()
        outputs.append(sdpa(module, token, keys, values, None, **kwargs)[0])
    return torch.cat(outputs, 1), None


def _key_ranges(mask: Tensor | None) -> list[tuple[int, int]]:
    """Returns, for every query of a boolean mask [1, 1, queries, keys], its first key and one past
    its last."""
    assert mask is not None
    allowed = mask[0, 0].int()  # causal and sliding masks allow one run of keys
    first, count = allowed.argmax(-1), allowed.sum(-1)
    return list(zip(first.tolist(), (first + count).tolist(), strict=True))


AttentionInterface.register(_NAME, attention_by_token)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextmanager
def verifying(model: Any, prompt_tokens: int) -> Iterator[None]:
    """Makes this thread's forwards of `model` verify drafts, until the context ends.

    Forwards of other threads do not change. A model with another attention than sdpa keeps it.

    Args:
        model: A transformers model.
        prompt_tokens: Tokens of the prompt, which run without the first draft.
    """
    prompt_first = _PromptFirst(prompt_tokens)
    hooks = [
        model.register_forward_pre_hook(prompt_first.before, with_kwargs=True),
        model.register_forward_hook(prompt_first.after),
    ]
    with _attention_by_token(model):
        _thread.verifying = True
        try:
            yield
        finally:
            _thread.verifying = False
            for hook in hooks:
                hook.remove()


@contextmanager
def _attention_by_token(model: Any) -> Iterator[None]:
    """Sets `attention_by_token` on a model with sdpa, until the last thread that verifies ends."""
    with _lock:
        users = getattr(model, "_verifying", 0)
        replaces = users > 0 or model.config._attn_implementation == "sdpa"
        if replaces:
            model._verifying = users + 1
            model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        with _lock:
            if replaces:
                model._verifying -= 1
                if not model._verifying:
                    model.set_attn_implementation("sdpa")


class _PromptFirst:
    """Two hooks that part the first forward, of prompt and draft together, into two."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens, self.thread = prompt_tokens, threading.get_ident()
        self.last_logits: Tensor | None = None  # of the prompt's last token [1, 1, vocabulary]

    def before(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Runs the prompt, and leaves the draft to the forward that follows."""
        ids, cache = kwargs.get("input_ids"), kwargs.get("past_key_values")
        if threading.get_ident() != self.thread or args or ids is None or cache is None:
            return None
        total = ids.shape[1]
        if cache.get_seq_length() or not 0 < self.prompt_tokens < total:
            return None
        per_token = [k for k, v in kwargs.items() if _tokens(v) == total]
        prompt = {k: kwargs[k][..., : self.prompt_tokens] for k in per_token}
        # The attention mask stays whole: it covers the tokens in the cache, too.
        draft = {
            k: kwargs[k][..., self.prompt_tokens :] for k in per_token if k != "attention_mask"
        }
        keep = {"logits_to_keep": 1} if "logits_to_keep" in kwargs else {}
        self.last_logits = model.forward(**kwargs | prompt | keep).logits[:, -1:]
        keep = {"logits_to_keep": total - self.prompt_tokens} if keep else {}
        return args, kwargs | draft | keep

    def after(self, model: Any, args: tuple[Any, ...], output: Any) -> Any:
        """Puts the logits of the prompt's last token before those of the draft."""
        if threading.get_ident() != self.thread or self.last_logits is None:
            return None
        output.logits = torch.cat([self.last_logits, output.logits], 1)
        self.last_logits = None
        return output


def _tokens(value: Any) -> int | None:
    """Returns the tokens of a per-token argument [..., tokens] of one sequence."""
    return value.shape[-1] if isinstance(value, Tensor) and value.ndim in (1, 2) else None
