"""Verification of drafted tokens that gives what one token at a time would have given, bit for bit.

Greedy text must not depend on who drafted it, but a bf16 model has many near ties, and two things
of a plain forward over several tokens round otherwise: attention, and a prompt that is processed
together with its first draft. Both are done here as without a draft. Products, norms and whatever
else works token by token are left alone: few tokens give the CPU kernels' result of one.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "sdpa_by_token"
_lock = threading.Lock()
_verifies = threading.local()  # .now: whether this thread is verifying


def attention_by_token(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa attention; while verifying, one query token [1, heads, 1, size] at a time.

    Each sees the keys that its row of the mask allows, as it would if it came alone.
    """
    several = query.shape[2] > 1 and attention_mask is not None
    if not (several and getattr(_verifies, "now", False)):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    outputs = []
    for i, (begin, end) in enumerate(_ranges(attention_mask)):
        keys, values = key[:, :, begin:end], value[:, :, begin:end]
        token = query[:, :, i : i + 1]
        outputs.append(sdpa_attention_forward(module, token, keys, values, None, **kwargs)[0])
    return torch.cat(outputs, 1), None


def _ranges(mask: Tensor | None) -> list[tuple[int, int]]:
    """First and behind-last key of every query in a boolean mask [1, 1, queries, keys]."""
    assert mask is not None
    allowed = mask[0, 0].int()
    first, count = allowed.argmax(-1), allowed.sum(-1)
    return list(zip(first.tolist(), (first + count).tolist(), strict=True))


AttentionInterface.register(_NAME, attention_by_token)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextmanager
def verifying(model: Any, prompt: int) -> Iterator[None]:
    """Within it, this thread's forwards of `model` verify drafts of a text of `prompt` tokens.

    Other threads' forwards are what they were. A model with another attention than sdpa keeps it.
    """
    split = _Split(prompt)
    hooks = [
        model.register_forward_pre_hook(split.before, with_kwargs=True),
        model.register_forward_hook(split.after),
    ]
    with _attention(model):
        _verifies.now = True
        try:
            yield
        finally:
            _verifies.now = False
            for hook in hooks:
                hook.remove()


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    """The attention of `model` by token, until the last of all that asked for it has ended."""
    with _lock:
        users = getattr(model, "_verifying", 0)
        ours = users > 0 or model.config._attn_implementation == "sdpa"
        if ours:
            model._verifying = users + 1
            model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        with _lock:
            if ours:
                model._verifying -= 1
                if not model._verifying:
                    model.set_attn_implementation("sdpa")


class _Split:
    """The first forward of an assisted generation, prompt and draft in one, made two."""

    def __init__(self, prompt: int) -> None:
        self.prompt, self.thread = prompt, threading.get_ident()
        self.last: Tensor | None = None  # logits of the prompt's last token [1, 1, vocabulary]

    def before(
        self, model: Any, args: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        ids, cache = given.get("input_ids"), given.get("past_key_values")
        if threading.get_ident() != self.thread or args or ids is None or cache is None:
            return None
        total = ids.shape[1]
        if cache.get_seq_length() or not 0 < self.prompt < total:
            return None
        of_tokens = [k for k, v in given.items() if _length(v) == total]
        first = {k: given[k][..., : self.prompt] for k in of_tokens}
        rest = {k: given[k][..., self.prompt :] for k in of_tokens if k != "attention_mask"}
        keep = {"logits_to_keep": 1} if "logits_to_keep" in given else {}
        self.last = model.forward(**given | first | keep).logits[:, -1:]
        keep = {"logits_to_keep": total - self.prompt} if keep else {}
        return args, given | rest | keep

    def after(self, model: Any, args: tuple[Any, ...], output: Any) -> Any:
        if threading.get_ident() != self.thread or self.last is None:
            return None
        output.logits = torch.cat([self.last, output.logits], 1)
        self.last = None
        return output


def _length(value: Any) -> int | None:
    """Tokens of a per-token argument [..., tokens] of one sequence."""
    return value.shape[-1] if isinstance(value, Tensor) and value.ndim in (1, 2) else None
