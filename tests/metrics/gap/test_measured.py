"""The gap of models by name is that of the models compared alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.metrics.gap.capacity_gap import capacity_gap
from bitstack.metrics.gap.measured import measure_gap
from bitstack.metrics.loss.documents import read_texts, texts_sha256

NAME = "llama-gqa"
OPTIONS = {"window": 32, "max_bytes": 500}


def test_a_container_and_its_original(
    pico_model: Callable[..., Path], stacked: Callable[..., Path], text_file: Path
) -> None:
    folders = str(pico_model(NAME)), str(stacked(NAME))
    measured = measure_gap(*folders, str(text_file), budget="2bpw", **OPTIONS)
    teacher, student = open_model(folders[0]), open_model(folders[1], budget="2bpw")
    texts = read_texts(str(text_file), max_bytes=500)
    assert measured.gap == capacity_gap(
        teacher.model, student.model, teacher.tokenizer, texts, window=32
    )
    assert (measured.teacher, measured.student) == folders
    assert measured.teacher_bytes == teacher.resident_bytes
    assert measured.student_bytes == student.resident_bytes <= student.budget_bytes
    assert measured.budget_bytes == student.budget_bytes
    assert measured.text_sha256 == texts_sha256(texts)
    record = json.loads(json.dumps(measured.to_json(), allow_nan=False))
    assert record["whole"]["kl"] == measured.gap.whole.kl
    assert "gap" not in record


def test_a_budget_is_of_a_container(pico_model: Callable[..., Path], text_file: Path) -> None:
    model = str(pico_model(NAME))
    with pytest.raises(UserError, match=r"--budget 2bpw: .* is no container"):
        measure_gap(model, model, str(text_file), budget="2bpw")
