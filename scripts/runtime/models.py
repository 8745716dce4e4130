"""Makes what `bench_runtime.py` times: a shape, and the dense model that computes what a packed one
does. Does not time anything; see `runtime.timing`.
"""

from typing import Any

import torch
from transformers import LlamaConfig

from bitstack.machine.sizes import format_bytes
from bitstack.nn.assemble import fill
from bitstack.original.skeleton import skeleton, tie
from runtime.timing import prompt


def llama_1b() -> LlamaConfig:
    """Returns the config of a model with the shape of Llama-3.2-1B."""
    return LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
        max_position_embeddings=131_072, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def dense_twin(model: Any) -> Any:
    """Returns the dense model that computes the same as `model` at its present levels."""
    config = type(model.config).from_dict(
        {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    )
    twin = skeleton(config, model.dtype)
    manifest = model.bitstack.manifest
    for entry, stack in zip(manifest.stacks, model.bitstack.stacks, strict=True):
        fill(twin, entry.parameter, stack.dequantize().to(stack.dtype))
    for entry in manifest.dense:
        if entry.persistent:
            fill(twin, entry.name, model.get_parameter(entry.name))
    tie(twin)
    return twin


@torch.inference_mode()
def check_twin(model: Any, twin: Any) -> None:
    """Checks that both compute the same, or their times would not compare."""
    ids = prompt(model, 8)
    ours, theirs = model(ids).logits.float(), twin(ids).logits.float()
    error = float((ours - theirs).norm() / theirs.norm())
    assert error < 0.05, f"the dense model computes something else: {error}"


def resize(model: Any, level: int) -> str:
    """Resizes all stacks to `level` planes; returns what it takes, for a table."""
    budgets = model.bitstack.manifest.budgets
    model.bitstack.resize(budgets.resident_bytes([level] * len(model.bitstack.stacks)))
    size = format_bytes(model.bitstack.resident_bytes)
    return f"{model.bitstack.bits_per_weight:.2f} bits a weight, {size}"
