"""The device that is named, the best one for `auto`, and a GPU of its own for every process."""

import pytest
import torch

from bitstack.errors import UserError
from bitstack.machine.device import pick_device, product_dtype


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine of two GPUs; the list gets those that were set as current."""
    current: list[int] = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.mark.parametrize(("name", "device"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_with_a_gpu(gpus: list[int], name: str, device: str) -> None:
    assert pick_device(name) == device
    assert gpus == []  # a process alone leaves the choice among several to the user


@pytest.mark.parametrize(("rank", "gpu"), [("0", 0), ("1", 1), ("3", 1)])
def test_every_process_gets_a_gpu(
    gpus: list[int], monkeypatch: pytest.MonkeyPatch, rank: str, gpu: int
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert pick_device("auto") == "cuda"
    assert gpus == [gpu]
    assert pick_device("cpu") == "cpu"
    assert gpus == [gpu]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    with pytest.raises(UserError, match="device cuda: no CUDA device was found"):
        pick_device("cuda")


def test_an_unknown_device_lists_the_allowed() -> None:
    with pytest.raises(UserError, match="device 'tpu' is unknown; allowed: auto, cpu, cuda"):
        pick_device("tpu")


@pytest.mark.parametrize(
    ("has", "dtype"),
    [
        ({"avx2": True}, torch.float32),
        ({"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False}, torch.float32),
    ],
)
def test_products_are_in_bf16_where_the_cpu_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert product_dtype("cpu") == dtype


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_products_are_in_bf16_where_the_gpu_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, has: bool, dtype: torch.dtype
) -> None:
    """Without a GPU torch's own answer depends on the machine, so it is given here."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert product_dtype("cuda") == dtype
