"""Defines the modules that replace a model's own and run from packed blocks.

Each is a `Stack`, or `RowParts`, under the name of the module or parameter it replaces, so that
tensors keep the model's names. `weight` unpacks the whole matrix for code that reads it; no forward
here does. Does not put the modules into a model; see `nn.replace`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bitstack.container.blocks import StackSpec
from bitstack.errors import UserError
from bitstack.nn.row_parts import RowParts
from bitstack.nn.stack import Stack


class Unpacked(Tensor):
    """The matrix as `weight` returns it: a copy, so writing to its data raises UserError."""

    # Operations on it return a plain Tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> Any:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        raise UserError(
            "weight of a packed module: is made of its blocks and cannot be written; to merge an "
            "adapter, load it on the dense model that `bitstack.export` writes"
        )


class _LinearForward:
    """What a Linear from packed blocks has, whether these are one stack or several parts."""

    product: Callable[[Tensor, Tensor | None], Tensor]
    dequantize: Callable[[], Tensor]
    dtype: torch.dtype
    bias: nn.Parameter | None

    @property
    def weight(self) -> Tensor:
        """The matrix [out_features, in_features] in the model's dtype, unpacked."""
        return self.dequantize().to(self.dtype).as_subclass(Unpacked)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)


class PackedLinear(_LinearForward, Stack, nn.Linear):  # type: ignore[misc, override]
    """Replaces a Linear or a GPT-2 Conv1D, whose `bias` it takes over.

    It is a subclass of Linear, so that adapters (PEFT) can be put on top of it.
    """

    def __init__(self, spec: StackSpec, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__(spec, dtype)
        self.in_features, self.out_features = spec.columns, spec.rows
        self.register_parameter("bias", bias)


class PartedLinear(_LinearForward, RowParts, nn.Linear):  # type: ignore[misc, override]
    """Replaces the Linear of an LM head that is stored in parts of some rows."""

    def __init__(
        self, specs: Sequence[StackSpec], bias: nn.Parameter | None, dtype: torch.dtype
    ) -> None:
        super().__init__(specs, dtype)
        self.in_features, self.out_features = self.columns, self.rows
        self.register_parameter("bias", bias)


class _EmbeddingForward:
    """What an Embedding from packed blocks has, whether these are one stack or several parts.

    It replaces an Embedding, or one of a subclass, whose own forward is kept. That forward is
    called with only the rows it needs and with ids renumbered to them, so that whatever the
    subclass adds (Gemma multiplies by a scale) still happens.
    """

    gather: Callable[[Tensor], Tensor]
    dequantize: Callable[[], Tensor]
    dtype: torch.dtype

    def _take_over(self, original: nn.Embedding, rows: int, columns: int) -> None:
        self.num_embeddings, self.embedding_dim = rows, columns
        self.padding_idx = original.padding_idx
        self.original = None if type(original) is nn.Embedding else original
        for name, part in original.named_children():  # a norm behind it: under the model's name too
            setattr(self, name, part)

    @property
    def weight(self) -> Tensor:
        return self.dequantize().to(self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        if self.original is None:
            return self.gather(ids).to(self.dtype)
        used, compact = ids.unique(return_inverse=True)
        rows = self.gather(used).to(self.dtype)
        return functional_call(self.original, {"weight": rows}, (compact,))


class PackedEmbedding(_EmbeddingForward, Stack):
    """Replaces an Embedding by one stack."""

    def __init__(self, spec: StackSpec, original: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__(spec, dtype)
        self._take_over(original, spec.rows, spec.columns)


class PartedEmbedding(_EmbeddingForward, RowParts):
    """Replaces an Embedding by parts of some rows, each a stack."""

    def __init__(
        self, specs: Sequence[StackSpec], original: nn.Embedding, dtype: torch.dtype
    ) -> None:
        super().__init__(specs, dtype)
        self._take_over(original, self.rows, self.columns)


class TiedHead(nn.Module):
    """An LM head that multiplies with the blocks of the embedding it is tied to."""

    def __init__(
        self, embedding: PackedEmbedding | PartedEmbedding, bias: nn.Parameter | None
    ) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple, or its blocks would be registered twice
        self.in_features = embedding.embedding_dim
        self.out_features = embedding.num_embeddings
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        return self._embedding[0].weight

    def forward(self, x: Tensor) -> Tensor:
        # The embedding may be on another device. During tuning it holds no blocks: then x's device.
        device = next(self._embedding[0].buffers(), x).device
        bias = None if self.bias is None else self.bias.to(device)
        return self._embedding[0].product(x.to(device), bias).to(x.device)
