"""Counts the FLOPs and the bytes moved of one generated token on the model's own modules.

Matrix products are found by structure: every module with `in_features` and `out_features`, every
other 2-D weight (Conv1D, routers), every fused 3-D expert tensor at its active share. A module that
computes in another way gives its FLOPs as `operations_per_token`. Bytes are those of the tensors in
memory, so a packed model counts its blocks. Attention is read from the config; see
`metrics.capacity.attention_cost`. Norms, activations, softmax and biases are left out, as is usual
(they are under 1%). Does not run or load the model: one on the meta device will do. For time see
`metrics.capacity.decode_speed`.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from bitstack.container.blocks import StackSpec
from bitstack.errors import UserError
from bitstack.metrics.capacity.attention_cost import attention_layers
from bitstack.original.attention_facts import published_sizes
from bitstack.original.config_facts import active_experts, expert_counts


@dataclass(frozen=True)
class TokenCost:
    """Cost of one generated token, the mean over `tokens` tokens after a prompt of `context`.

    A multiply-add counts as 2 FLOPs. Every byte counts once per token.
    """

    context: int  # tokens
    tokens: int
    linear_flops: float  # of all products but the LM head
    attention_flops: float  # of scores and weighted sums
    head_flops: float  # of the LM head
    weight_bytes: float  # all weights in use, and one row of the embedding
    cache_bytes: float  # of the KV cache, read or written

    @property
    def flops(self) -> float:
        """All FLOPs of a token."""
        return self.linear_flops + self.attention_flops + self.head_flops

    @property
    def bytes_moved(self) -> float:
        """All bytes that a token moves between memory and processor."""
        return self.weight_bytes + self.cache_bytes


def token_cost(model: PreTrainedModel, *, context: int = 0, tokens: int = 1) -> TokenCost:
    """Counts the mean cost of a token that is generated with a KV cache.

    Args:
        model: A causal language model, dense or packed; the meta device will do.
        context: Tokens of the prompt.
        tokens: Generated tokens, over which the mean is taken. A token attends to itself too.

    Raises:
        UserError: `context` or `tokens` is out of range, or the cost is not defined: no attention
            heads in the config, a layer without softmax attention, experts without a number of
            active ones.
    """
    if context < 0 or tokens < 1:
        raise UserError(f"context {context}, tokens {tokens}: context is ≥ 0 and tokens ≥ 1")
    layers = attention_layers(model.config)
    head = _head(model)
    parts = list(_parts(model, _Structure(model), 1.0))
    return TokenCost(
        context=context,
        tokens=tokens,
        linear_flops=sum(part.flops for part in parts),
        attention_flops=sum(layer.flops(context, tokens) for layer in layers),
        head_flops=head.flops,
        weight_bytes=sum(part.bytes for part in parts) + head.bytes,
        cache_bytes=model.dtype.itemsize * sum(c.cache_numbers(context, tokens) for c in layers),
    )


def published_flops(config: PretrainedConfig, length: int = 1024) -> float:
    """Computes FLOPs per generated token as the published code of information capacity does.

    `layers·[4d² + 4d·kv + 6d·ffn + 2·heads·head_dim·(length−1)] + 2d·V`, the mean over `length`
    tokens from an empty cache (arXiv 2511.08066, flops.py of its repository). As there, head_dim is
    d // heads whatever the config says, and all feed-forward layers are dense and gated.

    Args:
        config: Config of the model.
        length: Tokens over which the mean is taken.

    Raises:
        UserError: the config lacks one of the sizes, or has latent attention.
    """
    size = published_sizes(config)
    d, heads = size["hidden_size"], size["num_attention_heads"]
    head_dim = d // heads
    kv = head_dim * size["num_key_value_heads"]
    layer = 4 * d * d + 4 * d * kv + 6 * d * size["intermediate_size"]
    layer += 2 * heads * head_dim * (length - 1)
    return float(size["num_hidden_layers"] * layer + 2 * d * size["vocab_size"])


def module_bytes(module: nn.Module) -> int:
    """Returns the bytes of the parameters and buffers of `module`, each tensor once."""
    return _bytes([*module.parameters(), *module.buffers()])


@dataclass(frozen=True)
class _Part:
    """Cost of one token in one module, times the share of tokens that use it."""

    flops: float
    bytes: float


class _Structure:
    """Facts of the whole model that the walk over its modules needs."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = model.config
        self.head = model.get_output_embeddings()
        # The layers are the largest list of modules; other lists may be sets of experts.
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        self.layers = max(lists, key=module_bytes, default=None)
        self.experts = expert_counts(model.config)

    def share(self, module: nn.Module) -> float:
        """Returns the share of a set of experts that one token uses; 1 for any other module."""
        fused = [p.shape[0] for p in module.parameters(recurse=False) if p.ndim == 3]
        if isinstance(module, nn.ModuleList) and module is not self.layers:
            fused = [len(module)] if len(module) in self.experts else []
        if not fused or isinstance(module, nn.Conv1d):
            return 1.0
        return self.active() / fused[0]

    def active(self) -> int:
        count = active_experts(self.config)
        if count is None:
            raise UserError(
                f"config of {self.config.model_type!r} does not say how many experts a token uses: "
                "FLOPs per token are not defined"
            )
        return count


def _parts(module: nn.Module, structure: _Structure, share: float) -> Iterator[_Part]:
    """Yields the cost of every part of `module` except the LM head."""
    if module is structure.head:
        return
    if hasattr(module, "num_embeddings"):  # one row is read, nothing is multiplied
        yield _Part(0, share * module_bytes(module) / int(module.num_embeddings))  # type: ignore[arg-type]
        return
    operations = _unit_operations(module)
    if operations is not None:
        yield _Part(share * operations, share * module_bytes(module))
        return
    share *= structure.share(module)
    own = list(module.parameters(recurse=False))
    yield _Part(share * _plain_operations(own), share * _bytes(own))
    for child in module.children():
        yield from _parts(child, structure, share)


def _unit_operations(module: nn.Module) -> int | None:
    """Returns the FLOPs of a module that is one product, dense or packed; None for another."""
    operations = getattr(module, "operations_per_token", None)
    if isinstance(operations, int):
        return operations
    spec = getattr(module, "spec", None)
    if isinstance(spec, StackSpec):  # sums of `rank` signed products a block, or one coded product
        products = int(module.level) * spec.rank if spec.format == "signs" else 1  # type: ignore[arg-type]
        return 2 * spec.rows * spec.columns * products
    names = ("out_features", "in_features")
    sizes = [size for name in names if isinstance(size := getattr(module, name, None), int)]
    return 2 * math.prod(sizes) if len(sizes) == 2 else None


def _plain_operations(parameters: list[nn.Parameter]) -> int:
    """Returns the FLOPs of weights that a module multiplies by itself."""
    # Beside fused 3-D experts, 2-D parameters are their biases.
    cubes = [p.numel() for p in parameters if p.ndim == 3]
    return 2 * sum(cubes or (p.numel() for p in parameters if p.ndim == 2))


def _head(model: PreTrainedModel) -> _Part:
    """Returns the cost of the LM head; one without own tensors reads the tied embedding."""
    head = model.get_output_embeddings()
    operations = None if head is None else _unit_operations(head)
    if head is None or operations is None:
        raise UserError(f"{type(model).__name__} has no LM head: it generates no tokens")
    return _Part(operations, module_bytes(head) or module_bytes(model.get_input_embeddings()))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
