"""What a text does not reach is named, and stays dense."""

import torch
from transformers import Gemma3Config

import pico
from bitstack.original.decoder_layers import find_layers
from bitstack.original.dry_pass import DryPass, dry_pass
from bitstack.original.matrices import find_matrices
from bitstack.original.skeleton import skeleton
from bitstack.original.unreached import unreached_line

VISION = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,  # more weights than the layers of the text
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def seeing() -> Gemma3Config:
    text = {**pico.SIZES, "num_key_value_heads": 1, "head_dim": 12, "sliding_window": 16}
    return Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)


def test_a_vision_tower_stays_dense_and_is_named() -> None:
    model = skeleton(seeing(), torch.float32)
    assert find_layers(model)[0] == "model.language_model.layers"
    assert not [m.name for m in find_matrices(model) if "vision" in m.name]
    line = unreached_line(model, dry_pass(model))
    assert line is not None
    assert "text does not use it: model.multi_modal_projector, model.vision_tower (takes" in line


def test_a_text_model_has_no_such_parts() -> None:
    model = skeleton(pico.FAMILIES["qwen3-moe"](), torch.float32)
    assert unreached_line(model, dry_pass(model)) is None


def test_where_it_is_not_known_nothing_is_named() -> None:
    model = skeleton(seeing(), torch.float32)
    assert unreached_line(model, DryPass(error=ValueError("needs values"))) is None
