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
    read_headers,
    stored_dtype,
)
from bitstack.original.skeleton import skeleton
from bitstack.original.weight_files import weight_files

Folder = Callable[..., Path]


def empty(name: str) -> PreTrainedModel:
    return skeleton(pico.FAMILIES[name](), torch.float32)


def test_headers_of_all_files(tmp_path: Path) -> None:
    first, second = tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, first)
    save_file({"b": torch.zeros(4), "c": torch.zeros((), dtype=torch.int64)}, second)
    assert read_headers([first, second]) == {
        "a": Header(first, "a", "BF16", (2, 3)),
        "b": Header(second, "b", "F32", (4,)),
        "c": Header(second, "c", "I64", ()),
    }


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read as safetensors"):
        read_headers([file])
    save_file({}, file)
    with pytest.raises(UserError, match=r"model\.safetensors: holds no tensors"):
        read_headers([file])


def test_the_dtype_is_that_of_the_first_floating_tensor() -> None:
    path = Path("model.safetensors")
    ids, half = Header(path, "ids", "I64", (1,)), Header(path, "a", "F16", (1,))
    single = Header(path, "b", "F32", (1,))
    assert stored_dtype({"ids": ids, "a": half, "b": single}) == torch.float16
    assert stored_dtype({"ids": ids}) == torch.float32


@pytest.mark.parametrize("name", ["llama-untied", "gpt-2", "opt", "mixtral"])
def test_every_parameter_has_its_stored_tensors(pico_model: Folder, name: str) -> None:
    model, headers = empty(name), read_headers(weight_files(pico_model(name)))
    keys = keys_by_tensor(model, headers)
    tied = set(model.all_tied_weights_keys)
    assert set(keys) == {n for n, _ in model.named_parameters(remove_duplicate=False)} - tied
    assert sorted(key for parts in keys.values() for key in parts) == sorted(headers)
    check_checkpoint(Path("folder"), model, headers, keys)


def test_experts_are_made_of_one_tensor_each_or_two(pico_model: Folder) -> None:
    keys = keys_by_tensor(empty("mixtral"), read_headers(weight_files(pico_model("mixtral"))))
    stored = "model.layers.1.block_sparse_moe.experts.{}.{}.weight"
    fused = "model.layers.1.mlp.experts.{}_proj"
    assert set(keys[fused.format("down")]) == {stored.format(e, "w2") for e in range(4)}
    assert set(keys[fused.format("gate_up")]) == {
        stored.format(e, part) for e in range(4) for part in ("w1", "w3")
    }


def test_a_mismatch_names_both_shapes() -> None:
    error = mismatch(Path("folder"), "x.weight", (2, 3), (4, 3))
    assert str(error).startswith(
        "folder: weights for x.weight are (2, 3) in the files, but config.json makes them (4, 3)"
    )
