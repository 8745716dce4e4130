"""Packed modules under the names of those they replace, and what they hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from formats import matrix_of, random_tensors
from torch import nn

import pico
from bitstack.container.blocks import StackSpec
from bitstack.nn import pack_model, resident_bytes, stacks
from bitstack.nn.experts import PackedExperts
from bitstack.nn.modules import PackedEmbedding, PackedLinear, TiedHead
from bitstack.original.matrices import find_dense, find_matrices
from bitstack.original.matrix import Matrix
from bitstack.original.skeleton import skeleton

Folder = Callable[..., Path]


def packed(name: str, level: int = 2) -> tuple[nn.Module, list[Matrix], list[StackSpec]]:
    """A pico model with random blocks, two planes a matrix; dense tensors as they were."""
    model = pico.build(name)
    matrices = find_matrices(model)
    specs = [StackSpec("codes", m.rows, m.columns, 3) for m in matrices]
    pack_model(model, matrices, specs)
    for i, (matrix, spec) in enumerate(zip(matrices, specs, strict=True)):
        stacks(model)[matrix.name].set_level(level, random_tensors(spec, i).__getitem__)
    return model, matrices, specs


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_every_matrix_becomes_a_stack_of_its_name(name: str) -> None:
    model, matrices, specs = packed(name)
    assert {n: s.spec for n, s in stacks(model).items()} == {
        m.name: spec for m, spec in zip(matrices, specs, strict=True)
    }
    left = {n for n, m in model.named_modules() if type(m) in (nn.Linear, nn.Embedding)}
    assert left <= {"transformer.wpe"}
    keys = {
        f"{m.name}.{t.name}" for m, s in zip(matrices, specs, strict=True) for t in s.resident(2)
    }
    original = pico.build(name)
    dense = [d for d in find_dense(original, matrices) if d.persistent]
    assert set(model.state_dict()) == keys | {d.name for d in dense}


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_resident_bytes_are_blocks_and_dense_tensors(name: str) -> None:
    model, matrices, specs = packed(name)
    dense = find_dense(pico.build(name), matrices)
    assert resident_bytes(model) == sum(s.bytes()[1] for s in specs) + sum(d.bytes for d in dense)


def test_a_skeleton_counts_for_nothing() -> None:
    model = skeleton(pico.FAMILIES["gpt-2"](), torch.float32)
    assert resident_bytes(model) == 0


@torch.no_grad()
def test_linear_and_bias() -> None:
    model, _, _ = packed("llama-gqa")
    module = model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(module, PackedLinear)
    assert (module.in_features, module.out_features) == (40, 40)
    x = torch.randn(2, 40)
    close = torch.testing.assert_close
    close(
        module(x),
        x @ module.weight.T + module.bias,
        rtol=0.02,
        atol=0.02 * float(module(x).abs().max()),
    )


@pytest.mark.parametrize(("name", "factor"), [("qwen3", 1.0), ("gemma-3", 32**0.5)])
def test_an_embedding_keeps_what_its_class_adds(name: str, factor: float) -> None:
    model, matrices, specs = packed(name)
    module = model.get_submodule("model.embed_tokens")
    assert isinstance(module, PackedEmbedding)
    matrix = matrix_of(specs[0], random_tensors(specs[0], 0), 2)
    ids = torch.tensor([[5, 9, 5], [306, 0, 9]])
    torch.testing.assert_close(module(ids), matrix[ids] * factor, rtol=1e-4, atol=1e-4)
    assert module(ids[:0]).shape == (0, 3, 32)
    head = model.get_submodule("lm_head")
    assert isinstance(head, TiedHead)
    assert matrices[0].tied == "lm_head"
    assert torch.equal(head.weight, module.weight)
    assert not list(head.buffers())  # counted once


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_take_the_place_of_their_parameter(transposed: bool) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.is_transposed = transposed
            self.up = nn.Parameter(torch.zeros(3, *((5, 9) if transposed else (9, 5))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Experts()])

    model = Model()
    matrices = [
        Matrix(f"layers.0.up.{e}", "layers.0.up", "layers.0", "expert", 9, 5, 0, e, transposed)
        for e in range(3)
    ]
    spec = StackSpec("codes", 9, 5, 2)
    pack_model(model, matrices, [spec] * 3)
    for e in range(3):
        stacks(model)[f"layers.0.up.{e}"].set_level(1, random_tensors(spec, e).__getitem__)
    module = model.layers[0].up
    assert isinstance(module, PackedExperts)
    for e in range(3):
        matrix = matrix_of(spec, random_tensors(spec, e), 1)
        unpacked = module[torch.tensor(e)].unpacked()
        torch.testing.assert_close(unpacked, matrix.T if transposed else matrix)


@pytest.mark.parametrize("name", ["llama-untied", "gemma-3", "qwen3-moe", "gpt-2"])
def test_a_cast_model_runs_in_its_new_dtype_and_keeps_its_blocks(name: str) -> None:
    model, _, _ = packed(name)
    ids = torch.randint(pico.VOCABULARY, (1, 9))
    blocks = {
        n: b.clone()
        for n, s in stacks(model).items()
        for b in [s._buffers["scale_2"]]
        if b is not None
    }
    before = resident_bytes(model)
    with torch.no_grad():
        assert model.bfloat16()(ids).logits.dtype == torch.bfloat16
        assert resident_bytes(model) < before  # dense tensors shrink, blocks stay
        assert model.float()(ids).logits.dtype == torch.float32
    assert resident_bytes(model) == before
    assert all(torch.equal(stacks(model)[n]._buffers["scale_2"], b) for n, b in blocks.items())  # type: ignore[arg-type]
