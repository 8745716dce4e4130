"""Computes attention of the few newest tokens over a cache on the CPU, by the compiled kernels.

torch's own kernel prepares keys and values anew in every call, which for one token takes longer
than the products of its layer. Does not decide which model uses it; see `nn.attention`.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from bitstack.kernels import arguments, dispatch, library, threads

_MOST_NUMBERS = 1 << 16  # of a head, as in cpu/attention.cpp


def can_attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Tells whether `attend` takes these tensors here; a call it cannot take is torch's."""
    tensors = (query, key, value)
    if dispatch.cpu_variant() is None or not all(dispatch.is_eager(t) for t in tensors):
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return False
    alike = all(t.is_cpu and t.dtype == query.dtype and t.dim() == 4 for t in tensors)
    if not alike or not arguments.supports(query.dtype) or not all(map(_is_plain, tensors)):
        return False
    batch, heads, steps, size = query.shape
    tokens, value_size = key.shape[2], value.shape[3]
    fits = key.shape[0] == batch and key.shape[3] == size and key.shape[:3] == value.shape[:3]
    if not fits or 0 in query.shape or 0 in value.shape or heads % key.shape[1]:
        return False
    if max(size, value_size) > _MOST_NUMBERS:
        return False
    return mask is None or _is_mask(mask, (batch, heads, steps, tokens))


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Returns softmax(scaling query keyᵀ) value, computed in fp32: [batch, steps, heads, w].

    Args:
        query: fp32, bf16 or fp16 [batch, heads, steps, d]; last dimension without gaps, as below.
        key: [batch, heads of keys, tokens, d], whose heads serve equally many of the query's.
        value: [batch, heads of keys, tokens, w].
        mask: bool, broadcast to [batch, heads, steps, tokens]: which tokens are seen. A query that
            sees none gets zeros. None: all.

    Raises:
        ValueError: Not what `can_attend` accepts.
    """
    variant = dispatch.cpu_variant()
    if variant is None or not can_attend(query, key, value, mask):
        raise ValueError("attention: cannot be computed of these tensors here: see can_attend")
    batch, heads, steps, size = query.shape
    out = query.new_empty(batch, steps, heads, value.shape[3])
    if mask is not None:
        mask = mask.expand(batch, heads, steps, key.shape[2])
    sizes = library.AttentionSizes(
        batch, key.shape[1], heads // key.shape[1], steps, key.shape[2], size, value.shape[3],
        _strides(query), _strides(key), _strides(value),
        (0, 0, 0) if mask is None else _strides(mask), scaling,
    )  # fmt: skip
    functions = library.load()
    assert functions is not None, "a variant was chosen, but none was built"
    code = functions.bitstack_attention(
        variant.index,
        ctypes.addressof(sizes),
        ctypes.sizeof(sizes),
        *_extent(query),
        *_extent(key),
        *_extent(value),
        *((0, 0) if mask is None else _extent(mask)),
        out.data_ptr(),
        out.numel(),
        arguments.number_of(query.dtype),
        threads.count(),
    )
    if code:
        library.fail(code)
    return out


def _is_plain(tensor: Tensor) -> bool:
    return (tensor.stride(3) == 1 or tensor.shape[3] == 1) and not tensor.is_neg()


def _is_mask(mask: Tensor, shape: Sequence[int]) -> bool:
    if (
        mask.dtype != torch.bool
        or mask.dim() != 4
        or not mask.is_cpu
        or not dispatch.is_eager(mask)
    ):
        return False
    along = mask.shape[3] == shape[3] and (mask.stride(3) == 1 or shape[3] == 1)
    return along and all(own in (1, full) for own, full in zip(mask.shape, shape, strict=True))


def _strides(tensor: Tensor) -> tuple[int, int, int]:
    first, second, third, _ = tensor.stride()
    return first, second, third


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Address, and numbers from the first to the last one."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.data_ptr(), 1 + sum((size - 1) * stride for size, stride in steps)
