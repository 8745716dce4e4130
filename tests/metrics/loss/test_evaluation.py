"""Records of a loss on a text, of containers and originals.

Also covers `live.generation`: greedy text, seeds and refused options.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import pico
from bitstack.compression.pipeline import compress
from bitstack.container.recognition import is_container
from bitstack.errors import UserError
from bitstack.live.generation import generate
from bitstack.live.loading import load
from bitstack.live.opening import open_model
from bitstack.metrics.loss.evaluation import evaluate
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.text import token_ids

WINDOW = 32


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(pico.TEXT)
    return str(file)


@pytest.fixture(scope="module")
def model(pico_model: Callable[..., Path]) -> Path:
    return pico_model("llama-tied", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def container(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compress(model, tmp_path_factory.mktemp("eval") / "c", blocks=4, calibration="none")


def test_the_original_is_measured_as_transformers_loads_it(model: Path, text: str) -> None:
    result = evaluate(model, text, window=WINDOW)
    plain = AutoModelForCausalLM.from_pretrained(model)
    expected = perplexity(plain, token_ids(text, pico.tokenizer()), window=WINDOW)
    assert result.nll_per_token == expected.nll_per_token
    assert result.bits_per_byte == expected.bits_per_byte
    assert (result.tokens, result.window, result.stride) == (expected.tokens, WINDOW, WINDOW)
    assert result.budget_bytes is None
    assert result.bits_per_weight == 16
    assert result.dtype == "bfloat16"
    tensors = [*plain.parameters(), *plain.buffers()]
    assert result.resident_bytes == sum(t.nbytes for t in tensors) == result.original_bytes


def test_a_container_is_measured_at_its_budget(container: Path, model: Path, text: str) -> None:
    original = evaluate(model, text, window=WINDOW)
    result = evaluate(container, text, budget="60%", window=WINDOW, stride=20, max_tokens=90)
    assert result.original_bytes == original.original_bytes
    assert result.budget_bytes == int(0.6 * original.original_bytes) >= result.resident_bytes
    assert (result.tokens, result.stride) == (89, 20)
    live = load(container, "60%")
    tokens = token_ids(text, pico.tokenizer(), max_tokens=90)
    assert result.nll_per_token == perplexity(live, tokens, window=WINDOW, stride=20).nll_per_token
    assert result.bits_per_weight == live.bitstack.bits_per_weight


def test_levels_come_closer_to_the_original(container: Path, model: Path, text: str) -> None:
    target = evaluate(model, text, window=WINDOW).nll_per_token
    evaluations = [evaluate(container, text, level=j, window=WINDOW) for j in range(1, 5)]
    assert [one.level for one in evaluations] == [1, 2, 3, 4]
    assert all(one.budget_bytes is None for one in evaluations)
    sizes = [one.resident_bytes for one in evaluations]
    assert sizes == sorted(set(sizes))
    gaps = [abs(one.nll_per_token - target) for one in evaluations]
    assert gaps[3] < gaps[0] / 2


def test_everything_is_finite_json(container: Path, text: str) -> None:
    record = json.loads(json.dumps(evaluate(container, text, level=1, window=8).to_json()))
    assert set(record) >= {
        "model", "budget_bytes", "resident_bytes", "original_bytes", "bits_per_weight", "tokens",
        "window", "stride", "nll_per_token", "perplexity", "bits_per_byte",
    }  # fmt: skip
    numbers = [v for v in record.values() if isinstance(v, float)]
    assert numbers
    assert all(math.isfinite(v) for v in numbers)


def test_a_perplexity_beyond_all_numbers_is_none(pico_model: Callable, text: str) -> None:
    opened = open_model(pico_model("llama-untied"))
    opened.model.lm_head.weight.data *= 1e5
    from bitstack.metrics.loss.evaluation import score

    result = score(opened, token_ids(text, opened.tokenizer), model="m", text=text, window=WINDOW)
    assert result.nll_per_token > 710
    assert result.perplexity is None
    opened.model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(UserError, match="no number"):
        score(opened, token_ids(text, opened.tokenizer), model="m", text=text, window=WINDOW)


def test_ids_without_an_embedding_are_named(pico_model: Callable, text: str) -> None:
    opened = open_model(pico_model("llama-untied"))
    opened.model.resize_token_embeddings(40)
    from bitstack.metrics.loss.evaluation import score

    with pytest.raises(UserError, match="do not belong together"):
        score(opened, token_ids(text, opened.tokenizer), model="m", text=text, window=WINDOW)


def test_a_budget_for_an_original_is_refused(model: Path, text: str) -> None:
    for asked in ({"budget": "50%"}, {"level": 2}):
        with pytest.raises(UserError, match="compress it first"):
            evaluate(model, text, **asked)
    with pytest.raises(UserError, match="no such folder"):
        evaluate(model / "nowhere", text, budget="50%")


def test_an_unfinished_container_is_no_original(container: Path, tmp_path: Path) -> None:
    for file in container.iterdir():
        if file.name != "bitstack.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert is_container(tmp_path)
    with pytest.raises(UserError, match="not a finished bitstack container"):
        open_model(tmp_path)


def test_greedy_text_is_that_of_transformers(model: Path, container: Path) -> None:
    for path in (model, container):
        opened = open_model(path)
        ids = opened.tokenizer("The river", return_tensors="pt")
        expected = opened.model.generate(**ids, do_sample=False, max_new_tokens=12)
        text = opened.tokenizer.decode(expected[0, ids["input_ids"].shape[1] :])
        assert generate(opened, "The river", max_new_tokens=12) == text.removesuffix(pico.END)


def test_sampling_repeats_with_its_seed_and_leaves_the_global_generator(model: Path) -> None:
    opened = open_model(model)
    before = torch.get_rng_state()
    texts = [
        generate(opened, "The river", max_new_tokens=20, temperature=1.0, seed=s) for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(before, torch.get_rng_state())


def test_generation_that_cannot_be_is_refused(model: Path) -> None:
    opened = open_model(model)
    for asked, match in (
        ({"prompt": ""}, "no tokens"),
        ({"prompt": "a", "max_new_tokens": 0}, "at least 1"),
        ({"prompt": "a", "temperature": -1.0}, "0 \\(greedy\\) or above"),
        ({"prompt": "a", "max_new_tokens": 128}, "128 positions"),
    ):
        with pytest.raises(UserError, match=match):
            generate(opened, **asked)
