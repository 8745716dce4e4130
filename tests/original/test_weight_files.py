"""The files that are read are those that `from_pretrained` reads, whatever else lies beside.

Also covers `original.ties`: what the files hold decides what is tied.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import pico
from bitstack.errors import UserError
from bitstack.original.source import open_source
from bitstack.original.weight_files import weight_files
from hub_server import HubServer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Folder = Callable[..., Path]
IDS = torch.arange(1, 20)[None]


def split(folder: Path, *, seed: int = 0, names: Callable[[int], str]) -> list[str]:
    """Writes the pico model `seed` in three files of other names, with their index."""
    state = pico.build("llama-untied", seed=seed).state_dict()
    weight_map = {key: names(i % 3) for i, key in enumerate(sorted(state))}
    for file in sorted(set(weight_map.values())):
        (folder / file).parent.mkdir(exist_ok=True)
        part = {key: state[key] for key in state if weight_map[key] == file}
        save_file(part, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sorted(set(weight_map.values()))


def garbage(folder: Path, name: str, seed: int = 5) -> None:
    """Writes all weights of another model as the file `name`."""
    save_file(pico.build("llama-untied", seed=seed).state_dict(), folder / name, {"format": "pt"})


def single(folder: Path) -> None:
    garbage(folder, SINGLE, seed=0)


def sharded(folder: Path) -> None:
    split(folder, names=lambda i: f"model-0000{i + 1}-of-00003.safetensors")


def other_names(folder: Path) -> None:
    split(folder, names=lambda i: f"weights.{i}.safetensors")


def below(folder: Path) -> None:
    split(folder, names=lambda i: f"parts/{i}.safetensors")


def index_beside_single(folder: Path) -> None:
    split(folder, seed=7, names=lambda i: f"model-{i}.safetensors")
    single(folder)


def named_in_config(folder: Path) -> None:
    garbage(folder, SINGLE)
    garbage(folder, "mine.safetensors", seed=0)
    config = json.loads((folder / "config.json").read_text())
    config["transformers_weights"] = "mine.safetensors"
    (folder / "config.json").write_text(json.dumps(config))


LAYOUTS = [single, sharded, other_names, below, index_beside_single, named_in_config]
STRAYS = [
    None, "model-00004-of-00004.safetensors", "model_old.safetensors", "model.safetensors.bak",
    "zzz.safetensors", "consolidated.safetensors", "model.fp16.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_weights_are_those_of_from_pretrained(
    tmp_path: Path, layout: Callable[[Path], None], stray: str | None
) -> None:
    pico.FAMILIES["llama-untied"]().save_pretrained(tmp_path)
    layout(tmp_path)
    if stray:
        garbage(tmp_path, stray)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    source = open_source(tmp_path)
    names = [name for name, _ in source.model.named_parameters()]
    source.load(names)
    wrong = [n for n in names if not torch.equal(source.model.get_parameter(n), expected[n])]
    assert not wrong
    assert source.remarks == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_hub_gives_the_same_files(
    hub: HubServer, tmp_path: Path, layout: Callable[[Path], None]
) -> None:
    folder = tmp_path / "model"
    pico.FAMILIES["llama-untied"]().save_pretrained(folder)
    layout(folder)
    garbage(folder, "model_old.safetensors")
    hub.add("someone/pico", folder)
    here, there = open_source(folder), open_source("someone/pico")
    names = [[str(f.relative_to(s.path)) for f in s.files] for s in (here, there)]
    assert names[0] == names[1]
    assert [f for f in hub.fetched() if f.endswith(".safetensors")] == names[0]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not an index of weights"),
        ("{}", "not an index of weights"),
        ('{"weight_map": {}}', "not an index of weights"),
        ('{"weight_map": {"a": 3}}', "not an index of weights"),
        ('{"weight_map": {"a": "../other.safetensors"}}', "must name files of the folder"),
        ('{"weight_map": {"a": "gone.safetensors"}}', r"gone\.safetensors: missing, but model"),
    ],
)
def test_a_broken_index(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(UserError, match=message):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    "name", ["../mine.safetensors", "pytorch_model.bin", 3, "gone.safetensors"]
)
def test_a_config_that_names_no_weights(tmp_path: Path, name: Any) -> None:
    config = pico.FAMILIES["llama-untied"]()
    config.transformers_weights = name
    with pytest.raises(UserError, match=r"transformers_weights in config|no gone\.safetensors"):
        weight_files(tmp_path, config)


# ties


def edited(folder: Path, model: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    shutil.copytree(model, folder)
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, {"format": "pt"})
    return folder


def other_head(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"])


def same_head(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def head_alone(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", [dict.copy, other_head, same_head, head_alone])
@pytest.mark.parametrize("name", ["llama-tied", "qwen3"])
def test_ties_are_those_of_from_pretrained(
    pico_model: Folder,
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Any]], object],
    dtype: torch.dtype,
) -> None:
    folder = edited(tmp_path / "m", pico_model(name, dtype=dtype), change)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    source = open_source(folder)
    names = [n for n, _ in source.model.named_parameters()]
    assert len(names) == len(dict(expected.named_parameters()))
    source.load(names)
    with torch.no_grad():
        assert torch.equal(source.model.float()(IDS).logits, expected(IDS).logits)
    assert bool(source.remarks) == (change is other_head)
    source.release(names)
    assert all(p.is_meta for p in source.model.parameters())


@pytest.mark.parametrize("change", [other_head, head_alone])
def test_a_container_of_them_computes_the_same(
    pico_model: Folder, tmp_path: Path, run: Folder, change: Callable[[dict[str, Any]], object]
) -> None:
    import bitstack

    folder = edited(tmp_path / "m", pico_model("llama-tied"), change)
    expected = AutoModelForCausalLM.from_pretrained(folder)
    container = run(folder, recipe="fast", num_samples=4, seq_len=32)
    dense = AutoModelForCausalLM.from_pretrained(bitstack.export(container, tmp_path / "dense"))
    with torch.no_grad():
        wanted = expected(IDS).logits
        for model in (bitstack.load(container), dense):
            error = (model(IDS).logits - wanted).norm() / wanted.norm()
            assert error < 0.1  # that of the wrong head is above 1
