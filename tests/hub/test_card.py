"""The text of a card, for measured budgets and for others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from bitstack.container.levels import budget_bytes
from bitstack.container.manifest import read_manifest
from bitstack.hub.card import PICTURE, Subject, _readable, draw, how_measured, render
from bitstack.hub.measured import budget_rows
from bitstack.metrics.loss.curve import CurvePoint
from bitstack.metrics.loss.evaluation import Evaluation

NAME = "someone/pico-stacked"


@pytest.fixture
def subject(stacked: Callable[..., Path]) -> Subject:
    """Of a container whose budgets are not measured."""
    container = stacked("llama-gqa", blocks=4, shard_size="8kB")
    manifest = read_manifest(container)
    rows, _ = budget_rows(container, manifest, [], None)
    return Subject(NAME, "someone/pico", {"license": "mit", "tags": ["x"]}, manifest, rows, None)


def scored(subject: Subject, perplexity: float | None) -> Subject:
    """With every budget measured, on a data set of the Hub."""
    rows = []
    for row in subject.rows:
        evaluation = Evaluation(
            model="container", budget_bytes=row.planned.budget_bytes, level=None,
            resident_bytes=row.planned.resident_bytes,
            original_bytes=subject.manifest.original_bytes,
            bits_per_weight=row.planned.bits_per_weight, tokens=99, window=32, stride=16,
            nll_per_token=1.5, perplexity=perplexity, bits_per_byte=0.75,
            text="hf:people/books:small:text", text_sha256="ab" * 32, dtype="float32",
            device="cpu",
        )  # fmt: skip
        rows.append(replace(row, scored=evaluation))
    return replace(subject, rows=rows)


def test_metadata_of_the_base_model(subject: Subject) -> None:
    data = ModelCard(render(subject, picture=False)).data.to_dict()
    assert (data["base_model"], data["license"]) == ("someone/pico", "mit")
    assert data["base_model_relation"] == "quantized"
    assert "x" not in data["tags"]  # only license and language are taken over
    unknown = ModelCard(render(replace(subject, base_model=None), picture=False)).data.to_dict()
    assert "base_model" not in unknown
    assert "base_model_relation" not in unknown


def test_the_lines_of_code_take_a_budget_that_loads(subject: Subject) -> None:
    names = {row.planned.budget for row in subject.rows}
    assert {"floor", "everything"} < names
    for row in subject.rows:
        text = render(replace(subject, rows=[row]), picture=False)
        assert f'budget="{row.planned.budget}")' in text
        assert budget_bytes(subject.manifest, row.planned.budget) >= row.planned.resident_bytes


def test_results_for_the_hub(subject: Subject) -> None:
    card = ModelCard(render(scored(subject, 4.48), picture=True))
    results = card.data.eval_results
    assert results is not None
    assert {r.metric_type for r in results} == {"perplexity", "bits_per_byte"}
    assert {(r.dataset_name, r.dataset_config) for r in results} == {("people/books", "small")}
    assert f"]({PICTURE})" in card.text
    assert "stride 16" in card.text


def test_a_perplexity_beyond_all_numbers(subject: Subject) -> None:
    card = ModelCard(render(scored(subject, None), picture=False))
    assert card.data.eval_results is not None
    assert {r.metric_type for r in card.data.eval_results} == {"bits_per_byte"}
    assert "| 1.5000 | – | 0.7500 |" in card.text


def test_labels_of_the_picture_do_not_overlap() -> None:
    places = [(10, 3.0, "floor"), (12, 2.0, "2bpw"), (13, 1.98, "3bpw"), (100, 1.9, "everything")]
    made = _readable([CurvePoint(*place) for place in places])
    assert [point.label for point in made] == ["floor", "2bpw", "", "everything"]
    assert [point.resident_bytes for point in made] == [10, 12, 13, 100]


def test_a_picture_of_measured_budgets_only(subject: Subject, tmp_path: Path) -> None:
    assert draw(subject, tmp_path) is None
    path = draw(scored(subject, 4.48), tmp_path)
    assert path == tmp_path / PICTURE
    assert path.read_bytes().startswith(b"\x89PNG")
    row = scored(subject, 4.48).rows[0]
    assert row.scored is not None
    expected = "99 tokens of hf:people/books:small:text, window 32, stride 16, float32"
    assert how_measured(row.scored) == expected
