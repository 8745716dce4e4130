from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import pico

Folder = Callable[..., Path]


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_a_folder_that_loads_and_tells_tokens_apart(pico_model: Folder, name: str) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(pico_model(name), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(pico_model(name))
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.decode(tokenizer(pico.TEXT)["input_ids"]) == pico.TEXT
    with torch.no_grad():
        logits = model(**tokenizer(pico.TEXT[:100], return_tensors="pt")).logits[0]
    assert logits.std(-1).min() > 0.3  # neither uniform
    assert logits.softmax(-1).max() < 0.99  # nor certain
    assert logits.argmax(-1).unique().numel() > 5


@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
def test_weights_follow_the_seed(pico_model: Folder, tmp_path: Path, name: str) -> None:
    weights = load_file(pico_model(name) / "model.safetensors")
    again = load_file(pico.save(name, tmp_path / "again") / "model.safetensors")
    other = load_file(pico.save(name, tmp_path / "other", seed=1) / "model.safetensors")
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert not any(torch.equal(weights[key], other[key]) for key in weights)


def test_dtype(pico_model: Folder) -> None:
    folder = pico_model("llama-gqa", dtype=torch.bfloat16)
    assert {x.dtype for x in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


@torch.no_grad()
def test_the_model_with_outliers_depends_on_them() -> None:
    """As real language models do: few large weights carry it, and an input is far above others."""
    model, clipped = pico.build(pico.OUTLIERS), pico.build(pico.OUTLIERS)
    ids = torch.tensor([pico.tokenizer()(pico.TEXT)["input_ids"][:120]])
    largest = []  # input of every token, over all channels
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, args: largest.append(args[0].abs().amax(-1)[0])
        )
    for layer in clipped.model.layers:
        weight = layer.self_attn.v_proj.weight
        assert weight.abs().max() > 25 * weight.std()
        limit = 8 * float(weight.abs().median())
        weight.clamp_(-limit, limit)
    before, after = model(ids).logits.log_softmax(-1), clipped(ids).logits.log_softmax(-1)
    assert (before.exp() * (before - after)).sum(-1).mean() > 0.1
    assert all(inputs.max() > 1000 and inputs.max() > 40 * inputs.median() for inputs in largest)
