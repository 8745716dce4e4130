"""Modules that stand where a model's own stood and run from packed blocks.

Each is a `Stack` under the name of the module or parameter it replaces, so that tensors keep the
model's names. `weight` unpacks the whole matrix, for code that asks for it; no forward here does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bitstack.container.blocks import StackSpec
from bitstack.errors import UserError
from bitstack.nn.stack import Stack


class Unpacked(Tensor):
    """A matrix as `weight` gives it: a copy, so writing to its data would change nothing."""

    # What is made of it is a Tensor again.
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


class PackedLinear(Stack, nn.Linear):
    """In place of a Linear or a GPT-2 Conv1D; `bias` is taken over from it.

    A Linear to whoever asks, so that adapters (PEFT) are put on top of it.
    """

    def __init__(self, spec: StackSpec, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__(spec, dtype)
        self.in_features, self.out_features = spec.columns, spec.rows
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.dequantize().to(self.dtype).as_subclass(Unpacked)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)


class PackedEmbedding(Stack):
    """In place of an Embedding of any subclass, whose own forward is kept.

    The original forward is called with only the rows it needs and with ids renumbered to them, so
    that whatever a subclass adds (Gemma's scale) still happens.
    """

    def __init__(self, spec: StackSpec, original: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__(spec, dtype)
        self.num_embeddings, self.embedding_dim = spec.rows, spec.columns
        self.padding_idx = original.padding_idx
        self.plain = type(original) is nn.Embedding
        self.original = None if self.plain else original

    @property
    def weight(self) -> Tensor:
        return self.dequantize().to(self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        if self.original is None:
            return self.gather(ids).to(self.dtype)
        used, compact = ids.unique(return_inverse=True)
        rows = self.gather(used).to(self.dtype)
        return functional_call(self.original, {"weight": rows}, (compact,))


class TiedHead(nn.Module):
    """An LM head that multiplies with the blocks of the embedding it is tied to."""

    def __init__(self, embedding: PackedEmbedding, bias: nn.Parameter | None) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple, or its blocks would be registered twice
        self.in_features, self.out_features = embedding.spec.columns, embedding.spec.rows
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        return self._embedding[0].weight

    def forward(self, x: Tensor) -> Tensor:
        # Several devices: the ends of a model may be apart. While it is tuned it holds no blocks.
        there = next(self._embedding[0].buffers(), x).device
        bias = None if self.bias is None else self.bias.to(there)
        return self._embedding[0].product(x.to(there), bias).to(x.device)


class PackedExperts(nn.ModuleList):
    """In place of a fused 3-D expert parameter: indexing with one expert unpacks that one.

    The experts' own eager forward indexes its parameter expert by expert, whatever it is called.
    """

    def __init__(self, stacks: list[Stack], transposed: bool) -> None:
        super().__init__(stacks)
        self.transposed = transposed

    def __getitem__(self, index: int | Tensor) -> Tensor:  # type: ignore[override]
        stack = self._modules[str(int(index))]
        assert isinstance(stack, Stack)
        value = stack.dequantize().to(stack.dtype)
        return value.T if self.transposed else value

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device
