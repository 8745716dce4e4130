"""Writes a pico Llama as a GGUF, as llama.cpp's converter does: names, order of the rotary halves,
byte-level tokenizer, chat template."""

import json
from pathlib import Path

import gguf
from gguf.quants import quantize
from torch import Tensor
from transformers import PreTrainedModel

import pico

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
Kind = gguf.GGMLQuantizationType


def write(
    model: PreTrainedModel, file: Path, kind: Kind = Kind.F32, *, without: str | None = None
) -> Path:
    """Writes the model as `file`; matrices are quantised to `kind`, the tensor `without` is left
    out."""
    writer = gguf.GGUFWriter(file, "llama")
    _write_config(writer, model)
    _write_tokenizer(writer)
    tied = model.all_tied_weights_keys
    for name, tensor in model.state_dict().items():
        if name not in tied and _name(name) != without:
            value = _halves_apart(name, tensor, model).float().numpy()
            own = kind if value.ndim > 1 else Kind.F32
            writer.add_tensor(_name(name), quantize(value, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_config(writer: gguf.GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    vocabulary = pico.tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = json.loads(pico.tokenizer().backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == pico.END else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)


def _name(name: str) -> str:
    stem, _, end = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, number, inner = stem.split(".", 3)
        return f"blk.{number}.{NAMES[inner]}.{end}"
    return f"{NAMES[stem]}.{end}"


def _halves_apart(name: str, tensor: Tensor, model: PreTrainedModel) -> Tensor:
    """llama.cpp rotates neighbours, transformers rotates halves of a head."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    heads = tensor.shape[0] // model.config.head_dim
    paired = tensor.view(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2)
    return paired.reshape(tensor.shape)
