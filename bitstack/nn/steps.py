"""Gives every forward of a packed model its threads and attention; frees memory of long forwards.

A step is a forward of few tokens on the CPU, as in generation. Nearly all its work is in the coded
products. What is left to torch's own operators is small, as long as no large matrix is dense and
no long cache has to be read: then one thread does it (see `kernels.threads`). After other forwards
the panels of `kernels.matmul` are freed, since steps do not use them. Does not wait for other
forwards; see `live.guard`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from bitstack.kernels.eager import MATMUL_FROM
from bitstack.kernels.matmul import release
from bitstack.kernels.threads import torch_threads
from bitstack.nn.attention import attention_of_steps

_LARGE = 1 << 20  # weights from which the product of a dense matrix needs all threads
_LONG = 4096  # tokens of KV cache above which reading it needs all threads


@contextmanager
def resources_of_forward(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[None]:
    """Surrounds one call of a causal language model with the arguments `args` and `kwargs`."""
    step = _is_step(args, kwargs)
    attention = attention_of_steps() if step else nullcontext()
    with torch_threads(single=step and is_packed_whole(model)), attention:
        try:
            yield
        finally:
            if not step:
                release()


def threads_of_generate(model: nn.Module) -> AbstractContextManager[None]:
    """Surrounds transformers' `generate`, whose small work between forwards gets one thread."""
    return torch_threads(single=model.device.type == "cpu" and is_packed_whole(model))


def is_packed_whole(model: nn.Module) -> bool:
    """Tells whether all large products of `model` are coded ones; looks only once at a model."""
    whole = model.__dict__.get("_packed_whole")
    if whole is None:
        dense = any(p.ndim > 1 and p.numel() >= _LARGE for p in model.parameters())
        whole = model.__dict__["_packed_whole"] = not dense
    return bool(whole)


def _is_step(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    ids = args[0] if args else kwargs.get("input_ids")
    if ids is None:
        embedded = kwargs.get("inputs_embeds")
        ids = None if embedded is None else embedded[..., 0]
    if not isinstance(ids, Tensor) or ids.device.type != "cpu" or ids.numel() >= MATMUL_FROM:
        return False
    cache = kwargs.get("past_key_values")
    cached = 0 if cache is None else cache.get_seq_length()
    return ids.shape[0] * cached <= _LONG  # summed over the batch
