"""Every weight of every layout is a matrix or is listed dense; nothing twice, nothing left out.

Also covers `original.matrix`.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GptOssConfig
from transformers.pytorch_utils import Conv1D

import pico
from bitstack.original.matrices import find_dense, find_matrices
from bitstack.original.matrix import Dense, Matrix

ATTENTION = {f"model.layers.self_attn.{p}_proj" for p in "qkvo"}
MLP = {f"model.layers.mlp.{p}_proj" for p in ("gate", "up", "down")}
EXPERTS = {f"model.layers.mlp.experts.{p}_proj" for p in ("gate_up", "down")}
TIED, UNTIED = {"model.embed_tokens"}, {"model.embed_tokens", "lm_head"}

ROLES: dict[str, set[str]] = {
    "llama-tied": TIED | ATTENTION | MLP,
    "llama-untied": UNTIED | ATTENTION | MLP,
    pico.OUTLIERS: TIED | ATTENTION | MLP,
    "llama-gqa": UNTIED | ATTENTION | MLP,
    "mistral": UNTIED | ATTENTION | MLP,
    "qwen2": UNTIED | ATTENTION | MLP,
    "qwen3": TIED | ATTENTION | MLP,
    "gemma-2": TIED | ATTENTION | MLP,
    "gemma-3": TIED | ATTENTION | MLP,
    "phi-3": UNTIED
    | {f"model.layers.{p}_proj" for p in ("self_attn.qkv", "self_attn.o")}
    | {f"model.layers.mlp.{p}_proj" for p in ("gate_up", "down")},
    "gpt-2": {"transformer.wte"}
    | {f"transformer.h.{p}" for p in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")},
    "gpt-neox": {"gpt_neox.embed_in", "lm_head"}
    | {f"gpt_neox.layers.attention.{p}" for p in ("query_key_value", "dense")}
    | {f"gpt_neox.layers.mlp.{p}" for p in ("dense_h_to_4h", "dense_4h_to_h")},
    "opt": {"model.decoder.embed_tokens"}
    | {f"model.decoder.layers.self_attn.{p}_proj" for p in ("q", "k", "v", "out")}
    | {f"model.decoder.layers.{p}" for p in ("fc1", "fc2")},
    "mixtral": UNTIED | ATTENTION | EXPERTS,
    "qwen3-moe": UNTIED | ATTENTION | MLP | EXPERTS,
}
DENSE_WEIGHTS: dict[str, set[str]] = {  # with two dimensions and more
    "gpt-2": {"transformer.wpe.weight"},
    "opt": {"model.decoder.embed_positions.weight"},
    "mixtral": {"model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.weight"},
    "qwen3-moe": {"model.layers.0.mlp.gate.weight"},
}


def live_bytes(model: nn.Module) -> int:
    """Bytes of all tensors of a model, shared ones once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.nbytes for t in tensors.values())


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_the_expected_weights_are_decomposed(name: str) -> None:
    matrices = find_matrices(pico.build(name))
    assert {m.role for m in matrices} == ROLES[name]
    assert len({m.name for m in matrices}) == len(matrices)


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_the_expected_weights_stay_dense(name: str) -> None:
    model = pico.build(name)
    dense = find_dense(model, find_matrices(model))
    assert {d.name for d in dense if len(d.shape) > 1} == DENSE_WEIGHTS.get(name, set())


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", pico.FAMILIES)
def test_matrices_and_dense_tensors_are_the_whole_model(
    name: str, dtype: torch.dtype, embeddings: bool
) -> None:
    model = pico.build(name, dtype=dtype)
    matrices = find_matrices(model, embeddings=embeddings)
    dense = find_dense(model, matrices)
    stacked = sum(m.weights for m in matrices) * dtype.itemsize
    assert stacked + sum(d.bytes for d in dense) == live_bytes(model)


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_every_number_of_a_parameter_is_in_one_place(name: str) -> None:
    """Marked through their matrices and dense names, all numbers are marked exactly once."""
    model = pico.build(name)
    matrices = find_matrices(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for matrix in matrices:
            matrix.of(model.get_parameter(matrix.parameter)).add_(1)
        for dense in find_dense(model, matrices):
            if dense.name in dict(model.named_parameters()):
                model.get_parameter(dense.name).add_(1)
    assert all((parameter == 1).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_shapes_layers_and_kinds(name: str) -> None:
    model = pico.build(name)
    matrices = find_matrices(model)
    for matrix in matrices:
        assert matrix.of(model.get_parameter(matrix.parameter)).shape == (
            matrix.rows,
            matrix.columns,
        )
        inside = ".0." in matrix.name or ".1." in matrix.name
        assert matrix.layer == (int(".1." in matrix.name.split("experts")[0]) if inside else None)
    outer = [m.kind for m in matrices if m.layer is None]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert outer == (["embedding"] if tied else ["embedding", "head"])


@pytest.mark.parametrize("name", [n for n in pico.FAMILIES if "lm_head" not in ROLES[n]])
def test_a_tied_embedding_names_its_head(name: str) -> None:
    model = pico.build(name)
    (embedding,) = (m for m in find_matrices(model) if m.kind == "embedding")
    assert embedding.tied == "lm_head"
    dense = find_dense(model, find_matrices(model))
    assert "lm_head.weight" not in {d.name for d in dense}


def test_a_conv1d_is_seen_outputs_by_inputs() -> None:
    model = pico.build("gpt-2")
    for matrix in find_matrices(model):
        if matrix.kind != "conv1d":
            continue
        module = model.get_submodule(matrix.module)
        assert isinstance(module, Conv1D)
        x = torch.randn(3, matrix.columns)
        seen = F.linear(x, matrix.of(module.weight), module.bias)
        torch.testing.assert_close(seen, module(x))


@pytest.mark.parametrize(("name", "layers"), [("mixtral", [0, 1]), ("qwen3-moe", [0])])
def test_experts_one_by_one(name: str, layers: list[int]) -> None:
    model = pico.build(name)
    experts = [m for m in find_matrices(model) if m.kind == "expert"]
    seen = {(m.layer, m.expert, m.parameter.rpartition(".")[2]) for m in experts}
    parts = ("gate_up_proj", "down_proj")
    assert seen == {(layer, e, part) for layer in layers for e in range(4) for part in parts}
    assert len(experts) == len(seen)
    for matrix in experts:
        parameter = model.get_parameter(matrix.parameter)
        assert torch.equal(matrix.of(parameter), parameter[matrix.expert])
        assert not matrix.transposed


def test_experts_stored_inputs_first() -> None:
    """GPT-OSS: [experts, in, out], interleaved, with a bias for each expert."""
    config = GptOssConfig(
        **pico.SIZES | {"num_key_value_heads": 2, "head_dim": 12},
        num_local_experts=3,
        num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
    )
    model = AutoModelForCausalLM.from_config(config)
    matrices = find_matrices(model)
    shapes = {(m.role, m.rows, m.columns) for m in matrices if m.kind == "expert"}
    assert shapes == {
        ("model.layers.mlp.experts.gate_up_proj", 88, 32),
        ("model.layers.mlp.experts.down_proj", 32, 44),
    }
    dense = {d.name for d in find_dense(model, matrices)}
    assert "model.layers.0.mlp.experts.gate_up_proj_bias" in dense
    assert "model.layers.1.mlp.experts.down_proj_bias" in dense


class Cubes(nn.Module):
    """Three-dimensional parameters; fused experts only with the flag of transformers' kernels."""

    def __init__(self, is_transposed: bool | None) -> None:
        super().__init__()
        self.cube = nn.Parameter(torch.zeros(2, 3, 4))
        if is_transposed is not None:
            self.is_transposed = is_transposed


class Router(nn.Linear):
    """As Llama 4's: a Linear whose forward gives more than a product."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Unheard(nn.Module):
    """A model of no known family, with names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.letters = nn.Embedding(11, 6)
        self.rungs = nn.ModuleList(
            nn.ModuleDict({"twist": nn.Linear(6, 9), "turn": Conv1D(6, 9)}) for _ in range(3)
        )
        self.few = nn.ModuleList([nn.Linear(6, 2)])  # a shorter list is not the decoder
        self.speak = nn.Linear(6, 11, bias=False)
        self.plain, self.turned, self.unknown = Cubes(False), Cubes(True), Cubes(None)
        self.route = Router(6, 3, bias=False)
        self.wave = nn.Conv1d(6, 6, 3, groups=6, bias=False)
        self.odd = nn.Parameter(torch.zeros(2, 2, 2, 2))
        self.register_buffer("seen", torch.zeros(5), persistent=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.letters

    def get_output_embeddings(self) -> nn.Module:
        return self.speak


def test_an_unheard_of_model_is_taken_by_its_structure() -> None:
    model = Unheard()
    matrices = {m.name: (m.kind, m.rows, m.columns, m.layer) for m in find_matrices(model)}
    assert matrices == {
        "letters": ("embedding", 11, 6, None),
        "speak": ("head", 11, 6, None),
        "few.0": ("linear", 2, 6, None),
        **{f"plain.cube.{e}": ("expert", 3, 4, None) for e in range(2)},
        **{f"turned.cube.{e}": ("expert", 4, 3, None) for e in range(2)},
        **{f"rungs.{i}.twist": ("linear", 9, 6, i) for i in range(3)},
        **{f"rungs.{i}.turn": ("conv1d", 6, 9, i) for i in range(3)},
    }
    dense = find_dense(model, find_matrices(model))
    assert Dense("odd", (2, 2, 2, 2), torch.float32, persistent=True) in dense
    assert Dense("seen", (5,), torch.float32, persistent=False) in dense
    assert {d.name for d in dense} == {
        "odd",
        "seen",
        "few.0.bias",
        "unknown.cube",
        "wave.weight",
        "route.weight",
        *(f"rungs.{i}.{part}.bias" for i in range(3) for part in ("twist", "turn")),
    }


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.layers.13.self_attn.q_proj", "model.layers.self_attn.q_proj"),
        ("model.layers.0.mlp.experts.down_proj.11", "model.layers.mlp.experts.down_proj"),
        ("model.layers.2.fc1", "model.layers.fc1"),
        ("lm_head", "lm_head"),
    ],
)
def test_role(name: str, role: str) -> None:
    assert Matrix(name, "", "", "linear", 1, 1).role == role


@pytest.mark.parametrize("apart", [False, True])
def test_a_shared_layer_stands_for_both_if_it_shares_its_bias_too(apart: bool) -> None:
    model: Any = Unheard()
    first, second = model.rungs[0]["twist"], model.rungs[2]["twist"]
    second.weight = first.weight
    model.all_tied_weights_keys = {"rungs.2.twist.weight": "rungs.0.twist.weight"}
    if not apart:
        second.bias = first.bias
        model.all_tied_weights_keys["rungs.2.twist.bias"] = "rungs.0.twist.bias"
    names = {m.name for m in find_matrices(model) if m.name.endswith("twist")}
    assert names == {"rungs.1.twist"} | (set() if apart else {"rungs.0.twist"})


def test_dense_bytes() -> None:
    value: Tensor = torch.zeros(3, 5, dtype=torch.bfloat16)
    assert Dense("x", tuple(value.shape), value.dtype, persistent=True).bytes == value.nbytes
