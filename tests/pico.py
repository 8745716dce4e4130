"""Models of a few thousand weights, one of every layout that has to work, built from configs.

Real Hugging Face folders with a real tokenizer, random weights, and sizes that are no multiples
of 8 wherever the architecture allows it, because packed bits care.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCABULARY = 307  # tokens: 256 bytes, the end token, 50 merges
POSITIONS = 128
END = "<|endoftext|>"
TEXT = (
    "The river was low that summer, and the stones in it were white. Every morning the miller's "
    "daughter walked down to the water and counted the boats that came from the town. There were "
    "seven on Monday and none at all on Tuesday, because the wind had turned. In the evening she "
    "told her father what she had seen, and he wrote it into a book with a green cover. Nobody "
    "knew why he did so. Years later the book was found in the wall of the house, and the people "
    "of the town read about boats that their grandfathers had owned."
)
WORDS = TEXT.replace(",", "").replace(".", "").split()

TEMPLATE = (  # of chats
    "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)

SPECIAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
SIZES: dict[str, Any] = {
    **SPECIAL,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.15,  # about 1/sqrt(hidden): at 0.02 every output would be uniform
}

OUTLIERS = "llama-outliers"  # the family that `spike` is applied to

FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama-tied": lambda: LlamaConfig(**SIZES, num_key_value_heads=4, tie_word_embeddings=True),
    "llama-untied": lambda: LlamaConfig(**SIZES, num_key_value_heads=4, tie_word_embeddings=False),
    OUTLIERS: lambda: LlamaConfig(
        **SIZES | {"hidden_size": 64}, num_key_value_heads=4, tie_word_embeddings=True
    ),
    "llama-gqa": lambda: LlamaConfig(
        **SIZES | {"hidden_size": 40}, num_key_value_heads=2, attention_bias=True, mlp_bias=True
    ),
    "mistral": lambda: MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=16),
    "qwen2": lambda: Qwen2Config(
        **SIZES | {"hidden_size": 36, "num_attention_heads": 2}, num_key_value_heads=1
    ),
    "qwen3": lambda: Qwen3Config(
        **SIZES, num_key_value_heads=2, head_dim=12, tie_word_embeddings=True
    ),
    "gemma-2": lambda: Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=12, sliding_window=16
    ),
    "gemma-3": lambda: Gemma3TextConfig(
        **SIZES,
        num_key_value_heads=1,
        head_dim=12,
        query_pre_attn_scalar=12,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi-3": lambda: Phi3Config(
        **SIZES, num_key_value_heads=2, original_max_position_embeddings=POSITIONS
    ),
    "gpt-2": lambda: GPT2Config(
        **SPECIAL,
        n_embd=36,
        n_inner=44,
        n_layer=2,
        n_head=2,
        n_positions=POSITIONS,
        initializer_range=0.15,
    ),
    "gpt-neox": lambda: GPTNeoXConfig(**SIZES | {"hidden_size": 64}),
    "opt": lambda: OPTConfig(
        **SPECIAL,
        hidden_size=36,
        word_embed_proj_dim=36,
        ffn_dim=44,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        init_std=0.15,
    ),
    "mixtral": lambda: MixtralConfig(
        **SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    ),
    "qwen3-moe": lambda: Qwen3MoeConfig(
        **SIZES,
        num_key_value_heads=2,
        head_dim=12,
        moe_intermediate_size=20,
        num_experts=4,
        num_experts_per_tok=2,
        mlp_only_layers=[1],  # one layer of experts, one without
    ),
}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text goes in and comes out as it was."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    assert backend.get_vocab_size() == VOCABULARY
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=POSITIONS,
    )


def build(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of `FAMILIES`, in eval mode. Biases and norms are no zeros and ones either."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(FAMILIES[name](), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        if name == OUTLIERS:
            spike(model)
    return model.to(dtype).eval()


@torch.no_grad()
def spike(model: PreTrainedModel) -> None:
    """Gives a Llama what real language models have: a few weights of 30 standard deviations that
    it depends on, and activations of 1e3 at one token.

    A norm makes some channels five times smaller; a few large weights read them. One unit of
    the MLP answers to one token, the full stop; `up_proj` makes its answer large, and `down_proj`
    small again.
    """
    stop = model.get_input_embeddings().weight[tokenizer()(".")["input_ids"][0]]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        spread = attention.q_proj.weight.std()
        channels = torch.tensor([3, 17, 29])
        layer.input_layernorm.weight[channels] /= 5
        for matrix in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
            matrix[channels % len(matrix), channels] = 50 * spread
        mlp.gate_proj.weight[7] = stop / stop.norm()
        mlp.up_proj.weight[7] = 200 * stop / stop.norm()
        mlp.down_proj.weight[:, 7] *= 0.1 / mlp.down_proj.weight[:, 7].norm()


def save(name: str, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write model and tokenizer as a Hugging Face folder, and return it."""
    build(name, seed=seed, dtype=dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
