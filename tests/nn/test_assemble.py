"""A skeleton filled from a container holds its tensors to the bit, and no other model's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from formats import matrix_of
from transformers import PreTrainedModel

from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.nn import resident_bytes, stacks
from bitstack.nn.assemble import assemble, check_config, fill, fill_stacks, prepare, tensor_reader
from bitstack.original.skeleton import skeleton
from bitstack.original.source import load_config

Folder = Callable[..., Path]
FAMILIES = ["llama-tied", "gpt-2", "mixtral"]  # a tied head, transposed matrices, experts
IDS = torch.arange(1, 9)[None]


@pytest.fixture(params=FAMILIES)
def container(stacked: Folder, request: pytest.FixtureRequest) -> Path:
    return stacked(request.param, blocks=2)


def empty(container: Path, **config: int) -> PreTrainedModel:
    """The skeleton of the container's config, with other values for some fields."""
    made = load_config(container)
    for name, value in config.items():
        setattr(made, name, value)
    return skeleton(made, torch.float32)


def assembled(container: Path, levels: list[int]) -> tuple[PreTrainedModel, Manifest, BlockReader]:
    manifest, reader = read_manifest(container), BlockReader(container)
    model = assemble(empty(container), manifest.stacks, manifest.dense, reader, levels)
    return model, manifest, reader


def mixed_levels(container: Path) -> list[int]:
    return [1 + i % 2 for i in range(len(read_manifest(container).stacks))]


def test_every_tensor_is_the_containers(container: Path) -> None:
    levels = mixed_levels(container)
    model, manifest, reader = assembled(container, levels)
    by_name = stacks(model)
    assert list(by_name) != []
    for entry, level in zip(manifest.stacks, levels, strict=True):
        stack = by_name.pop(entry.name)
        stored = {t.name: reader.get(f"{entry.name}.{t.name}") for t in entry.spec.all()}
        assert stack.level == level
        torch.testing.assert_close(stack.dequantize(), matrix_of(entry.spec, stored, level))
    assert by_name == {}
    state = model.state_dict()
    for dense in manifest.dense:
        if dense.persistent:
            assert torch.equal(state[dense.name], reader.get(dense.name))
    assert resident_bytes(model) == manifest.budgets.resident_bytes(levels)
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert not model.training
    assert model(IDS).logits.isfinite().all()


def test_stacks_go_to_other_levels(container: Path) -> None:
    levels = mixed_levels(container)
    model, manifest, reader = assembled(container, [1] * len(levels))
    fill_stacks(model, manifest.stacks, levels, reader)
    direct, _, _ = assembled(container, levels)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, direct(IDS).logits)
    assert resident_bytes(model) == manifest.budgets.resident_bytes(levels)


def test_places_that_another_loader_fills(container: Path) -> None:
    levels, manifest = mixed_levels(container), read_manifest(container)
    model = empty(container)
    prepare(container, model, manifest, levels, torch.float32)
    for entry, level in zip(manifest.stacks, levels, strict=True):
        stack = stacks(model)[entry.name]
        places = {name: (b.shape, b.dtype) for name, b in stack.named_buffers()}
        assert places == {
            t.name: (t.shape, getattr(torch, t.dtype)) for t in entry.spec.resident(level)
        }
        assert stack.device.type == "meta"
    assert set(model.state_dict()) == {d.name for d in manifest.dense if d.persistent}


def test_one_stacks_tensors_by_their_own_names(stacked: Folder) -> None:
    reader = BlockReader(stacked("llama-tied", blocks=2))
    name = "model.layers.1.mlp.up_proj"
    read = tensor_reader(reader, name)
    assert torch.equal(read("plane_2"), reader.get(f"{name}.plane_2"))


def test_filling_a_parameter_or_a_buffer() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3, device="meta"))
    fill(model, "0.weight", torch.tensor([1.0, 2.0, 3.0]))
    fill(model, "0.running_mean", torch.tensor([4.0, 5.0, 6.0]))
    weight = model[0].weight
    assert isinstance(weight, torch.nn.Parameter)
    assert (weight.tolist(), weight.requires_grad) == ([1, 2, 3], False)
    assert "0.running_mean" in dict(model.named_buffers())
    assert model[0].running_mean.tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("llama-tied", {"intermediate_size": 48}, r"down_proj\S* \(32, 44\), .* it \(32, 48\)"),
        ("llama-tied", {"num_hidden_layers": 3}, r"holds model\.layers\.2\S+ not at all, but"),
        ("llama-tied", {"num_hidden_layers": 1}, r"layers\.1\S+ \(32,\), .* makes it not at all"),
        ("gpt-2", {"n_inner": 48}, r"c_fc\S* \(44,\), .* makes it \(48,\)"),
        ("mixtral", {"num_local_experts": 3}, r"experts\S+ \(4, 32, 44\), .* it \(3, 32, 44\)"),
    ],
)
def test_a_config_of_another_model(
    stacked: Folder, name: str, config: dict[str, int], message: str
) -> None:
    container = stacked(name, blocks=2)
    manifest = read_manifest(container)
    check_config(container, empty(container), manifest)
    with pytest.raises(UserError, match=message):
        check_config(container, empty(container, **config), manifest)
    levels = [1] * len(manifest.stacks)
    with pytest.raises(UserError, match="is another model's; copy the container again"):
        prepare(container, empty(container, **config), manifest, levels, torch.float32)
