"""Every memory gets a budget that leaves room for a text, or none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.container.manifest import Manifest, read_manifest
from bitstack.hub import memories
from bitstack.hub.memories import choices


@pytest.fixture
def container(stacked: Callable[..., Path]) -> Path:
    return stacked("llama-gqa", blocks=4, shard_size="8kB")


@pytest.fixture
def manifest(container: Path) -> Manifest:
    return read_manifest(container)


def test_what_fits_everywhere_is_one_line(container: Path, manifest: Manifest) -> None:
    (one,) = choices(container, manifest)
    assert one.memory == "4 GB and more"
    assert one.planned is not None
    assert one.planned.budget == "everything"


def test_model_and_cache_stay_below_four_fifths(
    container: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = manifest.budgets.total_bytes
    monkeypatch.setattr(memories, "MEMORIES", (1, 10, 12, 14, 1000))
    monkeypatch.setattr(memories, "room_in", lambda memory, cache: size * memory // 16)
    monkeypatch.setattr(memories, "budget_of", lambda room: (str(room), room))
    made = choices(container, manifest)
    assert [one.memory for one in made] == ["1 GB", "10 GB", "12 GB", "14 GB", "1000 GB and more"]
    assert made[0].planned is None, "smaller than the floor"
    for one, memory in zip(made[1:4], (10, 12, 14), strict=True):
        assert one.planned is not None
        assert one.planned.resident_bytes <= size * memory // 16


def test_room_and_budget() -> None:
    assert memories.room_in(4, 10**9) == 2_200_000_000
    assert memories.budget_of(2_299_999_999) == ("2.2GB", 2_200_000_000)
    assert memories.budget_of(99_999_999) is None
    assert memories.budget_of(-5) is None
