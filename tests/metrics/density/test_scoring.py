"""Densities of models by name are those of the loss or score measured alone.

Also covers `metrics.density.known_score`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import pico
from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.metrics.density import known_score, scoring
from bitstack.metrics.density.capacity_density import density, density_of_loss
from bitstack.metrics.density.law import DensityLaw, Protocol
from bitstack.metrics.density.law_file import classics_law, save_law
from bitstack.metrics.density.measured import law_density
from bitstack.metrics.loss.conditional_loss import Pair, conditional_loss
from bitstack.metrics.loss.documents import fingerprint, read_texts
from bitstack.metrics.statistics.bootstrap import standard_error

NAME = "llama-gqa"
PAIRS = [Pair("The river", " was low"), Pair("Seven boats,", " eight boats."), Pair("", "a book")]


@pytest.fixture
def model(pico_model: Callable[..., Path]) -> Path:
    return pico_model(NAME)


@pytest.fixture
def law() -> DensityLaw:
    """The shipped law, as if its series had the tokenizer of the pico models."""
    protocol = Protocol("text", "pairs", window=32, tokenizer=fingerprint(pico.tokenizer()))
    return replace(classics_law(), protocol=protocol)


def test_a_known_score_is_of_every_budget(
    law: DensityLaw, model: Path, stacked: Callable[..., Path]
) -> None:
    container = stacked(NAME)
    paths = [str(model), str(container)]
    measure = scoring.by_score(law, 0.6, 0.01)
    whole, small, large = scoring.score_models(paths, measure, budgets=["2bpw", "4bpw"])
    budgets = ["2bpw", "4bpw"]
    assert known_score.score_known(paths, measure, budgets) == [whole, small, large]
    with pytest.raises(UserError, match="an original model takes no budget"):
        known_score.score_known(paths[:1], measure, budgets)
    assert [one.model for one in (whole, small, large)] == [paths[0], paths[1], paths[1]]
    assert whole.budget_bytes is None
    for one, budget in ((whole, None), (small, "2bpw"), (large, "4bpw")):
        opened = open_model(paths[0] if budget is None else container, budget=budget)
        assert one.budget_bytes == opened.budget_bytes
        assert one.density == density(
            law, score=0.6, score_error=0.01, parameters=opened.parameters,
            stored_bytes=opened.resident_bytes,
        )  # fmt: skip
    assert small.density.density == large.density.density == whole.density.density
    assert small.density.byte_density is not None
    assert large.density.byte_density is not None
    assert small.density.byte_density > large.density.byte_density
    record = small.to_json()
    assert record["byte_density"] == small.density.byte_density
    assert record["budget_bytes"] == small.budget_bytes


def test_a_text_gives_the_density_of_its_loss(
    law: DensityLaw, model: Path, text_file: Path
) -> None:
    measure = scoring.by_text(law, str(text_file), max_bytes=600)
    opened = open_model(model)
    texts = read_texts(str(text_file), max_bytes=600)
    assert measure(opened) == law_density(opened, law, texts)


def test_pairs_give_the_density_of_their_loss(law: DensityLaw, model: Path) -> None:
    opened = open_model(model)
    loss = conditional_loss(opened.model, opened.tokenizer, PAIRS)
    measure = scoring.by_pairs(replace(law, protocol=None), PAIRS)
    assert measure(opened) == density_of_loss(
        replace(law, protocol=None),
        loss=loss.nats_per_answer,
        loss_error=standard_error(loss.interval),
        parameters=opened.parameters,
        stored_bytes=opened.resident_bytes,
    )
    with pytest.raises(UserError, match="32-token windows of text, not on answers"):
        scoring.by_pairs(law, PAIRS)


def test_tasks_give_the_density_of_their_mean_accuracy(
    law: DensityLaw, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_tasks(opened: object, tasks: list[str], *args: object, **options: object) -> list:
        assert options["limit"] == 5
        values = dict(zip(tasks, (0.5, 0.7), strict=True))
        return [
            SimpleNamespace(task=task, metric="acc", value=value, standard_error=0.01)
            for task, value in values.items()
        ]

    monkeypatch.setattr(scoring, "run_tasks", run_tasks)
    opened = open_model(model)
    assert scoring.by_tasks(law, ["a", "b"], limit=5)(opened) == density(
        law, score=0.6, score_error=0.01 / 2**0.5, parameters=opened.parameters,
        stored_bytes=opened.resident_bytes,
    )  # fmt: skip


def test_losses_of_answers(model: Path, stacked: Callable[..., Path]) -> None:
    paths = [str(model), str(stacked(NAME))]
    whole, small = scoring.answer_losses(paths, PAIRS, budgets=["2bpw"])
    opened = open_model(model)
    assert whole.loss == conditional_loss(opened.model, opened.tokenizer, PAIRS)
    assert (whole.parameters, whole.resident_bytes) == (opened.parameters, opened.resident_bytes)
    assert small.resident_bytes < whole.resident_bytes
    assert small.to_json()["nats_per_answer"] == small.loss.nats_per_answer


def test_the_measure_goes_by_what_is_given(law: DensityLaw, model: Path, tmp_path: Path) -> None:
    opened = open_model(model)
    file = tmp_path / "law.json"
    save_law(replace(law, reference_tokens=1e11), file)
    ours = scoring.choose_measure(file, score=0.6)(opened)
    shipped = scoring.choose_measure(None, score=0.6)(opened)
    assert shipped == scoring.by_score(classics_law(), 0.6)(opened)
    assert ours.effective_parameters != shipped.effective_parameters


@pytest.mark.parametrize("options", [{}, {"score": 0.5, "text": "a.txt"}])
def test_one_way_is_needed(options: dict) -> None:
    with pytest.raises(UserError, match="give one of --score, --tasks, --text and --pairs"):
        scoring.choose_measure(None, **options)


def test_answers_are_of_a_file_or_of_tasks(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"instruction": "The river", "answer": " was low"}\n')
    assert scoring.answers(file, None, None) == PAIRS[:1]
    for pairs, tasks in ((None, None), (file, ["lambada"])):
        with pytest.raises(UserError, match="give --pairs"):
            scoring.answers(pairs, tasks, None)
