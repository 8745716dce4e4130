"""Lets steps of a packed model take the attention of `kernels.attention`.

transformers looks attention up by name in a registry. The entry "sdpa" is replaced by one that
takes the kernel within a step, on the calling thread, and is torch's as before everywhere else. A
name of our own would not do: some models ask whether the name is "sdpa". Does not know which
forwards are steps; see `nn.steps`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from bitstack.kernels.attention import attend, can_attend

_within = threading.local()  # .step: whether this thread runs a step


@contextmanager
def attention_of_steps() -> Iterator[None]:
    """Within it, attention called on this thread is that of a step."""
    _replace()
    before = getattr(_within, "step", False)
    _within.step = True
    try:
        yield
    finally:
        _within.step = before


@cache
def _replace() -> None:
    """Replaces the registry's entry, once."""
    torch_attention = AttentionInterface()["sdpa"]

    @wraps(torch_attention)
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if getattr(_within, "step", False) and _is_plain(options):
            scaling = options.get("scaling")
            scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
            mask = _mask(module, query, key, attention_mask, options.get("is_causal"))
            if mask is not _UNKNOWN and can_attend(query, key, value, mask):
                return attend(query, key, value, mask, scaling), None
        result: tuple[Tensor, None] = torch_attention(
            module, query, key, value, attention_mask, **options
        )
        return result

    AttentionInterface.register("sdpa", attention)


# Options of a call that change what is computed, and at which values they do not.
_NEUTRAL = {
    "dropout": 0.0,
    "softcap": None,
    "position_bias": None,
    "cache": None,
    "s_aux": None,
    "output_attentions": False,
}


_UNKNOWN = torch.zeros(0)  # stands for a mask that is not made here


def _is_plain(options: dict[str, Any]) -> bool:
    """Tells whether a call computes a softmax over products of queries and keys, nothing else."""
    return all(options.get(name) in (None, value) for name, value in _NEUTRAL.items())


def _mask(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool | None
) -> Tensor | None:
    """Returns which tokens each query sees, None for all; as transformers' "sdpa" decides it."""
    steps, tokens = query.shape[2], key.shape[2]
    if mask is not None or steps == 1:
        return mask
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        return None
    return _triangle(steps) if steps == tokens else _UNKNOWN


@cache
def _triangle(size: int) -> Tensor:
    return torch.ones(1, 1, size, size, dtype=torch.bool).tril()
