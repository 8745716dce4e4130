"""A large vocabulary is split into parts, which every command and the Python API put together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import pico
from bitstack import compress, export, load, resize
from bitstack.compression.inputs import open_inputs
from bitstack.container.manifest import read_manifest
from bitstack.kernels import set_accuracy
from bitstack.live.draft import draft
from bitstack.nn import resident_bytes
from bitstack.original import row_parts
from bitstack.original.matrix import Matrix
from bitstack.original.row_parts import in_parts
from bitstack.recipe import load_recipe

FAMILIES = ("llama-tied", "llama-untied", "gemma-2", "gpt-2")  # gemma multiplies what it gathers


def matrix(rows: int, kind: str = "embedding") -> Matrix:
    return Matrix("m.embed", "m.embed.weight", "m.embed", kind, rows, 8, tied="head")


@pytest.mark.parametrize("rows", [8192, 8193, 49152, 50257, 262144])
def test_parts_cover_every_row_once(rows: int) -> None:
    parts = in_parts([matrix(rows)])
    weight = torch.arange(rows)[:, None].expand(rows, 8)
    torch.testing.assert_close(torch.cat([part.of(weight) for part in parts]), weight)
    assert [part.name for part in parts] == [f"m.embed.{i}" for i in range(6)]
    assert {part.parameter for part in parts} == {"m.embed.weight"}
    assert max(part.rows for part in parts) <= rows / 4 + 16  # a level of one is a small step


def test_what_is_small_or_no_vocabulary_stays_whole() -> None:
    whole = [matrix(8191), matrix(49152, "linear"), matrix(512)]
    assert in_parts(whole) == whole


@pytest.fixture(scope="module", params=FAMILIES)
def container(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A container of a pico model, its vocabulary of 307 split into parts."""
    folder = tmp_path_factory.mktemp("parts")
    pico.save(request.param, folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_parts, "_FEWEST", 16)
        recipe = load_recipe("fast", seq_len=16, num_samples=16)
        text = folder / "text.txt"
        text.write_text(8 * pico.TEXT)
        options = {"calibration": str(text)}
        return Path(compress(folder / "model", folder / "container", recipe=recipe, **options))


def test_it_is_the_original(container: Path) -> None:
    """Everything loaded, and the dense export, give the original's logits within the last level's
    error; both agree."""
    original = AutoModelForCausalLM.from_pretrained(container.parent / "model").eval()
    ids = torch.tensor([pico.tokenizer()(pico.TEXT)["input_ids"][:60]])
    before = set_accuracy("exact")
    try:
        with torch.no_grad():
            packed, expected = load(container)(ids).logits, original(ids).logits
            folder = export(container, container.parent / "dense")
            dense = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    finally:
        set_accuracy(before)
    assert float((packed - expected).norm() / expected.norm()) < 0.1
    torch.testing.assert_close(packed, dense, atol=1e-4, rtol=1e-4)


def test_parts_take_levels_of_their_own(container: Path) -> None:
    """Each is a stack; what is resident is what the manifest counts, wherever their levels
    differ."""
    manifest = read_manifest(container)
    parts = [i for i, entry in enumerate(manifest.stacks) if entry.first_row is not None]
    assert len({manifest.stacks[i].module for i in parts}) * 6 == len(parts)
    raised = [step for step, stack in enumerate(manifest.order) if stack in parts]
    levels = [1] * len(manifest.stacks)
    for stack in manifest.order[: raised[0] + 1]:
        levels[stack] += 1
    assert len({levels[i] for i in parts}) > 1
    size = manifest.budgets.resident_bytes(levels)
    model = load(container, size)
    assert model.bitstack.levels == levels
    assert resident_bytes(model) == size


def answer(model: Any) -> list[int]:
    ids = torch.tensor([pico.tokenizer()("The river was")["input_ids"]])
    return model.generate(ids, max_new_tokens=6, do_sample=False)[0].tolist()


def test_it_grows_shrinks_drafts_and_is_saved(container: Path) -> None:
    model = load(container, "3bpw")
    text = answer(model)
    with draft(model, "2bpw") as smaller:
        assert resident_bytes(smaller) < resident_bytes(model)
    resize(model, "2bpw")
    resize(model, "3bpw")
    assert answer(model) == text
    saved = container.parent / "saved"
    model.save_pretrained(saved)
    assert answer(load(saved)) == text


def test_overrides_name_the_whole_matrix(container: Path, tmp_path: Path) -> None:
    """A pattern for the embedding is for all of its parts."""
    name = read_manifest(container).stacks[0].module
    text = str(container.parent / "text.txt")
    recipe = load_recipe("fast", calibration=text, overrides={name: {"blocks": 4}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_parts, "_FEWEST", 16)
        inputs = open_inputs(container.parent / "model", tmp_path / "out", recipe)
        free = recipe.model_copy(update={"calibration": "none"})
        whole = open_inputs(container.parent / "model", tmp_path / "free", free).matrices
    assert [m.name for m in whole if m.module == name] == [name]  # without text nothing is split
    parts = [m for m in inputs.matrices if m.module == name]
    assert len(parts) == 6
    assert {recipe.of(part.name).blocks for part in parts} == {4}
