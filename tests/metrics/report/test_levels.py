"""Every stack has one place on the map of levels."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.container.manifest import read_manifest
from bitstack.metrics.report.levels import level_map, short_names


@pytest.mark.parametrize("name", ["llama-tied", "gpt-2", "qwen3-moe"])
def test_every_stack_has_one_place(stacked: Callable[..., Path], name: str) -> None:
    manifest = read_manifest(stacked(name))
    levels = level_map(manifest)
    assert levels.layers == [0, 1]
    places = [stack for row in levels.rows for cell in row.cells for stack in cell.stacks]
    assert sorted(places) == list(range(len(manifest.stacks)))
    for row in levels.rows:
        assert [cell.layer for cell in row.cells] in ([None], levels.layers)
        for cell in row.cells:
            for stack in cell.stacks:
                assert manifest.stacks[stack].layer == cell.layer
                assert manifest.stacks[stack].matrix.role == row.role
    labels = [row.label for row in levels.rows]
    assert len(set(labels)) == len(labels)


def test_experts_share_a_cell_and_layers_without_them_have_none(
    stacked: Callable[..., Path],
) -> None:
    levels = level_map(read_manifest(stacked("qwen3-moe")))
    (row, *_) = [row for row in levels.rows if "experts" in row.role]
    assert [len(cell.stacks) for cell in row.cells] == [4, 0]
    assert row.note == "mean of 4 experts"


def test_a_tied_head_is_named(stacked: Callable[..., Path]) -> None:
    first = level_map(read_manifest(stacked("llama-tied"))).rows[0]
    assert (first.label, first.note, first.layered) == ("embed_tokens", "also lm_head", False)


def test_short_names() -> None:
    assert short_names(["a.q", "b.q", "b.k", "k2"]) == {
        "a.q": "a.q", "b.q": "b.q", "b.k": "k", "k2": "k2",
    }  # fmt: skip
    assert short_names(["q", "a.q"]) == {"q": "q", "a.q": "a.q"}
