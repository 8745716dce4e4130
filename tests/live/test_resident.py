"""A live model goes to any budget and back: the same bits as a fresh load, and all or nothing."""

import copy
import importlib
import importlib.util
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

import bitstack
import pico
from bitstack import UserError, load, resize
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.machine.pages import process_bytes
from damage import change_manifest

Folder = Callable[..., Path]
IDS = torch.arange(40)[None] * 7 % pico.VOCABULARY
SCRIPTS = Path(__file__).parents[2] / "scripts"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def free(stacked: Folder) -> Folder:
    """Containers made without calibration, which is quick; `paper` is the published format,
    `chains` has three sets of planes."""

    def container(name: str) -> Path:
        if name == "paper":
            fields = {"method": "signs", "blocks": 3, "rank": 2, "column_scaling": False}
            return stacked("llama-gqa", calibration="none", **fields)
        if name == "chains":
            return stacked("llama-tied", calibration="none", chains=(2, 4))
        return stacked(name, calibration="none")

    return container


@pytest.fixture
def own(free: Folder, tmp_path: Path) -> Path:
    """A container that a test may break."""
    return shutil.copytree(free("llama-gqa"), tmp_path / "container")


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(IDS).logits


def budgets(manifest: Manifest, count: int, seed: int = 0) -> list[int]:
    low, high = manifest.budgets.floor_bytes, manifest.budgets.total_bytes
    rng = random.Random(seed)
    return [low, high, *[rng.randint(low, high) for _ in range(count)], high + 1000]


def state(model: Any) -> dict[str, Any]:
    """Everything a failing resize must leave alone."""
    tensors = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    return {"levels": list(model.bitstack.levels), "tensors": tensors, "out": logits(model)}


def assert_same(model: Any, before: dict[str, Any]) -> None:
    now = state(model)
    assert now["levels"] == before["levels"]
    assert now["tensors"].keys() == before["tensors"].keys()
    for name, (identity, value) in before["tensors"].items():
        assert now["tensors"][name][0] == identity
        assert torch.equal(now["tensors"][name][1], value)
    assert torch.equal(now["out"], before["out"])


@pytest.mark.parametrize("name", ["llama-gqa", "gemma-3", "gpt-2", "mixtral", "paper", "chains"])
def test_a_resized_model_is_a_fresh_one(free: Folder, name: str) -> None:
    """Bit for bit, whatever the way there."""
    manifest = read_manifest(free(name))
    model = load(free(name), level=2)
    for budget in budgets(manifest, 5):
        fresh = load(free(name), budget)
        assert resize(model, budget) == manifest.budgets.levels(budget)[1]
        assert model.bitstack.levels == fresh.bitstack.levels
        assert model.bitstack.resident_bytes == fresh.bitstack.resident_bytes
        assert model.bitstack.bits_per_weight == fresh.bitstack.bits_per_weight
        ours, theirs = model.state_dict(), fresh.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert torch.equal(logits(model), logits(fresh))


def test_only_what_lies_between_two_budgets_is_read(
    free: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = free("llama-gqa")
    manifest = read_manifest(container)
    model = load(container)
    read: list[str] = []
    get = BlockReader.get
    monkeypatch.setattr(
        BlockReader, "get", lambda self, name: (read.append(name), get(self, name))[1]
    )
    for budget in budgets(manifest, 6):
        held = set(manifest.tensors(model.bitstack.levels))
        kept = {name: id(t) for name, t in model.named_buffers()}
        read.clear()
        resize(model, budget)
        needed = set(manifest.tensors(model.bitstack.levels))
        assert sorted(read) == sorted(needed - held)
        for name, tensor in model.named_buffers():
            assert id(tensor) == kept.get(name, id(tensor))  # what stays is not touched


def test_budgets_in_words_and_the_method(free: Folder) -> None:
    model = load(free("llama-gqa"), level=1)
    everything = model.bitstack.manifest.budgets.total_bytes
    assert model.bitstack.resize("5bpw") == model.bitstack.resident_bytes < everything
    assert 4 < model.bitstack.bits_per_weight <= 5
    assert resize(model, "1GiB") == everything  # more than there is gives all there is
    resize(model, "50%")
    assert resize(model) == everything


def truncate(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])


def delete_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[-1].unlink()


def other_tensors(folder: Path) -> None:
    """Of the same size, but of another dtype."""
    for shard in folder.glob("*.safetensors"):
        size = int.from_bytes(shard.read_bytes()[:8], "little")
        data = bytearray(shard.read_bytes())
        data[8 : 8 + size] = data[8 : 8 + size].replace(b'"F16"', b'"I16"')
        shard.write_bytes(data)


def other_manifest(folder: Path) -> None:
    change_manifest(folder, lambda data: data.update(base_model="other"))


def broken_header(folder: Path) -> None:
    for shard in folder.glob("*.safetensors"):
        data = bytearray(shard.read_bytes())
        data[:8] = (len(data) * 2).to_bytes(8, "little")
        shard.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"bytes are needed for this budget"),
        (delete_shard, r"safetensors: missing"),
        (shutil.rmtree, r"no such folder"),
        (other_tensors, r"is \[\d+\] of I16, but must be \[\d+\] of float16"),
        (other_manifest, r"bitstack.json: was changed since the model was loaded"),
        (broken_header, r"the file ends within the header"),
    ],
)
def test_a_container_that_changed(own: Path, damage: Callable[[Path], None], message: str) -> None:
    model = load(own, level=3)
    before = state(model)
    damage(own)
    with pytest.raises(UserError, match=message) as error:
        resize(model)
    assert "the model runs on as it was" in str(error.value)
    assert_same(model, before)


@pytest.mark.parametrize("failing", [OSError("disk is gone"), MemoryError(), KeyboardInterrupt()])
def test_all_or_nothing(
    free: Folder, monkeypatch: pytest.MonkeyPatch, failing: BaseException
) -> None:
    """Also where one of the last of many reads fails."""
    model = load(free("llama-gqa"), level=3)
    before = state(model)
    reads = 0
    real = BlockReader._read

    def read(self: BlockReader, path: Path, name: str) -> Tensor:
        nonlocal reads
        reads += 1
        if reads == 40:
            raise failing
        return real(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(BlockReader, "_read", read)
        expected = KeyboardInterrupt if isinstance(failing, KeyboardInterrupt) else UserError
        with pytest.raises(expected):
            resize(model)
    assert reads == 40
    assert_same(model, before)
    assert resize(model) == read_manifest(free("llama-gqa")).budgets.total_bytes


def test_below_the_floor(free: Folder) -> None:
    model = load(free("llama-gqa"), level=3)
    before = state(model)
    with pytest.raises(UserError, match="below the floor of this model"):
        resize(model, 1000)
    with pytest.raises(UserError, match="is not understood"):
        resize(model, "much")
    assert_same(model, before)


def test_models_that_have_no_blocks(free: Folder) -> None:
    with pytest.raises(UserError, match="was not loaded by"):
        resize(pico.build("llama-gqa"), "50%")
    with pytest.raises(UserError, match="moved to the meta device"):
        resize(load(free("llama-gqa"), level=1).to("meta"))
    for device in ("meta", "cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"device {device}: cannot be used"):
            load(free("llama-gqa"), device=device)


def test_a_resize_from_within_a_forward(free: Folder) -> None:
    model = load(free("llama-gqa"), level=2)
    before = state(model)
    hook = model.model.layers[0].register_forward_hook(lambda *_: resize(model))
    with pytest.raises(UserError, match="called from within a forward of the same model"):
        model(IDS)
    hook.remove()
    assert_same(model, before)
    resize(model)  # the forward that failed has let go
    model.register_forward_hook(lambda *_: print(resize(model, "5bpw")))  # behind it, not within
    assert torch.isfinite(logits(model)).all()


def test_one_module_of_a_model_is_of_one_level(free: Folder) -> None:
    """Modules called by themselves hold no lock; each product still sees one level."""
    model = load(free("llama-gqa"))
    stack = model.bitstack.stacks[3]
    manifest = model.bitstack.manifest
    right = {}
    for level in range(1, 9):
        resize(model, manifest.budgets.resident_bytes([level] * len(manifest.stacks)))
        right[level] = stack.dequantize()
    assert not torch.equal(right[1], right[8])
    over = threading.Event()

    def change() -> None:
        rng = random.Random(0)
        while not over.is_set():
            resize(model, rng.randint(manifest.budgets.floor_bytes, manifest.budgets.total_bytes))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(400):
            values = stack.dequantize()
            assert any(torch.equal(values, value) for value in right.values())
    finally:
        over.set()
        thread.join(20)


def test_a_copy_is_a_model_of_its_own(free: Folder) -> None:
    model = load(free("llama-gqa"), level=2)
    other = copy.deepcopy(model)
    before = state(model)
    everything = logits(load(free("llama-gqa")))
    with model.bitstack.guard.forward():  # holds the first, not the second
        thread = threading.Thread(target=resize, args=(other,))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert torch.equal(logits(other), everything)
    assert torch.equal(other.generate(IDS[:, :5], max_new_tokens=3)[:, :5], IDS[:, :5])
    assert_same(model, before)


def test_a_model_under_torch_compile(free: Folder) -> None:
    model = load(free("llama-gqa"), level=2)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for budget in ("2bpw", None):
            resize(compiled, budget)
            torch.testing.assert_close(compiled(IDS).logits, logits(model))
    torch._dynamo.reset()


def test_a_resize_under_inference_mode_leaves_a_model_that_can_learn(free: Folder) -> None:
    model = load(free("llama-gqa"), level=1)
    with torch.inference_mode():
        resize(model)
    embedded = model.get_input_embeddings()(IDS).requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert torch.isfinite(embedded.grad).all()


def test_memory_goes_back_to_the_system(tmp_path: Path) -> None:
    """By the resident set of the process, within 5% of the bytes that were given up and taken."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=1024, intermediate_size=4096, num_hidden_layers=8,
        num_attention_heads=8, tie_word_embeddings=True,
    )  # fmt: skip
    container = load_script("random_container").random_container(tmp_path, config)
    model = load(container)
    resident = model.bitstack
    levels, sizes = len(resident.stacks), resident.manifest.budgets
    for level in (1, 4, 2, 3, 1, 4):
        before, held = process_bytes(), resident.resident_bytes
        bitstack.resize(model, sizes.resident_bytes([level] * levels))
        moved = resident.resident_bytes - held
        assert abs(moved) > 15e6
        assert process_bytes() - before == pytest.approx(moved, rel=0.05)
