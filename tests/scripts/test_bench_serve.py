"""A small form of the benchmark: clients in parallel, changing budgets, every stream checked."""

from pathlib import Path
from typing import Any

import bench_serve as bench
import pytest
import serve_clients as clients

from bitstack import compress, recipes
from bitstack.live.opening import open_model


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo model: a model of random weights writes bytes that are no text."""
    quick: dict[str, Any] = {"search_sweeps": 0, "joint_passes": 0, "tune_steps": 0, "blocks": 4}
    folder = tmp_path_factory.mktemp("bench") / "demo"
    return compress(recipes.demo_model(), folder, calibration="none", **quick)


def test_no_failed_request_and_no_mixed_up_stream(container: Path) -> None:
    result = bench.measure(
        container, clients=8, requests=32, changes=6, tokens=12, prompt_tokens=12, different=8,
        budgets=["3bpw", "2.5bpw", "everything"],
    )  # fmt: skip
    assert (result.failed, result.wrong_ids, result.wrong_texts) == (0, 0, 0)
    assert (result.wrong_firsts, result.mixed_up) == (0, 0)
    assert result.words == 16
    assert result.changes == 6
    assert result.compared_texts >= 8 + 32  # those of one client, and those before the first change
    assert result.first_token_ms > 0
    assert result.generate_first_ms > 0


def test_words_of_another_stream_are_found(container: Path) -> None:
    opened = open_model(container, budget="3bpw")
    words = bench.make_words(opened, 25)
    texts = [opened.tokenizer.decode([word] * 4) for word in words]
    assert len(set(texts)) == len(words) == 25
    one = clients.Answer("", 0.0, words[0], texts[0], tokens=4)
    assert bench.is_of_its_word(opened, one)
    for text, tokens in ((texts[1], 4), (texts[0], 5), ("", 0), (texts[0] + texts[1], 4)):
        assert not bench.is_of_its_word(
            opened, clients.Answer("", 0.0, words[0], text, tokens=tokens)
        )


def test_the_budget_of_an_answer() -> None:
    changes = [(1.0, 2.0, "2bpw"), (5.0, 6.0, "4bpw")]
    for start, end, held in (
        (0.0, 0.5, "3bpw"),
        (0.0, 1.5, None),
        (1.5, 3.0, None),
        (3.0, 4.0, "2bpw"),
        (3.0, 9.0, None),
        (7.0, 9.0, "4bpw"),
    ):
        answer = clients.Answer("", start)
        assert clients.budget_of(answer, end - start, "3bpw", changes) == held
