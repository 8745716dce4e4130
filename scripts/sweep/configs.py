"""Makes a model of any causal architecture of transformers so small that it is built in a second.

Takes the default config of a model type, and puts small numbers where its fields say how large the
model is. Does not compress anything; see `sweep.trial`.
"""

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LAYERS = 4

# Most that a field of the name may hold, in a config or in one inside it.
_SIZES: dict[int, str] = {
    LAYERS: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers depth "
    "num_decoder_layers num_encoder_layers encoder_num_hidden_layers num_blocks num_local_experts "
    "num_attention_heads n_head n_heads num_heads decoder_attention_heads num_query_heads "
    "encoder_attention_heads num_experts n_routed_experts moe_num_experts "
    "linear_num_value_heads linear_num_key_heads linear_num_heads",
    64: "hidden_size n_embd d_model dim embedding_size embedding_dim word_embed_proj_dim lru_width "
    "emb_dim attention_hidden_size decoder_hidden_size hidden_dim ple_embed_dim",
    96: "intermediate_size ffn_dim n_inner d_ff decoder_ffn_dim encoder_ffn_dim ffn_hidden_size "
    "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size d_inner dff "
    "intermediate_size_mlp moe_shared_expert_intermediate_size shared_intermediate_size "
    "dense_intermediate_size",
    16: "head_dim d_kv qk_nope_head_dim v_head_dim qk_rope_head_dim attention_head_dim d_head "
    "global_head_dim linear_key_head_dim linear_value_head_dim rotary_dim mamba_d_state "
    "mamba_d_head indexer_head_dim index_head_dim linear_head_dim mamba_headdim",
    32: "q_lora_rank kv_lora_rank qk_head_dim hc_lowrank",
    8: "mamba_n_heads n_mamba_heads hidden_size_per_layer_input",
    2: "num_key_value_heads num_kv_heads n_head_kv kv_n_heads num_experts_per_tok moe_topk moe_k "
    "moe_top_k num_experts_per_token n_groups zero_expert_num",
    1: "n_group topk_group n_shared_experts first_k_dense_replace num_dense_layers",
    0: "num_kv_shared_layers",
    128: "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length "
    "max_target_positions max_source_positions seq_length",
    1000: "ngram_vocab_size_base encoder_hash_byte_group_vocab",
}
_MOST = {name: most for most, names in _SIZES.items() for name in names.split()}

# Values of fields that a default config leaves empty, though its model needs them.
_EMPTY = {
    "num_key_value_heads": 2, "head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16,
    "indexer_budget": 16, "indexer_compress_ratio": 4,
}  # fmt: skip

_ZAMBA = {
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "attention_hidden_size": 128,
    "attention_head_dim": 32,
}

# What else a default config lacks or has as it does not go with the small numbers.
_OF_TYPE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "rwkv": {"rescale_every": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 16},
    "bailing_hybrid": {"num_expert_group": 2, "topk_group": 1},
    "dots3_note": {"head_dim": 32},
    "dots3_note_text": {"head_dim": 32},
    "zamba": _ZAMBA,
    "zamba2": {**_ZAMBA, "num_mem_blocks": 1, "hybrid_layer_ids": [1, 3]},
}


def small_config(model_type: str, vocabulary: int) -> PretrainedConfig:
    """Returns a config of `model_type` of about 64 channels, 4 layers and `vocabulary` tokens.

    Raises whatever the config class raises where these numbers do not go together.
    """
    default = AutoConfig.for_model(model_type)
    fields = default.to_dict()
    for key in ("transformers_version", "model_type", "architectures"):
        fields.pop(key, None)
    small = _small(fields, vocabulary, _layers_kept(fields))
    return type(default)(**small | _OF_TYPE.get(model_type, {}))


def build(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Returns the model of `config` in fp32, no parameter of which is all zeros or ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                wide = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
                parameter.add_(wide * torch.randn_like(parameter))
    return model.eval()


def _small(fields: dict[str, Any], vocabulary: int, kept: list[int]) -> dict[str, Any]:
    """`fields` with small numbers; of a list or dictionary by layer, the entries `kept`."""
    result: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict) and value and all(str(k).isdigit() for k in value):
            of = {int(k): v for k, v in value.items()}
            new = {str(i): of[old] for i, old in enumerate(kept) if old in of}
            result[key] = _small(new, vocabulary, kept)
        elif isinstance(value, dict):
            result[key] = _small(value, vocabulary, _layers_kept(value) or kept)
        elif isinstance(value, list) and len(value) > max(kept, default=LAYERS):
            result[key] = [_number(key, value[i], vocabulary) for i in kept] if kept else value
        else:
            result[key] = _number(key, value, vocabulary)
    if result.get("kv_lora_rank"):  # latent attention: one key and value for every head
        result["num_key_value_heads"] = result["num_attention_heads"]
    return result


def _layers_kept(fields: dict[str, Any]) -> list[int]:
    """Numbers of the layers of a config that stay: one of every kind, then the first."""
    lists = [v for k, v in fields.items() if "layer" in k and isinstance(v, list)]
    longest = max(map(len, lists), default=0)
    if longest <= LAYERS:
        return []
    kinds = [*zip(*(v for v in lists if len(v) == longest), strict=True)]
    firsts = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    others = [i for i in range(len(kinds)) if i not in firsts]
    return sorted((firsts + others)[:LAYERS])


def _number(key: str, value: Any, vocabulary: int) -> Any:
    if value is None:
        return _EMPTY.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if key.endswith(("vocab_size", "vocab_size_per_layer_input")):
        return vocabulary
    if key.endswith("token_id"):
        return min(value, vocabulary - 1)
    return min(value, _MOST.get(key, value))
