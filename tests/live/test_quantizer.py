"""Containers through transformers' own door: the same model as `bitstack.load` gives.

Also covers `live.arguments`.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Emu3Config,
    Gemma3Config,
    LlamaForCausalLM,
    PretrainedConfig,
    pipeline,
)

import pico
from bitstack import UserError, compress, kernels, load, resize
from bitstack.container import shards
from bitstack.container.manifest import MANIFEST, read_manifest

Folder = Callable[..., Path]


@pytest.fixture(scope="session")
def free(stacked: Folder) -> Folder:
    """`free(name)`: a container of eight planes, made without calibration, which is quick."""
    return lambda name: stacked(name, calibration="none")


@pytest.fixture
def container(free: Folder, tmp_path: Path) -> Path:
    """A container to be spoiled."""
    return shutil.copytree(free("llama-tied"), tmp_path / "container")


def opened(folder: Path | str, **kwargs: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, variant="bitstack", **kwargs)


def ids(tokens: int = 40) -> Tensor:
    return torch.tensor([pico.tokenizer()(pico.TEXT[:200])["input_ids"][:tokens]])


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(ids()).logits


def held(model: Any) -> dict[str, Tensor]:
    """Everything the model holds, what it makes itself included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_both_doors_save_and_reload(free: Folder, tmp_path: Path, name: str) -> None:
    """from_pretrained and load give one model; at half the bytes it is saved, and comes back
    through both doors with the same logits to the bit."""
    container = free(name)
    model, own = opened(container), load(container)
    assert torch.equal(logits(model), logits(own))
    ours, theirs = held(own), held(model)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert tensor.dtype == ours[key].dtype
        assert torch.equal(tensor, ours[key])
    assert model.bitstack.resident_bytes == own.bitstack.resident_bytes
    assert resize(model, "6bpw") == model.bitstack.resident_bytes < own.bitstack.resident_bytes
    expected, ways = logits(model), {"do_sample": False, "max_new_tokens": 6}
    assert not torch.equal(expected, logits(own))
    model.save_pretrained(tmp_path / "saved")
    for again in (opened(tmp_path / "saved"), load(tmp_path / "saved")):
        assert torch.equal(logits(again), expected)
        assert again.bitstack.levels == model.bitstack.levels
        assert again.bitstack.resident_bytes == model.bitstack.resident_bytes
        assert torch.equal(again.generate(ids(9), **ways), model.generate(ids(9), **ways))


@pytest.mark.parametrize("name", ["llama-untied", "gemma-2", "mixtral", "gpt-2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_dtype(free: Folder, tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """Dense tensors are cast, blocks are not; what is saved is of that dtype, too."""
    model = opened(free(name), dtype=dtype)
    out = logits(model)
    assert out.dtype == dtype
    expected = logits(load(free(name)))
    assert ((out.float() - expected).norm() / expected.norm()).item() < 0.1
    scales = [b for key, b in model.named_buffers() if ".scale_" in key]
    assert {s.dtype for s in scales} == {torch.float16}
    model.save_pretrained(tmp_path)
    assert read_manifest(tmp_path).dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(logits(opened(tmp_path)), out)
    assert torch.equal(logits(load(tmp_path)), out)


def test_many_shards(pico_model: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SMALLEST", 1 << 12)
    quick: dict[str, Any] = {"search_sweeps": 0, "joint_passes": 0, "calibration": "none"}
    container = compress(pico_model("qwen3"), tmp_path / "container", **quick)
    assert len(list(container.glob("model.bitstack-*"))) > 5
    model = opened(container)
    assert torch.equal(logits(model), logits(load(container)))
    model.save_pretrained(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("model.bitstack-*"))) > 5
    assert torch.equal(logits(opened(tmp_path / "saved")), logits(model))


@pytest.mark.parametrize("where", ["auto", "cpu", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}])
def test_device_maps(free: Folder, where: Any) -> None:
    model = opened(free("llama-tied"), device_map=where)
    assert torch.equal(logits(model), logits(load(free("llama-tied"))))


@pytest.mark.parametrize(
    "where", [{"model": "cpu", "lm_head": "disk"}, {"model": 0, "lm_head": "cpu"}]
)
def test_blocks_are_not_offloaded(free: Folder, where: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"device_map: puts lm_head on (disk|cpu), but blocks"):
        opened(free("llama-untied"), device_map=where, offload_folder=tmp_path)


def test_a_budget_in_the_config(free: Folder, tmp_path: Path) -> None:
    container = free("llama-tied")
    config = AutoConfig.from_pretrained(container)
    config.quantization_config["budget"] = "5bpw"
    model = opened(container, config=config)
    assert model.bitstack.levels == load(container, "5bpw").bitstack.levels
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["quantization_config"] == {"quant_method": "bitstack"}
    config.quantization_config = {"quant_method": "bitstack", "level": 2}
    assert set(opened(container, config=config).bitstack.levels) == {2}
    config.quantization_config["budget"] = "1B"
    del config.quantization_config["level"]
    with pytest.raises(UserError, match="below the floor"):
        opened(container, config=config)


def test_blocks_left_out_are_no_surprise(free: Folder) -> None:
    """transformers lists what it finds in the files and does not read: none of the blocks."""
    container = free("llama-untied")
    for level in (2, 8):  # of the lower and of the higher chain
        config = AutoConfig.from_pretrained(container)
        config.quantization_config = {"quant_method": "bitstack", "level": level}
        _, info = opened(container, config=config, output_loading_info=True)
        assert not info["unexpected_keys"]


def test_a_pipeline(free: Folder) -> None:
    made = pipeline(
        "text-generation", model=str(free("qwen2")), model_kwargs={"variant": "bitstack"}
    )
    ways: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    (result,) = made(pico.TEXT[:60], **ways)
    tokens = pico.tokenizer()(pico.TEXT[:60], return_tensors="pt")
    out = load(free("qwen2")).generate(**tokens, max_new_tokens=5, do_sample=False)
    expected = pico.tokenizer().decode(out[0, tokens["input_ids"].shape[1] :])
    assert expected.startswith(result["generated_text"].rstrip())


@pytest.fixture
def accuracy() -> Iterator[None]:
    before = kernels.get_accuracy()
    yield
    kernels.set_accuracy(before)


@pytest.mark.parametrize("name", ["llama-gqa", "gemma-3", "mixtral", "opt"])
def test_compiled_whole(free: Folder, name: str, accuracy: None) -> None:
    """One graph: no product falls back to Python. Experts branch on data, in transformers' own
    forward, and so break it; they are unpacked there, which is no product of bytes."""
    if name == "mixtral":
        kernels.set_accuracy("exact")
    model = opened(free(name))
    whole = torch.compile(model, backend="aot_eager", fullgraph=name != "mixtral")
    torch.testing.assert_close(logits(whole), logits(model), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


TEXT = {**pico.SIZES, "num_key_value_heads": 2}
MULTIMODAL: dict[str, Callable[[], PretrainedConfig]] = {
    "text part alone": lambda: Emu3Config(
        text_config=TEXT,
        vq_config={
            "codebook_size": 16,
            "embed_dim": 8,
            "latent_channels": 8,
            "base_channels": 8,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
        },
        vocabulary_map={"<image>": 5},
    ),
    "text through the whole": lambda: Gemma3Config(
        text_config={
            **TEXT,
            "head_dim": 12,
            "query_pre_attn_scalar": 12,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 20,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        },
        mm_tokens_per_image=4,
        image_token_index=300,
        boi_token_index=301,
        eoi_token_index=302,
    ),
}


@pytest.mark.parametrize("kind", MULTIMODAL)
def test_text_of_a_multimodal_model(kind: str, tmp_path: Path, text_file: Path) -> None:
    """Compressed on text, and through both doors; saved, it is still what its config says."""
    config = MULTIMODAL[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = AutoModelForCausalLM.from_config(config).eval()
    original.save_pretrained(tmp_path / "model")
    config.save_pretrained(tmp_path / "model")
    pico.tokenizer().save_pretrained(tmp_path / "model")
    few: dict[str, Any] = {"calibration": str(text_file), "num_samples": 4, "seq_len": 32}
    quick = {"search_sweeps": 0, "joint_passes": 0, "tune_steps": 0, "order": "predicted"}
    container = compress(tmp_path / "model", tmp_path / "container", **few, **quick)
    model = opened(container)
    assert type(model) is type(original)
    assert torch.equal(logits(model), logits(load(container)))
    expected = logits(original)
    assert ((logits(model) - expected).norm() / expected.norm()).item() < 0.1
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(opened(tmp_path / "saved")), logits(model))


def test_a_name_on_the_hub(free: Folder, tmp_path: Path) -> None:
    """From the Hub's cache, where every file is a link in the snapshot of a commit."""
    container, commit = free("llama-untied"), "c" * 40
    repo = tmp_path / "models--someone--something"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    shutil.copytree(container, repo / "blobs")
    for file in container.iterdir():
        (repo / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{file.name}")
    where = {"cache_dir": tmp_path, "local_files_only": True}
    model = opened("someone/something", **where)
    assert torch.equal(logits(model), logits(load(container)))
    assert resize(model, "4bpw") < load(container).bitstack.resident_bytes


def test_a_newer_container(container: Path) -> None:
    data = json.loads((container / MANIFEST).read_text())
    (container / MANIFEST).write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(UserError, match="made by a newer bitstack"):
        opened(container)


def change(container: Path, **fields: Any) -> None:
    path = container / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_newer_config(container: Path) -> None:
    change(container, quantization_config={"quant_method": "bitstack", "rotation": "hadamard"})
    with pytest.raises(UserError, match="quantization_config: rotation not known"):
        opened(container)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 48}, r"holds .* but config\.json makes it \(.*: config\.json is another"),
        ({"num_hidden_layers": 3}, r"holds model\.layers\.2\.\S+ not at all, but config\.json"),
        ({"num_hidden_layers": 1}, r"holds model\.layers\.1\.\S+ \(.*\), but .* not at all"),
        ({"vocab_size": 300}, r"holds model\.embed_tokens\.weight \(307, 32\), but .*\(300, 32\)"),
    ],
)
def test_weights_of_another_model(container: Path, fields: dict[str, Any], message: str) -> None:
    change(container, **fields)
    for door in (opened, load):
        with pytest.raises(UserError, match=message):
            door(container)


def test_a_missing_shard(container: Path) -> None:
    next(container.glob("model.bitstack-*")).write_bytes(b"short")
    with pytest.raises(UserError, match=r"5 bytes, but \d+ bytes are needed"):
        opened(container)


def test_an_unfinished_container(container: Path) -> None:
    (container / MANIFEST).unlink()
    with pytest.raises(UserError, match="not a finished bitstack container"):
        opened(container)


@pytest.mark.parametrize("name", ["gemma-2", "gemma-3", "llama-tied", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_of_load(stacked: Folder, name: str, dtype: torch.dtype) -> None:
    """Of every tensor, also the empty one in whose dtype Gemma scales its embedding."""
    container = stacked(name, dtype=dtype, calibration="none")
    model, own = opened(container), load(container)
    assert {key: t.dtype for key, t in held(model).items()} == {
        key: t.dtype for key, t in held(own).items()
    }
    assert model.dtype == model.config.dtype == own.dtype == dtype
    assert torch.equal(logits(model), logits(own))


@pytest.mark.parametrize("name", ["llama-tied", pico.OUTLIERS, "mixtral", "gpt-2"])
def test_no_report_of_unexpected_tensors(
    stacked: Folder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    signs = {"method": "signs", "rank": 2, "column_scaling": False}
    container = stacked(name, calibration="none", **(signs if name == "gpt-2" else {}))
    names = {t.rpartition(".")[2] for t in read_manifest(container).stored}
    assert ("outlier_values" in names) == (name == pico.OUTLIERS)
    with caplog.at_level("WARNING"):
        opened(container)
    assert "UNEXPECTED" not in caplog.text


def test_a_budget_as_a_keyword(free: Folder, tmp_path: Path) -> None:
    container = free("llama-tied")
    for budget in ("5bpw", "floor", 30_000):
        model = opened(container, bitstack_budget=budget)
        assert model.bitstack.levels == load(container, budget).bitstack.levels
    config = AutoConfig.from_pretrained(container, bitstack_budget="5bpw")
    assert config.bitstack_budget == "5bpw"
    config.bitstack_budget = "3bpw"
    model = opened(container, config=config)
    assert model.bitstack.levels == load(container, "3bpw").bitstack.levels
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "3bpw" not in json.dumps(saved)
    assert opened(container).bitstack.levels == load(container).bitstack.levels  # not remembered


def test_wrong_budgets_as_a_keyword(free: Folder, pico_model: Folder) -> None:
    for budget, message in (("much", "not understood"), ("100B", "below the floor")):
        with pytest.raises(UserError, match=message):
            opened(free("llama-tied"), bitstack_budget=budget)
    with pytest.raises(UserError, match="bitstack_budget 3bpw: is for containers"):
        AutoModelForCausalLM.from_pretrained(pico_model("llama-tied"), bitstack_budget="3bpw")
    assert AutoConfig.from_pretrained(pico_model("llama-tied")).bitstack_budget is None


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_without_the_variant_the_line_to_write(free: Folder, variant: str | None) -> None:
    container = free("llama-tied")
    line = rf"container of bitstack; write from_pretrained\('{container}', variant=\"bitstack\"\)"
    for kind in (AutoModelForCausalLM, LlamaForCausalLM):
        with pytest.raises(UserError, match=line):
            kind.from_pretrained(container, variant=variant)
    config = AutoConfig.from_pretrained(container)
    with pytest.raises(UserError, match=line):
        AutoModelForCausalLM.from_pretrained(container, config=config, variant=variant)
