"""Model folder to container: the function kept, the same bytes again, a run that goes on."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DeepseekV3Config, GptOssConfig

import pico
from bitstack import UserError, compress, load
from bitstack.compression import matrix_pool
from bitstack.container.making import MADE
from bitstack.container.manifest import FOLDER, MANIFEST, read_manifest
from bitstack.original.source import Source

Folder = Callable[..., Path]
FEW = {"num_samples": 3, "seq_len": 24, "order_samples": 1}
QUICK = {**FEW, "blocks": 3, "search_sweeps": 1, "joint_passes": 1, "tune_steps": 2}
PAPER = {**FEW, "recipe": "paper", "blocks": 2, "rank": 3}


def ids(tokens: int = 40) -> Tensor:
    return torch.tensor([pico.tokenizer()(pico.TEXT)["input_ids"][:tokens]])


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(ids()).logits.float()


def greedy(model: Any) -> list[int]:
    prompt = ids(12)
    return model.generate(prompt, max_new_tokens=16, do_sample=False)[0].tolist()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the one that says how long the run took."""
    files = [path for path in sorted(folder.rglob("*.*")) if path.name != MADE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- the function is kept ---


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_the_published_recipe_at_full_rank_is_the_original(
    pico_model: Folder, run: Folder, name: str
) -> None:
    """The first block of full rank is the matrix itself up to fp16, the second the rest. So every
    column scale must have been taken out again of the operation before: norms with and without
    bias, with weights around zero (Gemma), value and up projections, fused ones."""
    model = load(run(pico_model(name), **PAPER | {"rank": 64}))
    reference = AutoModelForCausalLM.from_pretrained(pico_model(name))
    assert distance(logits(model), logits(reference)) < 1e-5
    assert greedy(model) == greedy(reference)
    folded = {n: t for n, t in model.state_dict().items() if "norm" in n or "ln_" in n}
    original = reference.state_dict()
    assert any(not torch.equal(t, original[n]) for n, t in folded.items())


@pytest.mark.parametrize("name", ["llama-gqa", "gpt-2", "mixtral"])
def test_the_published_recipe_is_small_and_in_its_order(
    pico_model: Folder, run: Folder, name: str
) -> None:
    container = run(pico_model(name), **PAPER)
    manifest = read_manifest(container)
    assert {(s.format, s.levels, s.rank) for s in manifest.stacks} == {("signs", 2, 3)}
    assert sorted(manifest.order) == list(range(len(manifest.stacks)))
    half = (manifest.budgets.floor_bytes + manifest.budgets.total_bytes) // 2
    model = load(container, half)
    assert model.bitstack.resident_bytes <= half
    assert len(set(model.bitstack.levels)) == 2
    assert logits(model).isfinite().all()


@pytest.mark.parametrize(
    "name", ["llama-tied", "llama-gqa", "gemma-3", "opt", "qwen3-moe", pico.OUTLIERS]
)
def test_all_stages_of_the_default_recipe(pico_model: Folder, run: Folder, name: str) -> None:
    """Search, tuning, measured order: more planes are nearer, bytes are as planned."""
    container = run(pico_model(name), **QUICK)
    manifest = read_manifest(container)
    reference = logits(AutoModelForCausalLM.from_pretrained(pico_model(name))).log_softmax(-1)

    def divergence(level: int) -> float:
        model = load(container, level=level)
        assert model.bitstack.resident_bytes == manifest.budgets.uniform(level)[1]
        return float((reference.exp() * (reference - logits(model).log_softmax(-1))).sum(-1).mean())

    one, two, three = map(divergence, (1, 2, 3))
    assert three < two < one
    assert sum(e.errors[2] for e in manifest.stacks) < sum(e.errors[0] for e in manifest.stacks) / 4


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("embeddings", ["dense", "decompose"])
def test_with_and_without_text_and_embeddings(
    pico_model: Folder, run: Folder, text: bool, embeddings: str
) -> None:
    fields = {**QUICK, "embeddings": embeddings} | ({} if text else {"calibration": "none"})
    container = run(pico_model("qwen3"), **fields)
    manifest = read_manifest(container)
    assert ("model.embed_tokens" in {s.name for s in manifest.stacks}) == (embeddings != "dense")
    assert (manifest.text is None) != text
    assert load(container).bitstack.resident_bytes == manifest.budgets.total_bytes


OTHERS: dict[str, Callable[[], Any]] = {
    # Experts stored inputs first and interleaved, with biases, attention sinks.
    "gpt-oss": lambda: GptOssConfig(
        **pico.SIZES | {"num_key_value_heads": 2, "head_dim": 12},
        num_local_experts=3,
        num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=16,
    ),
    # Latent attention, a shared expert, a stored buffer that chooses the experts.
    "deepseek-v3": lambda: DeepseekV3Config(
        **pico.SIZES | {"num_key_value_heads": 4},
        moe_intermediate_size=20,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        first_k_dense_replace=1,
        q_lora_rank=12,
        kv_lora_rank=12,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_layouts_of_other_families(run: Folder, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHERS[name]()).eval()
    for key, buffer in model.named_buffers():
        if key.endswith("e_score_correction_bias"):
            buffer.copy_(torch.tensor([3.0, 0.0, -3.0, 1.0]))
    model.save_pretrained(tmp_path / "model")
    pico.tokenizer().save_pretrained(tmp_path / "model")
    made = load(run(tmp_path / "model", **PAPER | {"rank": 64}))
    assert distance(logits(made), logits(model)) < 1e-5


# --- same seed, same bytes ---


@pytest.mark.parametrize("fields", [QUICK, PAPER], ids=["default", "paper"])
def test_same_seed_same_bytes(pico_model: Folder, run: Folder, fields: dict[str, Any]) -> None:
    model = pico_model("llama-gqa")
    torch.manual_seed(1)
    first = contents(run(model, "first", **fields))
    torch.manual_seed(2)
    second = contents(run(model, "second", **fields))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert MANIFEST in first
    third = contents(run(model, "third", **fields, seed=1))
    assert third != first


def test_the_random_state_is_left_alone(pico_model: Folder, run: Folder) -> None:
    before = torch.get_rng_state()
    run(pico_model("llama-tied"), **QUICK)
    assert torch.equal(torch.get_rng_state(), before)


# --- interrupted and continued ---


class Interrupted(Exception):
    """Stands for a killed process."""


def interrupt(target: Any, name: str, after: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The `after`-th call of `target.name` fails; returns the count of calls."""
    original, calls = getattr(target, name), [0]

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            raise Interrupted
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, failing)
    monkeypatch.setattr(matrix_pool, "set_openmp", lambda: None)  # one matrix after another
    return calls


@pytest.mark.parametrize(
    ("where", "name", "after", "fields", "left"),
    [  # 15 matrices
        (matrix_pool, "decompose", 9, QUICK, 7),
        (matrix_pool, "decompose", 4, PAPER, 11),
        ("bitstack.tuning.tuner.Tuner", "run", 1, QUICK, 0),
        (
            "bitstack.tuning.tuner.Tuner",
            "_run_phase",
            3,
            QUICK | {"chains": (2,)},
            0,
        ),  # the finer planes
        ("bitstack.container.shards", "save_file", 1, QUICK, 0),
        ("bitstack.compression.pipeline", "_copy_config", 1, PAPER, 0),
    ],
)
def test_a_run_goes_on_where_it_was_stopped(
    pico_model: Folder,
    run: Folder,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    after: int,
    fields: dict[str, Any],
    left: int,
) -> None:
    model = pico_model("llama-tied")
    whole = run(model, "whole", **fields)
    with monkeypatch.context() as patch:
        interrupt(resolved(where), name, after, patch)
        with pytest.raises(Interrupted):
            run(model, "stopped", **fields)
    stopped = whole.parent / "stopped"
    with pytest.raises(UserError, match="not a finished bitstack container"):
        load(stopped)
    with pytest.raises(UserError, match="unfinished run with another model, recipe or"):
        run(model, "stopped", **fields, seed=7)
    with pytest.raises(UserError, match="unfinished run with another model"):
        run(pico_model("llama-tied", seed=1), "stopped", **fields)
    again = interrupt(matrix_pool, "decompose", 10**6, monkeypatch)
    run(model, "stopped", **fields)
    assert again[0] == left  # what was finished is not done again
    assert contents(stopped) == contents(whole)
    assert not (stopped / FOLDER).exists()


def resolved(where: Any) -> Any:
    if not isinstance(where, str):
        return where
    module, _, name = where.rpartition(".")
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), name)


def test_the_text_may_move_between_two_halves_of_a_run(
    pico_model: Folder, run: Folder, text_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        interrupt(matrix_pool, "decompose", 3, patch)
        with pytest.raises(Interrupted):
            run(pico_model("llama-tied"), **QUICK)
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(text_file, tmp_path / "moved" / text_file.name)
    container = run(pico_model("llama-tied"), **QUICK | {"calibration": str(moved)})
    assert str(tmp_path) not in (container / MANIFEST).read_text()
    (tmp_path / "other.txt").write_text(pico.TEXT * 4)
    with pytest.raises(UserError, match="already holds a container"):
        run(pico_model("llama-tied"), **QUICK | {"calibration": str(tmp_path / "other.txt")})


# --- memory ---


@pytest.mark.parametrize(("name", "fields"), [("llama-untied", QUICK), ("mixtral", PAPER)])
def test_one_decoder_layer_is_in_memory_at_a_time(
    pico_model: Folder, run: Folder, monkeypatch: pytest.MonkeyPatch, name: str, fields: Any
) -> None:
    """Whenever weights are loaded: the source never holds those of two layers. So memory does not
    grow with depth."""
    most: list[int] = []
    original = Source.load

    def watched(self: Source, parameters: list[str], **kwargs: Any) -> None:
        original(self, parameters, **kwargs)
        real = [n for n, p in self.model.named_parameters() if not p.is_meta]
        most.append(len({n.split(".")[2] for n in real if n.startswith("model.layers.")}))

    monkeypatch.setattr(Source, "load", watched)
    run(pico_model(name), **fields)
    assert len(most) > 4
    assert max(most) == 1


# --- what goes wrong on the way ---


def test_a_disk_that_fills_up(
    pico_model: Folder, run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitstack.container import shards

    def full(*args: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "save_file", full)
        with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
            run(pico_model("llama-tied"), **QUICK)
    with pytest.raises(UserError, match="not a finished bitstack container"):
        load(tmp_path / "out")
    load(run(pico_model("llama-tied"), **QUICK))  # after space was made


@pytest.mark.parametrize("where", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_broken_weights(
    pico_model: Folder, run: Folder, tmp_path: Path, where: str, calibrated: bool
) -> None:
    folder = shutil.copytree(pico_model("llama-untied"), tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights[where].view(-1)[3] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    fields = QUICK if calibrated else QUICK | {"calibration": "none"}
    with pytest.raises(UserError, match=f"weight {where} holds NaN"):
        run(folder, **fields)
    with pytest.raises(UserError, match="not a finished bitstack container"):
        load(tmp_path / "out")


# --- the container ---


def test_the_folder_is_one_that_transformers_users_know(pico_model: Folder, run: Folder) -> None:
    container = run(pico_model("gpt-2"), **QUICK | {"calibration": "none"})
    names = {path.name for path in container.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", MANIFEST} <= names
    assert not [name for name in names if name.startswith(".")]
    config = json.loads((container / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "bitstack"}
    assert config["model_type"] == "gpt2"
    index = json.loads((container / "model.safetensors.index.bitstack.json").read_text())
    assert set(index["weight_map"].values()) == {s.file for s in read_manifest(container).shards}


def test_the_recipe_of_a_container_makes_it_again(
    pico_model: Folder, run: Folder, text_file: Path, tmp_path: Path
) -> None:
    overrides = {"*.down_proj": {"blocks": 2}, "*.0.mlp.up_proj": {"dense": True}}
    first = run(pico_model("llama-tied"), "first", **QUICK, overrides=overrides)
    again = compress(
        pico_model("llama-tied"), tmp_path / "again",
        recipe=first / "recipe.yaml", calibration=str(text_file),
    )  # fmt: skip
    assert contents(again) == contents(first)
    manifest = read_manifest(first)
    levels = {entry.name: entry.levels for entry in manifest.stacks}
    assert levels["model.layers.1.mlp.down_proj"] == 2
    assert levels["model.layers.1.mlp.up_proj"] == 3
    assert "model.layers.0.mlp.up_proj" not in levels
    assert "model.layers.0.mlp.up_proj.weight" in {entry.name for entry in manifest.dense}
    assert str(tmp_path) not in (first / "recipe.yaml").read_text()
    assert logits(load(first)).isfinite().all()
