"""Tuning: every tuned budget comes nearer to the original."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import bitstack
from bitstack import recipes
from bitstack.compression import tune_stage
from bitstack.container.budget import Budgets
from bitstack.container.manifest import read_manifest
from bitstack.container.reading import BlockReader
from bitstack.original.text import token_ids, windows
from bitstack.tuning.tuned_stack import Planes
from bitstack.tuning.tuner import Phase


def divergence(original: Path, container: Path, ids: torch.Tensor, budget: str) -> float:
    """KL(original || container at `budget`), nats per token."""
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
        target = wanted(ids).logits.log_softmax(-1)
        stacked = bitstack.load(container, budget)(ids).logits.float().log_softmax(-1)
    return float(F.kl_div(stacked, target, log_target=True, reduction="sum") / ids.numel())


def test_held_out_text_comes_nearer_at_every_budget(tmp_path: Path) -> None:
    """The embedded model on books it has not seen, neither in training nor in tuning."""
    model, few = recipes.demo_model(), {"num_samples": 24, "seq_len": 256, "order_samples": 2}
    source = str(recipes.calibration_text())
    quick = few | {
        "blocks": 5,
        "search_sweeps": 0,
        "joint_passes": 0,
        "refit_rounds": 1,
        "calibration": source,
    }
    plain = bitstack.compress(model, tmp_path / "plain", tune_steps=0, **quick)
    tuned = bitstack.compress(model, tmp_path / "tuned", tune_steps=48, **quick)
    tokens = token_ids(str(recipes.held_out_text()), AutoTokenizer.from_pretrained(model))
    ids = windows(tokens.ids, 256, count=6, seed=0)
    for budget in ("1.5bpw", "2.5bpw"):
        assert divergence(model, tuned, ids, budget) < 0.97 * divergence(model, plain, ids, budget)
    # The finer planes get three steps here: enough to do harm, not to gain.
    assert divergence(model, tuned, ids, "5bpw") < 1.1 * divergence(model, plain, ids, "5bpw")


def test_experts_are_tuned_too(
    pico_model: Callable[..., Path], stacked: Callable[..., Path], text_file: Path
) -> None:
    original = pico_model("qwen3-moe")
    tokens = token_ids(str(text_file), AutoTokenizer.from_pretrained(original))
    ids = windows(tokens.ids, 32, count=64, seed=0)  # what it is tuned on
    plain = stacked("qwen3-moe", num_samples=64)
    tuned = stacked("qwen3-moe", num_samples=64, tune_steps=160, code_lr=0.005)
    before = divergence(original, plain, ids, "2bpw")
    after = divergence(original, tuned, ids, "2bpw")
    assert after < 0.9 * before


def tensors(container: Path) -> dict[str, torch.Tensor]:
    """Those of the stacks within the layers."""
    manifest, reader = read_manifest(container), BlockReader(container)
    inside = [entry for entry in manifest.stacks if entry.layer is not None]
    return {
        f"{entry.name}.{t.name}": reader.get(f"{entry.name}.{t.name}")
        for entry in inside
        for t in entry.spec.all()
    }


def test_what_is_kept_and_the_finer_planes_stay(
    stacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Levels of planes that are kept stay to the bit; of the finest planes scales alone learn."""
    fields: dict[str, Any] = {"blocks": 6, "chains": (2, 4), "code_lr": 0.1}
    before = tensors(stacked("llama-untied", **fields))

    def kept(recipe: Any, entries: Any, budgets: Budgets) -> list[Phase]:
        sizes = (budgets.resident_bytes([level] * len(entries)) for level in (1, 6))
        planes = [Planes(1, 2), Planes(3, 4), Planes(0, 0)]
        return [Phase(12, [planes] * len(entries), tune_stage.level_draw(budgets, [], *sizes))]

    monkeypatch.setattr(tune_stage, "plan_phases", kept)
    after = tensors(stacked("llama-untied", tune_steps=12, **fields))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {name.rpartition(".")[2] for name in changed}
    assert parts == {"plane_2", "fine_4", "scale_2", "scale_4", "scale_5", "scale_6"}
