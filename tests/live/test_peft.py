"""Adapters on top of a container: trained through packed layers, which stay as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import pico
from bitstack import UserError, load, resize
from bitstack.nn import stacks

Folder = Callable[..., Path]


@pytest.mark.parametrize("name", ["llama-gqa", "gpt-2"])
def test_lora_learns_and_comes_back(stacked: Folder, tmp_path: Path, name: str) -> None:
    """Every adapter gets a gradient through the packed layers above it; no block changes; saved
    and loaded on the same container it is the same model, at a smaller budget a working one."""
    base = load(stacked(name, calibration="none"))
    before = {n: {k: b.clone() for k, b in s.named_buffers()} for n, s in stacks(base).items()}
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", r=4))
    ids = torch.tensor([pico.tokenizer()(pico.TEXT[:200])["input_ids"][:40]])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(5):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        first = [p.grad for n, p in model.named_parameters() if "lora_B" in n]
        assert all(g is not None and g.abs().max() > 0 for g in first)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.1
    for layer in (m for m in model.modules() if hasattr(m, "base_layer")):
        held = dict(layer.base_layer.named_buffers())
        assert any(
            held.keys() == own.keys() and all(torch.equal(held[k], own[k]) for k in held)
            for own in before.values()
        )
    model.eval().save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert not list(tmp_path.glob("model*"))
    with torch.no_grad():
        expected = model(ids).logits
        again = PeftModel.from_pretrained(load(stacked(name, calibration="none")), tmp_path)
        assert torch.equal(again(ids).logits, expected)
        resize(base, "4bpw")
        assert not torch.equal(model(ids).logits, expected)


def test_merging_is_refused(stacked: Folder) -> None:
    """It would write into a copy of the weights, and be lost without a word."""
    base = load(stacked("llama-gqa", calibration="none"))
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(UserError, match="cannot be written; to merge an adapter"):
        model.merge_and_unload()
