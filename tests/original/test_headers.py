"""Headers tell which stored tensors make which parameter, without reading a value.

What happens with a checkpoint that does not fit its config stands in `test_source.py`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

import pico
from bitstack.errors import UserError
from bitstack.original.headers import (
    Header,
    check_checkpoint,
    keys_by_tensor,
    mismatch,
    one_line,
    read_headers,
    stored_dtype,
)
from bitstack.original.source import skeleton

Folder = Callable[..., Path]


def empty(name: str) -> PreTrainedModel:
    return skeleton(pico.FAMILIES[name](), torch.float32)


def test_headers_of_all_files(tmp_path: Path) -> None:
    first, second = tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, first)
    save_file({"b": torch.zeros(4), "c": torch.zeros((), dtype=torch.int64)}, second)
    save_file({"d": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")  # of another tool
    assert read_headers(tmp_path) == {
        "a": Header(first, "BF16", (2, 3)),
        "b": Header(second, "F32", (4,)),
        "c": Header(second, "I64", ()),
    }


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\*\.safetensors file"):
        read_headers(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read as safetensors"):
        read_headers(tmp_path)


def test_the_dtype_is_that_of_the_first_floating_tensor() -> None:
    path = Path("model.safetensors")
    ids, half = Header(path, "I64", (1,)), Header(path, "F16", (1,))
    assert stored_dtype({"ids": ids, "a": half, "b": Header(path, "F32", (1,))}) == torch.float16
    assert stored_dtype({"ids": ids}) == torch.float32


@pytest.mark.parametrize("name", ["llama-untied", "gpt-2", "opt", "mixtral"])
def test_every_parameter_has_its_stored_tensors(pico_model: Folder, name: str) -> None:
    model, headers = empty(name), read_headers(pico_model(name))
    keys = keys_by_tensor(model, headers)
    tied = set(model.all_tied_weights_keys)
    assert set(keys) == {n for n, _ in model.named_parameters(remove_duplicate=False)} - tied
    assert sorted(key for parts in keys.values() for key in parts) == sorted(headers)
    check_checkpoint(Path("folder"), model, headers, keys)


def test_experts_are_made_of_one_tensor_each_or_two(pico_model: Folder) -> None:
    keys = keys_by_tensor(empty("mixtral"), read_headers(pico_model("mixtral")))
    stored = "model.layers.1.block_sparse_moe.experts.{}.{}.weight"
    fused = "model.layers.1.mlp.experts.{}_proj"
    assert set(keys[fused.format("down")]) == {stored.format(e, "w2") for e in range(4)}
    assert set(keys[fused.format("gate_up")]) == {
        stored.format(e, part) for e in range(4) for part in ("w1", "w3")
    }


def test_a_tensor_without_a_place(pico_model: Folder) -> None:
    """One that belongs to a matrix is refused; a buffer of old versions means nothing."""
    model, headers = empty("llama-tied"), read_headers(pico_model("llama-tied"))
    other = Header(Path("model.safetensors"), "F32", (4,))
    old = headers | {"model.layers.0.self_attn.rotary_emb.inv_freq": other}
    check_checkpoint(Path("folder"), model, old, keys_by_tensor(model, old))
    wrong = headers | {"model.layers.0.mlp.up_proj.bias": other}
    with pytest.raises(UserError, match=r"hold model\.layers\.0\.mlp\.up_proj\.bias, which the"):
        check_checkpoint(Path("folder"), model, wrong, keys_by_tensor(model, wrong))


def test_a_mismatch_names_both_shapes() -> None:
    error = mismatch(Path("folder"), "x.weight", (2, 3), (4, 3))
    assert str(error).startswith(
        "folder: weights for x.weight are (2, 3) in the files, but config.json makes them (4, 3)"
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one\n  two\tthree"), "one two three"),
        (KeyError("name"), "KeyError: 'name'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_one_line(error: Exception, text: str) -> None:
    assert one_line(error) == text
    assert len(one_line(ValueError("word " * 200))) <= 300
