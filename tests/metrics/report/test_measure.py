"""All that reads the text stays within one bound, and one bar counts every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitstack.machine.progress import Bar, bar
from bitstack.metrics.report import collect, measure
from bitstack.original.source import load_tokenizer
from bitstack.original.text import token_ids

SETTINGS: dict[str, Any] = {"window": 32, "budgets": ["2.5bpw", "100%"]}


def test_one_bound_holds_for_the_metrics_too(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path
) -> None:
    folder, original = stacked("llama-gqa"), pico_model("llama-gqa")
    for most in (40, 200):
        whole = collect(folder, text=str(text_file), original=original, max_tokens=most, **SETTINGS)
        assert whole.metrics is not None
        tokens = token_ids(str(text_file), load_tokenizer(folder), max_tokens=most)
        assert tokens.bytes - 4 < whole.metrics.text_bytes <= tokens.bytes
        for point in whole.metrics.points:
            assert point.by_bytes is not None
            assert point.by_bytes.scored_tokens <= most + 1  # cut within a token
        assert [point.budget for point in whole.metrics.points] == ["original", "2.5bpw", "100%"]


@pytest.mark.parametrize(("metrics", "steps"), [(True, 6), (False, 2)])
def test_one_bar_counts_all_steps(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path,
    monkeypatch: pytest.MonkeyPatch, metrics: bool, steps: int,
) -> None:  # fmt: skip
    bars: list[Bar] = []

    def kept(**options: Any) -> Bar:
        bars.append(bar(**options))
        return bars[-1]

    monkeypatch.setattr(measure, "bar", kept)
    collect(
        stacked("gpt-2"), text=str(text_file), original=pico_model("gpt-2"), max_tokens=60,
        metrics=metrics, progress=True, **SETTINGS,
    )  # fmt: skip
    (shown,) = bars
    assert shown.n == shown.total == 3 * steps
