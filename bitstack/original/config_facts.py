"""Reads from a model's config what this project needs of it, whatever the model calls it.

A composite config (text and images) answers for its language model. Does not read what only the
model's code decides, such as the size of its KV cache; see `original.dry_pass`.
"""

from typing import Any

from transformers import PretrainedConfig

from bitstack.errors import UserError

# Names of the longest text that a model can read, in the order in which they count.
_POSITIONS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_target_positions",
    "max_sequence_length",
)  # fmt: skip
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
_INNER = ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "ffn_hidden_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE_EXPERTS = (
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k",
    "top_k_experts",
)  # fmt: skip


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Returns the part of `config` that describes the language model."""
    return config.get_text_config(decoder=True) if isinstance(config, PretrainedConfig) else config


def positions(config: PretrainedConfig) -> int | None:
    """Returns the most tokens the model reads at once; None if its config names no limit."""
    return _first(text_config(config), _POSITIONS)


def width(config: PretrainedConfig) -> int:
    """Returns the numbers of one token's hidden state.

    Raises:
        UserError: The config does not say.
    """
    found = _first(text_config(config), _WIDTHS)
    if found is None:
        raise UserError(
            f"config of {config.model_type!r}: says no width of the hidden state (one of "
            f"{', '.join(_WIDTHS)}), so its cost cannot be planned; the config is incomplete"
        )
    return found


def inner_width(config: PretrainedConfig) -> int | None:
    """Returns the widest layer inside an MLP, the largest of a list by layer; None if not said."""
    return _first(text_config(config), _INNER)


def expert_counts(config: PretrainedConfig) -> set[int]:
    """Returns the numbers of experts that the config names; empty without experts."""
    config = text_config(config)
    return {n for name in _EXPERTS if isinstance(n := getattr(config, name, None), int)}


def active_experts(config: PretrainedConfig) -> int | None:
    """Returns how many experts one token uses; None if the config does not say."""
    return _first(text_config(config), _ACTIVE_EXPERTS)


def _first(config: Any, names: tuple[str, ...]) -> int | None:
    """The first of the attributes `names` that is a positive number, or the most of a list."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, list | tuple) and value:
            value = max(value)
        if isinstance(value, int) and value > 0:
            return value
    return None
