"""Devices, device maps and dtypes of `bitstack.load`, and those that are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import pico
from bitstack import UserError, load
from bitstack.live import placement as module
from bitstack.live.placement import check_dtype, placement, spread_out

Folder = Callable[..., Path]


@pytest.fixture(scope="session")
def free(stacked: Folder) -> Folder:
    return lambda name: stacked(name, calibration="none")


def logits(model: Any) -> torch.Tensor:
    ids = pico.tokenizer()(pico.TEXT[:100], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out: torch.Tensor = model(ids).logits
    return out


def dtypes(model: Any) -> dict[str, torch.dtype]:
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.dtype for name, tensor in held.items()}


@pytest.mark.parametrize("name", ["llama-untied", "gemma-2", "mixtral", "gpt-2", "opt", "phi-3"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_dtype_is_that_of_from_pretrained(free: Folder, name: str, dtype: torch.dtype) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(free(name), variant="bitstack", dtype=dtype)
    ours = load(free(name), dtype=dtype)
    assert ours.dtype == ours.config.dtype == dtype
    assert dtypes(ours) == dtypes(theirs)
    assert torch.equal(logits(ours), logits(theirs))


def test_names_of_dtypes(free: Folder) -> None:
    assert load(free("llama-tied"), dtype="bfloat16").dtype == torch.bfloat16
    for same in (None, "auto"):
        assert load(free("llama-tied"), dtype=same).dtype == torch.float32
    for wrong in ("bf16", "int8", torch.int64, "float64", 3):
        with pytest.raises(UserError, match=r"dtype .*: cannot be used; allowed: auto, bfloat16"):
            check_dtype(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "where",
    ["auto", "balanced", "sequential", "cpu", torch.device("cpu"), {"": "cpu"},
     {"model": "cpu", "lm_head": torch.device("cpu")}],
)  # fmt: skip
def test_device_maps(free: Folder, where: Any) -> None:
    model = load(free("llama-untied"), "4bpw", device_map=where)
    assert torch.equal(logits(model), logits(load(free("llama-untied"), "4bpw")))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"model": "cpu", "lm_head": "disk"}, "puts lm_head on disk, but blocks are not offloaded"),
        ({"model": 0, "lm_head": "cpu"}, "puts lm_head on cpu, but blocks are not offloaded"),
        ("nowhere", "device nowhere: cannot be used"),
        ("meta", "it holds no data"),
        ({"": "meta"}, "it holds no data"),
    ],
)
def test_maps_that_cannot_be(free: Folder, where: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(free("llama-untied"), device_map=where)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs here")
def test_gpus_that_are_not_here(free: Folder) -> None:
    for where in (0, "cuda:1", {"": 0}, {"model": 0, "lm_head": 1}):
        with pytest.raises(UserError, match=r"device cuda:[01]: cannot be used"):
            load(free("llama-untied"), device_map=where)


def test_one_of_device_and_map() -> None:
    with pytest.raises(UserError, match="give one of them, not both"):
        placement("cuda", "auto")
    assert placement("cpu", None) == ("cpu", None)
    assert placement("cpu", "auto") == ("cpu", "auto")


def test_a_model_too_large_for_the_gpu(free: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a part would stay on the CPU beside it: refused, as by `from_pretrained`."""
    found = {"model": 0, "lm_head": "cpu"}
    monkeypatch.setattr(module, "infer_auto_device_map", lambda *_, **__: found)
    with pytest.raises(UserError, match="on cpu, but blocks are not offloaded"):
        spread_out(load(free("llama-untied")), "auto")


def test_several_devices_are_dispatched(free: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their map goes to accelerate as it is; a map without a place for a part is refused."""
    seen: list[Any] = []
    monkeypatch.setattr(module, "dispatch_model", lambda _, **kwargs: seen.append(kwargs))
    model = load(free("llama-untied"))
    spread_out(model, {"model": 0, "lm_head": 1})
    assert seen[0]["device_map"] == {"model": 0, "lm_head": 1}
    monkeypatch.undo()
    with pytest.raises(UserError, match="device_map: The device_map provided does not give"):
        spread_out(model, {"model.embed_tokens": "cuda:0", "model.norm": "cuda:1"})
