from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.metrics.report import Report, collect

FIELDS = {"blocks": 4}
WINDOW, TOKENS = 32, 300


@pytest.fixture(scope="session")
def report(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path
) -> Report:
    """Everything measured, on a pico model."""
    return collect(
        stacked("llama-gqa", **FIELDS), text=str(text_file), original=pico_model("llama-gqa"),
        window=WINDOW, max_tokens=TOKENS,
    )  # fmt: skip


@pytest.fixture(scope="session")
def experts(stacked: Callable[..., Path]) -> Report:
    """Nothing measured, on a mixture of experts."""
    return collect(stacked("qwen3-moe"))
