"""A container loads into any budget: exact bytes, only the blocks it needs, the right function.

Also covers `live.attach`, with `test_quantizer`.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from formats import matrix_of
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import pico
from bitstack import UserError, load
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.decompose.rounding import rounded
from bitstack.kernels import set_accuracy
from bitstack.machine.device import pick_device
from bitstack.nn import stacks
from bitstack.original.matrices import find_matrices
from damage import change_manifest

Folder = Callable[..., Path]
MOE = ("mixtral", "qwen3-moe")


@pytest.fixture(autouse=True, scope="module")
def _exact() -> Iterator[None]:
    """Products in fp32, so that two ways to the same matrix give the same numbers."""
    before = set_accuracy("exact")
    yield
    set_accuracy(before)


@pytest.fixture(scope="session")
def free(stacked: Folder) -> Folder:
    """`free(name)`: a container of eight planes, made without calibration, which is quick."""
    return lambda name: stacked(name, calibration="none")


def ids(tokens: int = 60) -> Tensor:
    return torch.tensor([pico.tokenizer()(pico.TEXT)["input_ids"][:tokens]])


@torch.no_grad()
def logits(model: Any, tokens: int = 60) -> Tensor:
    return model(ids(tokens)).logits.float()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def original(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def budgets(manifest: Manifest, count: int = 7) -> list[int]:
    """From the floor to everything, and a byte below a step."""
    low, high = manifest.budgets.floor_bytes, manifest.budgets.total_bytes
    even = [low + (high - low) * i // (count - 1) for i in range(count)]
    return sorted({*even, high - 1, high + 1000})


def decoded(container: Path, levels: list[int]) -> Any:
    """A plain transformers model with the weights that the stored bytes mean, decoded in numpy."""
    manifest = read_manifest(container)
    stored: dict[str, Tensor] = {}
    for shard in manifest.shards:
        stored |= load_file(container / shard.file)
    config = AutoConfig.from_pretrained(container)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, manifest.dtype)).eval()
    model.set_experts_implementation("eager")  # others want widths of multiples of 8
    with torch.no_grad():
        for dense in manifest.dense:
            if dense.persistent:
                model.state_dict()[dense.name].copy_(stored[dense.name])
        for entry, level in zip(manifest.stacks, levels, strict=True):
            own = {t.name: stored[f"{entry.name}.{t.name}"] for t in entry.spec.all()}
            value = matrix_of(entry.spec, own, level)
            target = model.get_parameter(entry.parameter)
            target = target if entry.expert is None else target[entry.expert]
            target.copy_(value.T if entry.transposed else value)
    return model


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_the_model_is_what_the_stored_bytes_mean(free: Folder, name: str) -> None:
    """At one level everywhere, and with stacks at different levels."""
    container = free(name)
    manifest = read_manifest(container)
    middle = (manifest.budgets.floor_bytes + manifest.budgets.total_bytes) // 2
    for how in ({"level": 1}, {"level": 3}, {"budget": middle}, {"level": 8}):
        model = load(container, **how)
        assert distance(logits(model), logits(decoded(container, model.bitstack.levels))) < 1e-5


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_resident_bytes_are_as_planned_for_every_budget(free: Folder, name: str) -> None:
    container = free(name)
    manifest = read_manifest(container)
    sizes_and_levels = []
    for budget in budgets(manifest):
        model = load(container, budget)
        levels, planned = manifest.budgets.levels(budget)
        live = {id(t): t for t in (*model.parameters(), *model.buffers())}
        assert not any(t.is_meta for t in live.values())
        assert sum(t.nbytes for t in live.values()) == planned == model.bitstack.resident_bytes
        assert planned <= budget
        assert model.bitstack.levels == levels
        sizes_and_levels.append((planned, levels))
    assert sizes_and_levels[0][1] == [1] * len(manifest.stacks)
    assert sizes_and_levels[-1][1] == [8] * len(manifest.stacks)
    for (small, low), (large, high) in pairwise(sizes_and_levels):
        assert small <= large
        assert all(a <= b for a, b in zip(low, high, strict=True))


@pytest.mark.parametrize("name", [name for name in pico.FAMILIES if name != pico.OUTLIERS])
def test_all_planes_are_near_the_original(pico_model: Folder, free: Folder, name: str) -> None:
    """Without calibration every matrix is within 1e-4 (squared); logits within 3.5% of their norm
    (measured: 1.0% to 3.3%). A router may choose another expert for a token, and later ones see it:
    of mixtures those of a quarter of the tokens."""
    packed, wanted = logits(load(free(name))), logits(original(pico_model(name)))
    errors = (packed - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    error = float(errors.quantile(0.25)) if name in MOE else distance(packed, wanted)
    assert error < 0.035


@pytest.mark.parametrize("level", [3, 4, 6, 8])
def test_a_model_with_outliers_is_nearer_than_rounded(
    pico_model: Folder, stacked: Folder, level: int
) -> None:
    """It hangs on a few weights and on inputs of 1e3, which only a text tells of. Rounded are
    all matrices to as many bits, in groups of 64, which takes more bytes."""
    wanted = logits(original(pico_model(pico.OUTLIERS)))
    rough = original(pico_model(pico.OUTLIERS))
    with torch.no_grad():
        for matrix in find_matrices(rough, embeddings=True):
            weight = matrix.of(rough.get_parameter(matrix.parameter))
            weight.copy_(rounded(weight, level))
    packed = load(stacked(pico.OUTLIERS, search_sweeps=1, num_samples=8), level=level)
    assert distance(logits(packed), wanted) < distance(logits(rough), wanted)


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_more_bytes_are_nearer_to_the_original(pico_model: Folder, free: Folder, name: str) -> None:
    reference = logits(original(pico_model(name))).log_softmax(-1)
    container = free(name)
    manifest = read_manifest(container)

    def divergence(budget: int) -> float:
        packed = logits(load(container, budget)).log_softmax(-1)
        return float((reference.exp() * (reference - packed)).sum(-1).mean())

    low, high = manifest.budgets.floor_bytes, manifest.budgets.total_bytes
    some = [divergence(low + (high - low) * share // 3) for share in range(4)]
    assert some[3] < some[0] / 20
    assert some[2] < some[0] / 2


@pytest.mark.parametrize("name", ["llama-tied", "gemma-3", "gpt-2", "mixtral"])
def test_only_the_needed_tensors_are_read(
    free: Folder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = free(name)
    manifest = read_manifest(container)
    read: list[str] = []
    get = BlockReader.get
    monkeypatch.setattr(
        BlockReader, "get", lambda self, name: (read.append(name), get(self, name))[1]
    )
    for budget in budgets(manifest, 3):
        read.clear()
        model = load(container, budget)
        assert sorted(read) == sorted(set(manifest.tensors(model.bitstack.levels)))


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_generate_and_the_rest_of_a_transformers_model(free: Folder, name: str) -> None:
    model = load(free(name), level=4)
    assert not model.training
    out = model.generate(ids(9), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    with torch.no_grad():  # the cache gives what a run without it gives
        again = ids(9)
        for step in range(8):
            scores = model(again, use_cache=False).logits[:, -1]
            if step < 8:
                scores[:, 0] = -torch.inf  # the end token, which min_new_tokens forbids
            again = torch.cat([again, scores.argmax(-1, keepdim=True)], 1)
    assert torch.equal(out, again)
    state = model.state_dict()
    assert not any(t.is_meta for t in state.values())
    before = logits(model)
    for tensor in state.values():
        tensor.zero_() if tensor.is_floating_point() else None
    assert not torch.equal(logits(model), before)
    model.load_state_dict(load(free(name), level=4).state_dict())
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name", ["llama-gqa", "gemma-2", "mixtral", "gpt-2", "phi-3"])
def test_bfloat16(pico_model: Folder, stacked: Folder, name: str) -> None:
    container = stacked(name, dtype=torch.bfloat16, blocks=3)
    manifest = read_manifest(container)
    assert manifest.dtype == "bfloat16"
    model = load(container)
    assert model.dtype == torch.bfloat16
    assert model(ids()).logits.dtype == torch.bfloat16
    assert model.bitstack.resident_bytes == manifest.budgets.total_bytes
    source = original(pico_model(name, dtype=torch.bfloat16))
    tensors = {id(t): t for t in (*source.parameters(), *source.buffers())}
    assert manifest.original_bytes == sum(t.nbytes for t in tensors.values())
    packed, expected = logits(model)[0], logits(decoded(container, model.bitstack.levels))[0]
    apart = (packed - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert apart.median() < 0.03  # single tokens may take another expert


@pytest.mark.parametrize("name", ["llama-tied", "gemma-3", "gpt-2", "opt"])
def test_a_tied_head_counts_once(free: Folder, name: str) -> None:
    container = free(name)
    entries = [e for e in read_manifest(container).stacks if e.layer is None]
    assert [e.kind for e in entries] == ["embedding"]
    model = load(container, level=2)
    assert [n for n in stacks(model) if "lm_head" in n] == []
    assert not [n for n in model.state_dict() if "lm_head" in n]
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert torch.equal(head.weight, embedding.weight)


@pytest.mark.parametrize("name", ["llama-tied", "llama-untied", "gemma-2", "gpt-2", "opt"])
def test_dense_embeddings(pico_model: Folder, stacked: Folder, name: str) -> None:
    container = stacked(name, embeddings="dense", blocks=2)
    manifest = read_manifest(container)
    assert {e.kind for e in manifest.stacks} <= {"linear", "conv1d"}
    model, reference = load(container), original(pico_model(name))
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert torch.equal(embedding.weight, reference.get_input_embeddings().weight)
    assert torch.equal(head.weight, reference.get_output_embeddings().weight)
    assert (head.weight is embedding.weight) == (name != "llama-untied")
    assert model.bitstack.resident_bytes == manifest.budgets.total_bytes
    ends = 1 if head.weight is embedding.weight else 2
    names = ("embed_tokens.weight", "head.weight", "wte.weight")
    dense = sum(d.bytes for d in manifest.dense if d.name.endswith(names))
    assert dense == ends * embedding.weight.nbytes
    assert model.generate(ids(9), max_new_tokens=3, do_sample=False).shape[1] <= 12


def test_budgets_in_words(free: Folder) -> None:
    container = free("llama-tied")
    manifest = read_manifest(container)
    half = load(container, "50%")
    assert half.bitstack.resident_bytes <= manifest.original_bytes // 2
    three = load(container, "5bpw")
    assert 4.5 < three.bitstack.bits_per_weight <= 5
    assert load(container, "1MiB").bitstack.levels == load(container).bitstack.levels
    assert load(container, level=1).bitstack.resident_bytes == manifest.budgets.floor_bytes


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"budget": 1000}, r"below the floor of this model: \d+ bytes"),
        ({"budget": "10XB"}, r"budget '10XB' is not understood"),
        ({"level": 9}, "level is 9; it must be from 1 to 8"),
        ({"level": 0}, "level is 0; it must be from 1 to 8"),
        ({"level": 2, "budget": "50%"}, "a budget or a level, not both"),
    ],
)
def test_what_cannot_be_bought(free: Folder, how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(free("llama-tied"), **how)


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu:0", torch.device("cpu")])
def test_devices(free: Folder, device: str | torch.device) -> None:
    """ "auto" is the device of the other functions; whatever torch takes is taken."""
    model = load(free("llama-tied"), level=1, device=device)
    expected = pick_device("auto") if device == "auto" else "cpu"
    assert model.device.type == expected
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {expected}


def test_a_container_without_its_config(free: Folder, tmp_path: Path) -> None:
    container = shutil.copytree(free("llama-tied"), tmp_path / "container")
    (container / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        load(container)
    (container / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        load(container)


def test_generation_settings_come_along(free: Folder, tmp_path: Path) -> None:
    container = shutil.copytree(free("llama-tied"), tmp_path / "container")
    path = container / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.25}))
    with pytest.raises(UserError, match=r"on purpose, delete its line under \"files\" in bitstack"):
        load(container)
    change_manifest(container, lambda data: data["files"].pop(path.name) and None, signed=False)
    assert load(container).generation_config.temperature == 0.25


@pytest.mark.parametrize("name", ["llama-untied", "mixtral", "gpt-2"])
def test_plain_transformers_does_not_take_it_for_its_own(free: Folder, name: str) -> None:
    """Random weights with a warning would be worse than an error."""
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(free(name))
