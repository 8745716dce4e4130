"""Operations and bytes of one generated token, counted on the model's own modules.

Products are found by structure: every module with `in_features` and `out_features`, every other
2-D weight (Conv1D, routers), every fused 3-D expert tensor at its active share. A module that runs
otherwise may say so with `operations_per_token`; bytes are those of the tensors really held, so a
packed model counts its blocks. Attention comes from the config: grouped queries, latent attention,
windows, chunks. Norms, activations, softmax and biases are left out, as is usual (they are under
1%). Nothing is run or loaded: a model on the meta device does. Time is `decode_speed`'s business.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from bitstack.container.blocks import StackSpec
from bitstack.errors import UserError
from bitstack.metrics.capacity.attention_cost import attention_layers

ACTIVE_EXPERTS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
)


@dataclass(frozen=True)
class TokenCost:
    """One generated token, the mean over `tokens` of them that follow a prompt of `context`.

    FLOPs count 2 for a multiply-add. Bytes are read once per token: weights, one embedding row,
    and the KV cache read and written.
    """

    context: int
    tokens: int
    linear_flops: float
    attention_flops: float
    head_flops: float
    weight_bytes: float
    cache_bytes: float

    @property
    def flops(self) -> float:
        return self.linear_flops + self.attention_flops + self.head_flops

    @property
    def bytes_moved(self) -> float:
        return self.weight_bytes + self.cache_bytes


def token_cost(model: PreTrainedModel, *, context: int = 0, tokens: int = 1) -> TokenCost:
    """Cost per token of generating `tokens` tokens one by one after a prompt of `context`.

    The token itself is among the keys it attends to. Raises UserError where the cost is not
    defined here: no attention heads in the config, layers without softmax attention, experts
    without a number of active ones.
    """
    if context < 0 or tokens < 1:
        raise UserError(f"context {context}, tokens {tokens}: context is ≥ 0 and tokens ≥ 1")
    layers = attention_layers(text_config(model))
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
    """FLOPs per generated token as information capacity's published code counts them.

    `layers·[4d² + 4d·kv + 6d·ffn + 2·heads·head_dim·(length−1)] + 2d·V`, the mean over `length`
    tokens from an empty cache, with head_dim = d // heads whatever the config says, and all
    feed-forward layers dense and gated (arXiv 2511.08066, its repository's flops.py). Raises
    UserError for a config that lacks one of these or has latent attention.
    """
    config = config.get_text_config()
    layers, d = _field(config, "num_hidden_layers"), _field(config, "hidden_size")
    heads, ffn = _field(config, "num_attention_heads"), _field(config, "intermediate_size")
    if getattr(config, "kv_lora_rank", None):
        raise UserError(
            "latent attention (kv_lora_rank): the published count takes it from the model's name "
            "and is not defined here; use the variant 'bytes'"
        )
    head_dim = d // heads
    kv = head_dim * (getattr(config, "num_key_value_heads", None) or heads)
    layer = 4 * d * d + 4 * d * kv + 6 * d * ffn + 2 * heads * head_dim * (length - 1)
    return float(layers * layer + 2 * d * _field(config, "vocab_size"))


def text_config(model: Any) -> PretrainedConfig:
    """The config of the language model, also where it is one part of a larger model."""
    config: PretrainedConfig = model.config.get_text_config()
    return config


def module_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers that `module` holds, each once."""
    return _bytes([*module.parameters(), *module.buffers()])


def _field(config: PretrainedConfig, name: str) -> int:
    value = getattr(config, name, None)
    if not isinstance(value, int) or value < 1:
        raise UserError(
            f"config of {config.model_type!r} has no {name}: the published FLOPs are not defined "
            "here; use the variant 'bytes'"
        )
    return value


@dataclass(frozen=True)
class _Part:
    """What one token costs in one module, its share of use already taken."""

    flops: float
    bytes: float


class _Structure:
    """What the walk has to know of the whole model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = text_config(model)
        self.head = model.get_output_embeddings()
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        self.layers = max(lists, key=module_bytes, default=None)
        names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
        self.experts = {getattr(self.config, name, None) for name in names} - {None}

    def share(self, module: nn.Module) -> float:
        """The share of a set of experts that one token uses; 1 for any other module."""
        fused = [p.shape[0] for p in module.parameters(recurse=False) if p.ndim == 3]
        if isinstance(module, nn.ModuleList) and module is not self.layers:
            fused = [len(module)] if len(module) in self.experts else []
        if not fused or isinstance(module, nn.Conv1d):
            return 1.0
        return self.active() / fused[0]

    def active(self) -> int:
        for name in ACTIVE_EXPERTS:
            if isinstance(getattr(self.config, name, None), int):
                return int(getattr(self.config, name))
        raise UserError(
            f"config of {self.config.model_type!r} does not say how many experts a token uses "
            f"({', '.join(ACTIVE_EXPERTS)}): FLOPs per token are not defined"
        )


def _parts(module: nn.Module, structure: _Structure, share: float) -> Iterator[_Part]:
    """Every part of `module` that one token uses, but the LM head."""
    if module is structure.head:
        return
    if hasattr(module, "num_embeddings"):
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
    """FLOPs of a module that is one product, dense or packed; None for anything else."""
    offered = getattr(module, "operations_per_token", None)
    if isinstance(offered, int):
        return offered
    spec = getattr(module, "spec", None)
    if isinstance(spec, StackSpec):  # sums of `rank` signed products a block, or one coded product
        products = int(module.level) * spec.rank if spec.format == "signs" else 1  # type: ignore[arg-type]
        return 2 * spec.rows * spec.columns * products
    names = ("out_features", "in_features")
    sizes = [size for name in names if isinstance(size := getattr(module, name, None), int)]
    return 2 * math.prod(sizes) if len(sizes) == 2 else None


def _plain_operations(parameters: list[nn.Parameter]) -> int:
    """FLOPs of weights used directly. Beside fused experts, what is 2-D is their biases."""
    cubes = [p.numel() for p in parameters if p.ndim == 3]
    return 2 * sum(cubes or (p.numel() for p in parameters if p.ndim == 2))


def _head(model: PreTrainedModel) -> _Part:
    """The LM head; one that holds nothing itself reads the embedding it is tied to."""
    head = model.get_output_embeddings()
    operations = None if head is None else _unit_operations(head)
    if head is None or operations is None:
        raise UserError(f"{type(model).__name__} has no LM head: it generates no tokens")
    return _Part(operations, module_bytes(head) or module_bytes(model.get_input_embeddings()))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
