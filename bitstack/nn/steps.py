"""Which forwards of a packed model are steps of few tokens, and what they get and leave behind.

In a step nearly all work is in the coded products. What is left to torch's own operators is small,
as long as no large matrix is dense and no long cache has to be read: then one thread does it (see
`kernels.threads`). Other forwards leave nothing behind that the steps after them do not need.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from bitstack.kernels.matmul import release
from bitstack.kernels.ops import MATMUL_FROM
from bitstack.kernels.threads import torch_takes
from bitstack.nn.modules import PackedExperts

_LARGE = 1 << 20  # weights of a dense matrix whose product wants more than one thread
_LONG = 4096  # tokens of cache whose reading does


@contextmanager
def resources_of_forward(
    model: nn.Module, args: Sequence[Any], given: Mapping[str, Any]
) -> Iterator[None]:
    """For one call of a causal language model with these arguments."""
    step = _is_step(args, given)
    with torch_takes(step and is_packed_whole(model)):
        try:
            yield
        finally:
            if not step:
                release()


def threads_of_generate(model: nn.Module) -> AbstractContextManager[None]:
    """For what transformers' `generate` does between the forwards; its prompt takes all threads."""
    return torch_takes(model.device.type == "cpu" and is_packed_whole(model))


def is_packed_whole(model: nn.Module) -> bool:
    """Whether all large products of `model` are coded ones; found once a model."""
    found = model.__dict__.get("_packed_whole")
    if found is None:
        dense = any(p.ndim > 1 and p.numel() >= _LARGE for p in model.parameters())
        unpacked = any(isinstance(m, PackedExperts) for m in model.modules())
        found = model.__dict__["_packed_whole"] = not (dense or unpacked)
    return bool(found)


def _is_step(args: Sequence[Any], given: Mapping[str, Any]) -> bool:
    ids = args[0] if args else given.get("input_ids")
    if ids is None:
        embedded = given.get("inputs_embeds")
        ids = None if embedded is None else embedded[..., 0]
    if not isinstance(ids, Tensor) or ids.device.type != "cpu" or ids.numel() >= MATMUL_FROM:
        return False
    cache = given.get("past_key_values")
    cached = 0 if cache is None else cache.get_seq_length()
    return ids.shape[0] * cached <= _LONG
