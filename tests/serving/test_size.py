"""The size of a served model: told in numbers, changed by a budget or by the free memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.serving.size import Size


def test_a_budget_changes_it(chatty: Path) -> None:
    opened = open_model(chatty, budget="3bpw")
    size = Size(opened, "3bpw", None)
    first = size.summary()
    assert first["resident_bytes"] == size.resident_bytes == opened.model.bitstack.resident_bytes
    size.change("floor")
    assert size.resident_bytes == first["floor_bytes"]
    assert size.summary()["matrices_at_level"] == {"1": len(size.levels())}
    size.change(first["total_bytes"])
    assert size.summary()["budget"] == str(first["total_bytes"])
    with pytest.raises(UserError, match="not understood"):
        size.change("much")
    assert size.resident_bytes == first["total_bytes"]
    size.close()


def test_a_new_bound_of_a_model_that_follows_the_memory(
    chatty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitstack.live.memory_follower.free_memory", lambda: 1 << 40)
    opened = open_model(chatty, budget="4bpw")
    size = Size(opened, "4bpw", "1GiB")
    before = size.resident_bytes
    size.change("2bpw")
    assert size.resident_bytes < before  # at once
    with pytest.raises(UserError, match="below the floor"):
        size.change(100)
    follower = size._follower
    assert follower
    assert follower._thread.is_alive()
    assert follower.max_bytes == size.resident_bytes
    size.close()
    assert not follower._thread.is_alive()


def test_bad_sizes_of_memory(chatty: Path) -> None:
    opened = open_model(chatty)
    for size in ("50%", "much"):
        with pytest.raises(UserError):
            Size(opened, None, size)


def test_an_original_model(pico_model: Callable[..., Path]) -> None:
    opened = open_model(pico_model("llama-gqa"))
    size = Size(opened, None, None)
    assert size.summary() == {"resident_bytes": opened.resident_bytes, "bits_per_weight": 32}
    for call in (lambda: size.change("3bpw"), size.levels, lambda: Size(opened, None, "1GiB")):
        with pytest.raises(UserError, match="was not loaded by bitstack"):
            call()
