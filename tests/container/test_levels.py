"""Levels of a container for a budget in any form, for one level, and for everything."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.container.budget import parse_budget
from bitstack.container.levels import budget_bytes, choose_levels
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.errors import UserError


@pytest.fixture(scope="module")
def manifest(stacked: Callable[..., Path]) -> Manifest:
    return read_manifest(stacked("llama-tied", blocks=2))


def test_without_a_budget_everything(manifest: Manifest) -> None:
    assert choose_levels(manifest, None) == [entry.levels for entry in manifest.stacks]


def test_one_level_everywhere(manifest: Manifest) -> None:
    assert choose_levels(manifest, None, 1) == [1] * len(manifest.stacks)
    with pytest.raises(UserError, match="level is 3; it must be from 1 to 2"):
        choose_levels(manifest, None, 3)
    with pytest.raises(UserError, match="give a budget or a level, not both"):
        choose_levels(manifest, "100%", 1)


def test_the_prefix_of_a_budget(manifest: Manifest) -> None:
    """Its levels count how often the order names every stack before the budget is spent."""
    size = manifest.budgets.prefix_bytes[3]
    expected = [1 + manifest.order[:3].count(i) for i in range(len(manifest.stacks))]
    for budget in (size, f"{size}B", parse_budget(size)):
        assert choose_levels(manifest, budget) == expected
    assert choose_levels(manifest, size - 1) != expected
    with pytest.raises(UserError, match="below the floor"):
        choose_levels(manifest, manifest.budgets.floor_bytes - 1)


def test_bytes_of_every_form(manifest: Manifest) -> None:
    assert budget_bytes(manifest, "50%") == manifest.original_bytes // 2
    assert budget_bytes(manifest, "2bpw") == manifest.fixed_bytes + manifest.weights // 4
    assert budget_bytes(manifest, parse_budget("3kB")) == budget_bytes(manifest, 3000) == 3000
    with pytest.raises(UserError, match="not understood"):
        budget_bytes(manifest, "much")
