"""Cut models: exact where nothing is lost, and cut where the loss changes least.

Also covers `capacity_gap_pilot.importance`.
"""

from pathlib import Path

import pytest
import torch
from capacity_gap_pilot.importance import Importance, measure_importance
from capacity_gap_pilot.pruning import (
    body_parameters,
    prune,
    student_shape,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import pico
from bitstack.errors import UserError


def llama(**changes: int | bool) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 61, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 3, "initializer_range": 0.2,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()


def texts(count: int = 3) -> torch.Tensor:
    return torch.randint(61, (count, 12), generator=torch.Generator().manual_seed(1))


def test_importance_is_the_gradient_of_a_mask() -> None:
    model, ids = llama(), texts(2)
    importance = measure_importance(model, ids)
    assert importance.heads.shape == (2, 6)
    assert importance.neurons.shape == (2, 80)
    assert importance.hidden.shape == (48,)
    # Finite differences: scale one neuron's and one head's output by 1 ± e, in every text.
    step = 1e-3
    for part, unit, columns in (("mlp.down_proj", 7, 1), ("self_attn.o_proj", 2, 8)):
        weight = model.get_submodule(f"model.layers.1.{part}").weight
        change, kept = slice(unit * columns, (unit + 1) * columns), weight.detach().clone()
        slopes = []
        for text in ids:
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight[:, change] = kept[:, change] * (1 + sign * step)
                    losses.append(float(model(text[None], labels=text[None]).loss))
                    weight.copy_(kept)
            slopes.append(abs(losses[0] - losses[1]) / (2 * step))
        table = importance.neurons if columns == 1 else importance.heads
        assert float(table[1, unit]) == pytest.approx(sum(slopes) / 2, rel=0.05, abs=1e-4)


def test_units_that_do_nothing_go_first_and_are_not_missed() -> None:
    model, ids = llama(), texts()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, 40:] = 0
            layer.self_attn.o_proj.weight[:, 16:32] = 0  # both heads of the second group
    importance = measure_importance(model, ids)
    kept = body_parameters(model) - 2 * (40 * 3 * 48 + 16 * 2 * 48 + 8 * 2 * 48)
    shape = student_shape(model, body_parameters(model))
    shape = type(shape)(48, 4, 2, 40, kept)
    student = prune(model, importance, shape)
    assert body_parameters(student) == kept
    assert torch.allclose(student(ids).logits, model(ids).logits, atol=1e-5)


def test_dead_hidden_units_are_cut() -> None:
    model = llama()
    hidden = torch.ones(48)
    hidden[10:18] = 0
    dead = Importance(torch.ones(2, 6), torch.ones(2, 80), hidden)
    shape = student_shape(model, body_parameters(model))
    student = prune(model, dead, type(shape)(40, 6, 3, 80, 0))
    rows = [i for i in range(48) if not 10 <= i < 18]
    source = model.model.layers[0].mlp.gate_proj.weight
    assert torch.equal(student.model.layers[0].mlp.gate_proj.weight, source[:, rows])
    assert torch.equal(
        student.get_input_embeddings().weight, model.get_input_embeddings().weight[:, rows]
    )


@pytest.mark.parametrize("name", ["llama-tied", "llama-untied", "mistral", "qwen3", "qwen2"])
def test_families_of_the_layout(name: str) -> None:
    model, ids = pico.build(name), texts()
    importance = measure_importance(model, ids)
    whole = prune(model, importance, student_shape(model, body_parameters(model)))
    assert torch.allclose(whole(ids).logits, model(ids).logits, atol=1e-5)
    small = prune(model, importance, student_shape(model, body_parameters(model) // 2))
    assert small(ids).logits.shape == model(ids).logits.shape


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_the_student_has_the_size_asked_for(share: float) -> None:
    model = llama(hidden_size=144, intermediate_size=352, head_dim=16)
    wanted = int(share * body_parameters(model))
    shape = student_shape(model, wanted)
    student = prune(model, measure_importance(model, texts()), shape)
    assert body_parameters(student) == shape.parameters
    assert shape.parameters == pytest.approx(wanted, rel=0.02)
    assert shape.hidden == pytest.approx(144 * share**0.5, abs=5)


def test_a_student_can_be_saved_and_loaded(tmp_path: Path) -> None:
    model, ids = llama(hidden_size=144, head_dim=16), texts()
    for share in (0.2, 0.4, 0.6):
        shape = student_shape(model, int(share * body_parameters(model)))
        student = prune(model, measure_importance(model, ids), shape)
        student.save_pretrained(tmp_path)
        loaded = LlamaForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(loaded(ids).logits, student(ids).logits)


def test_the_model_is_unchanged_by_measuring() -> None:
    model, ids = llama(), texts()
    before = model(ids).logits
    measure_importance(model, ids)
    assert torch.equal(model(ids).logits, before)


def test_what_cannot_be_pruned() -> None:
    model = llama()
    with pytest.raises(UserError, match=r"outside 1\.\."):
        student_shape(model, body_parameters(model) + 1)
    with pytest.raises(UserError, match="none given"):
        measure_importance(model, [])
    with pytest.raises(UserError, match="no layer with q_proj"):
        measure_importance(pico.build("gpt-2"), texts())
