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
WORDS = pico.TEXT.replace(",", "").replace(".", "").split()
CHOICES = """\
task: boats
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{[a, b]}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file of one's own, `boats` (24 choices of the next word), and data for LAMBADA."""
    folder = tmp_path_factory.mktemp("tasks")
    starts = range(0, 72, 3)
    rows = [{"q": " ".join(WORDS[i : i + 3]), "a": WORDS[i + 3], "b": WORDS[i + 9]} for i in starts]
    (folder / "boats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "boats.yaml").write_text(CHOICES.format(data=folder / "boats.jsonl"))
    texts = [" ".join(WORDS[i : i + 6]) for i in starts]
    (folder / "lambada_test.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts)
    )
    return folder


@pytest.fixture(scope="session")
def documents_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of many short documents, over which intervals are drawn."""
    file = tmp_path_factory.mktemp("documents") / "text.jsonl"
    pieces = [" ".join(WORDS[i : i + 12]) for i in range(0, len(WORDS), 6)]
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
