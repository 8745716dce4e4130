"""Weights are those of `from_pretrained`, a part at a time, and bad folders are named.

Also covers `original.checkpoint` and `original.skeleton`: every fault of a checkpoint is an error
that names it.
"""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DeepseekV3Config,
    GPTJConfig,
)

import pico
from bitstack.errors import UserError
from bitstack.original.source import Source, open_source

Folder = Callable[..., Path]
Weights = dict[str, Tensor]
DTYPES = [torch.float32, torch.bfloat16]
WEIGHTS = "model.safetensors"

# Layouts with tensors that no parameter holds: a router's bias (a stored buffer, fp32 whatever the
# dtype), and a table that a constructor makes.
BUFFERED: dict[str, Any] = {
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
    "gpt-j": lambda: GPTJConfig(
        **pico.SPECIAL, n_embd=32, n_layer=2, n_head=4, rotary_dim=8, n_positions=pico.POSITIONS
    ),
}


def parameters(source: Source) -> list[str]:
    return [name for name, _ in source.model.named_parameters()]


def real(source: Source) -> set[str]:
    return {name for name, p in source.model.named_parameters() if not p.is_meta}


def assert_same(source: Source, folder: Path) -> None:
    """All of `source`, loaded, holds what from_pretrained gives, in fp32."""
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    source.load(parameters(source))
    expected = dict(reference.named_parameters())
    loaded = dict(source.model.named_parameters())
    assert loaded.keys() == expected.keys()
    for name, value in loaded.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name].float()), name
    buffers = dict(source.model.named_buffers())
    for name, value in reference.named_buffers():
        assert buffers[name].dtype == value.dtype, name
        assert torch.equal(buffers[name], value), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", pico.FAMILIES)
def test_every_weight_is_that_of_from_pretrained(
    pico_model: Folder, name: str, dtype: torch.dtype
) -> None:
    folder = pico_model(name, dtype=dtype)
    source = open_source(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tensors = {id(t): t for t in (*reference.parameters(), *reference.buffers())}
    assert source.bytes == sum(t.nbytes for t in tensors.values())
    assert_same(source, folder)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BUFFERED)
def test_buffers_are_those_of_from_pretrained(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    model = AutoModelForCausalLM.from_config(BUFFERED[name](), dtype=dtype)
    for key, buffer in model.named_buffers():
        if key.endswith("e_score_correction_bias"):
            buffer.data = torch.randn(buffer.shape)
    model.save_pretrained(tmp_path)
    assert_same(open_source(tmp_path), tmp_path)


def test_loading_does_not_touch_the_random_state(pico_model: Folder) -> None:
    before = torch.get_rng_state()
    source = open_source(pico_model("gpt-2"))
    source.load(parameters(source))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["llama-tied", "gpt-2", "mixtral"])
def test_only_what_was_asked_for_is_real(pico_model: Folder, name: str) -> None:
    source = open_source(pico_model(name))
    assert not real(source)
    names = [n for n in parameters(source) if ".1." in n.split("experts")[0]]
    source.load(names)
    assert real(source) == set(names)
    source.release(names)
    assert not real(source)
    source.load(names)  # and again
    assert real(source) == set(names)


def test_release_gives_the_memory_back(pico_model: Folder) -> None:
    source = open_source(pico_model("llama-tied"))
    names = parameters(source)
    source.load(names)
    storages = [weakref.ref(source.model.get_parameter(n).untyped_storage()) for n in names]
    source.release(names)
    gc.collect()
    assert not [ref for ref in storages if ref() is not None]


def test_a_tied_head_follows_its_embedding(pico_model: Folder) -> None:
    model = (source := open_source(pico_model("llama-tied"))).model
    for _ in range(2):
        source.load(["model.embed_tokens.weight"])
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert not model.lm_head.weight.is_meta
        source.release(["model.embed_tokens.weight"])
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.lm_head.weight.is_meta


@pytest.mark.parametrize("name", ["llama-gqa", "mixtral"])
def test_weights_in_many_files(tmp_path: Path, name: str) -> None:
    model = pico.build(name)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same(open_source(tmp_path), tmp_path)


@pytest.fixture
def edited(pico_model: Folder, tmp_path: Path) -> Callable[..., Path]:
    """`edited(name, weights=function, **config)`: a copy of a pico model with changes."""

    def make(name: str, weights: Callable[[Weights], object] | None = None, **config: Any) -> Path:
        folder = shutil.copytree(pico_model(name), tmp_path / name)
        if weights:
            tensors = load_file(folder / WEIGHTS)
            weights(tensors)
            save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return make


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("gpt-2", "transformer."),
        ("opt", "model."),
        ("gpt-neox", "gpt_neox."),
        ("mixtral", "model."),
    ],
)
def test_a_checkpoint_of_the_base_model(edited: Folder, name: str, prefix: str) -> None:
    """As the first GPT-2 on the Hub: no prefix, and old buffers that nothing needs."""

    def strip(tensors: Weights) -> None:
        for key in list(tensors):
            tensors[key.removeprefix(prefix)] = tensors.pop(key)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
        tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    assert_same(open_source(folder := edited(name, strip)), folder)


def test_no_dtype_in_the_config(edited: Folder) -> None:
    def halve(tensors: Weights) -> None:
        tensors |= {key: value.half() for key, value in tensors.items()}

    assert open_source(edited("llama-tied", halve, dtype=None)).dtype == torch.float16


UP = "model.layers.1.mlp.up_proj.weight"


def drop(key: str) -> Callable[[Weights], object]:
    return lambda tensors: tensors.pop(key)


def change(key: str, value: Callable[[Tensor], Tensor]) -> Callable[[Weights], object]:
    return lambda tensors: tensors.update({key: value(tensors[key])})


def add(key: str) -> Callable[[Weights], object]:
    return lambda tensors: tensors.update({key: torch.zeros(4, 4)})


@pytest.mark.parametrize(
    ("name", "weights", "config", "message"),
    [
        ("llama-tied", drop(UP), {}, rf"weights for {UP} \(44, 32\) are missing"),
        (
            "llama-tied",
            None,
            {"num_hidden_layers": 3},
            r"weights for model\.layers\.2\.\S+ \(32, 32\) are missing",
        ),
        (
            "llama-tied",
            None,
            {"intermediate_size": 48},
            r"_proj.weight are \(\d+, \d+\) in the files, but config.json makes them \(\d+, \d+\)",
        ),
        (
            "llama-gqa",
            None,
            {"mlp_bias": False},
            r"hold model\.layers\.0\.mlp\.\w+\.bias, .* no pl",
        ),
        ("llama-tied", add(f"{UP}_scale"), {}, r"hold \S+weight_scale, .* no place"),
        (
            "llama-tied",
            add("model.layers.0.mlp.up_proj.lora_A.weight"),
            {},
            r"hold \S+lora_A\.weight, .* no place",
        ),
        ("llama-tied", change(UP, lambda x: x.to(torch.int8)), {}, f"{UP} are stored as I8"),
        ("llama-tied", change(UP, lambda x: x.to(torch.float8_e4m3fn)), {}, "stored as F8_E4M3"),
        ("llama-tied", None, {"quantization_config": {"quant_method": "gptq"}}, "already quantis"),
        ("llama-tied", None, {"model_type": "t5"}, "gives no causal language model: .*T5"),
        ("llama-tied", None, {"model_type": "unheard"}, "config.json cannot be read: .*unheard"),
        ("llama-tied", None, {"hidden_size": 30}, "config.json cannot be read: .*hidden size"),
        ("llama-tied", None, {"num_attention_heads": "four"}, "cannot be read: .*expected int"),
        ("llama-tied", None, {"hidden_act": "unheard"}, "gives no causal .*'unheard'"),
    ],
)
def test_a_folder_that_does_not_fit_together(
    edited: Folder, name: str, weights: Any, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        open_source(edited(name, weights, **config))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["llama-tied", "gpt-2", "opt", "gpt-neox", "phi-3", "mixtral"])
def test_layers_beyond_those_of_the_config_are_left_out_and_named(
    edited: Folder, name: str
) -> None:
    """As heads that predict further tokens are stored, which transformers does not run."""
    key = {"gpt-2": "n_layer"}.get(name, "num_hidden_layers")
    source = open_source(folder := edited(name, None, **{key: 1}))
    assert_same(source, folder)
    (remark,) = source.remarks
    assert remark.startswith("left out")
    assert ".1 (as transformers loads it)" in remark


def test_a_module_of_its_own_is_left_out_and_named(edited: Folder) -> None:
    def heads(tensors: Weights) -> None:
        tensors |= {"mtp.fc.weight": torch.ones(32, 64), "mtp.norm.weight": torch.ones(32)}

    source = open_source(folder := edited("llama-tied", heads))
    assert_same(source, folder)
    assert "does not have it: mtp (" in source.remarks[0]


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_another_task_is_refused(tmp_path: Path, tied: bool) -> None:
    """A reward model that shares its embedding has all that a language model has, and more."""
    config = pico.FAMILIES["llama-tied"]()
    config.tie_word_embeddings = tied
    for model in (AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModel):
        made = model.from_config(config)
        made.save_pretrained(folder := tmp_path / type(made).__name__)
        with pytest.raises(UserError, match=rf"is {type(made).__name__}, which is no causal lang"):
            open_source(folder)


def test_an_adapter_beside_the_weights_or_alone(edited: Folder, tmp_path: Path) -> None:
    for folder in (edited("llama-tied"), tmp_path / "alone"):
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        with pytest.raises(UserError, match=r"holds an adapter .* merge it into the model"):
            open_source(folder)


EXPERT = "model.layers.0.block_sparse_moe.experts.2.w1.weight"


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (drop(EXPERT), {}, r"weights for \S+experts\.gate_up_proj cannot be made"),
        (None, {"num_local_experts": 5}, r"experts\.down_proj are \(4, 32, 44\).*\(5, 32, 44\)"),
        (None, {"intermediate_size": 48}, r"\(4, 32, 44\) in the files, .*\(4, 32, 48\)"),
    ],
)
def test_experts_that_do_not_fuse(
    edited: Folder, weights: Any, config: dict[str, Any], message: str
) -> None:
    source = open_source(edited("mixtral", weights, **config))
    with pytest.raises(UserError, match=message):
        source.load([n for n in parameters(source) if "experts" in n])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(edited: Folder, value: float) -> None:
    def spoil(x: Tensor) -> Tensor:
        x[3, 4] = value
        return x

    source = open_source(edited("llama-tied", change(UP, spoil)))
    source.load([UP])
    with pytest.raises(UserError, match=f"weight {UP} holds NaN or infinite values"):
        source.check(UP)


def test_files_that_cannot_be_read(edited: Folder, tmp_path: Path) -> None:
    folder = edited("llama-tied")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:5000])
    with pytest.raises(UserError, match=rf"{WEIGHTS}: cannot be read as safetensors"):
        open_source(folder)
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model.safetensors or \S+index.json; save the model"):
        open_source(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        open_source(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        open_source(folder)
    with pytest.raises(UserError, match="no such folder; give a Hugging Face model folder"):
        open_source(tmp_path / "none")
    with pytest.raises(UserError, match="no such folder"):
        open_source(folder / WEIGHTS)


def test_no_tokenizer(edited: Folder) -> None:
    folder = edited("llama-tied")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="no usable tokenizer"):
        open_source(folder).tokenizer()


@pytest.mark.parametrize("model_type", ["its-own", "llama"])
def test_code_of_the_repository_is_never_run(
    pico_model: Folder, tmp_path: Path, model_type: str
) -> None:
    """A model that needs its own code is refused; one that transformers knows does without."""
    folder = shutil.copytree(pico_model("llama-tied"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": model_type, "auto_map": code})
    )
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    if model_type == "llama":
        assert open_source(folder).model
    else:
        with pytest.raises(UserError, match=r"config\.json cannot be read: .*custom code"):
            open_source(folder)
    assert not (tmp_path / "ran").exists()
