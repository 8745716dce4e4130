"""A small form of the benchmark: clients in parallel, changing budgets, every stream checked."""

from pathlib import Path
from typing import Any

import bench_serve as bench
import pytest
import torch

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
    assert result.changed_texts > 0
    assert result.changes == 6
    assert result.compared_texts >= 8 + 32  # those of one client, and those before the first change
    assert result.first_token_ms > 0
    assert result.generate_first_ms > 0


def test_a_text_of_another_prompt_is_found(container: Path) -> None:
    opened = open_model(container, budget="3bpw")
    prompts = bench.make_prompts(opened, 8, 12)
    texts = bench.expected(opened, prompts, 16)
    right = [(bench.Answer(prompt, 0.0, texts[prompt]), {"3bpw"}) for prompt in prompts]
    assert bench.mixed_up(opened, prompts, right) == 0
    shifted = [*prompts[1:], prompts[0]]  # each gets the text of the next
    wrong = [
        (bench.Answer(prompt, 0.0, texts[other]), {"3bpw"})
        for prompt, other in zip(prompts, shifted, strict=True)
    ]
    assert bench.mixed_up(opened, prompts, wrong) >= len(prompts) - 2


def test_the_budgets_of_an_answer() -> None:
    changes = [(1.0, 2.0, "2bpw"), (5.0, 6.0, "4bpw")]
    for start, end, held in (
        (0.0, 0.5, {"3bpw"}),
        (0.0, 1.5, {"3bpw", "2bpw"}),
        (1.5, 3.0, {"3bpw", "2bpw"}),
        (3.0, 4.0, {"2bpw"}),
        (3.0, 9.0, {"2bpw", "4bpw"}),
        (7.0, 9.0, {"4bpw"}),
    ):
        assert bench.budgets_of(bench.Answer("", start, end=end), "3bpw", changes) == held


def test_likelihoods_are_of_the_text_alone(container: Path) -> None:
    opened = open_model(container)
    found = bench.log_likelihoods(opened, "The river", " was low")
    assert len(found) == len(opened.tokenizer(" was low")["input_ids"])
    assert torch.all(found < 0)
