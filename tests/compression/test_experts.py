"""Experts are decomposed one by one and ordered apart: what is used more gets more blocks."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

import pico
from bitstack import compress, load
from bitstack.container.manifest import read_manifest


@pytest.fixture(params=["mixtral", "qwen3-moe"])
def skewed(request: pytest.FixtureRequest, tmp_path: Path, text_file: Path) -> Path:
    """A container of a model whose experts are alike, but whose routers prefer the first ones.

    A column of the embedding is large in every token, and the routers read it: experts 0 and 1 of
    4 get nearly all tokens.
    """
    model: Any = pico.build(request.param)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 4.0
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight[0] = 1.0
            if hasattr(layer.mlp, "gate") and hasattr(layer.mlp, "experts"):
                layer.mlp.gate.weight[:, 0] = torch.tensor([6.0, 2.0, -2.0, -6.0])
    model.save_pretrained(tmp_path / "model")
    pico.tokenizer().save_pretrained(tmp_path / "model")
    few: dict[str, Any] = {"calibration": str(text_file), "num_samples": 8, "seq_len": 64}
    quick = {"search_sweeps": 0, "joint_passes": 0, "tune_steps": 0, "order": "predicted"}
    return compress(tmp_path / "model", tmp_path / "container", **few, **quick)


def test_experts_that_are_used_more_get_more_blocks(skewed: Path) -> None:
    manifest = read_manifest(skewed)
    experts = [e for e in manifest.stacks if e.kind == "expert"]
    per_parameter = {e.parameter: sum(o.parameter == e.parameter for o in experts) for e in experts}
    assert set(per_parameter.values()) == {4}  # every one a stack of its own
    for share in (0.3, 0.5, 0.7):
        low, high = manifest.budgets.floor_bytes, manifest.budgets.total_bytes
        model = load(skewed, int(low + share * (high - low)))
        levels = dict(zip((e.name for e in manifest.stacks), model.bitstack.levels, strict=True))
        used = fmean(levels[e.name] for e in experts if e.expert == 0)
        idle = fmean(levels[e.name] for e in experts if e.expert == 3)
        assert used >= idle + 1, (share, used, idle)
