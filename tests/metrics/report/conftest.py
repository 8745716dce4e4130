"""Reports of pico models, measured once for all tests of the report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import pico
from bitstack.metrics.report import Report, collect

FIELDS = {"blocks": 4}
WINDOW, TOKENS = 32, 300
TASKS = ["boats", "lambada"]


@pytest.fixture(scope="session")
def documents_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of many short documents, over which intervals are drawn."""
    file = tmp_path_factory.mktemp("documents") / "text.jsonl"
    pieces = [" ".join(pico.WORDS[i : i + 12]) for i in range(0, len(pico.WORDS), 6)]
    file.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    return file


@pytest.fixture(scope="session")
def report(
    stacked: Callable[..., Path],
    pico_model: Callable[..., Path],
    documents_file: Path,
    tasks_folder: Path,
) -> Report:
    """Everything measured, on a pico model."""
    return collect(
        stacked("llama-gqa", **FIELDS), text=str(documents_file), original=pico_model("llama-gqa"),
        window=WINDOW, max_tokens=TOKENS, tasks=TASKS, tasks_folder=tasks_folder,
    )  # fmt: skip


@pytest.fixture(scope="session")
def experts(stacked: Callable[..., Path]) -> Report:
    """Nothing measured, on a mixture of experts."""
    return collect(stacked("qwen3-moe"))
