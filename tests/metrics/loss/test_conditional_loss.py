"""Conditional loss and minimal pairs by hand, and what a file of pairs may get wrong."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import pico
from bitstack.errors import UserError
from bitstack.metrics.loss.conditional_loss import (
    Pair,
    conditional_loss,
    minimal_pairs,
    read_jsonl,
    read_pairs,
)

PAIRS = [
    Pair("How many boats came on Monday?", " seven"),
    Pair("Where was the book? ", "in the wall of the house"),
    Pair("", "The river was low"),
]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return pico.build("qwen2")


def log_probability(model: PreTrainedModel, ids: list[int], first: int) -> float:
    with torch.no_grad():
        p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(p[i - 1, ids[i]]) for i in range(first, len(ids)))


def test_only_the_answer_counts(model: PreTrainedModel) -> None:
    tokenizer = pico.tokenizer()
    whole, expected = 0, 0.0
    for prompt, answer in [
        ("How many boats came on Monday?", " seven"),
        ("Where was the book?", " in the wall of the house"),  # the space belongs to the answer
    ]:
        ids = tokenizer(prompt + answer)["input_ids"]
        first = len(tokenizer(prompt)["input_ids"])
        expected -= log_probability(model, ids, first)
        whole += len(ids) - first
    ids = [0, *tokenizer("The river was low")["input_ids"]]  # no instruction: the start token
    expected -= log_probability(model, ids, 1)
    loss = conditional_loss(model, tokenizer, PAIRS)
    assert (loss.pairs, loss.tokens) == (3, whole + len(ids) - 1)
    assert loss.nats_per_answer == pytest.approx(expected / 3, rel=1e-5)
    assert loss.nats_per_token == pytest.approx(expected / loss.tokens, rel=1e-5)
    size = sum(len(pair.answer.encode()) for pair in PAIRS)
    assert loss.bits_per_byte == pytest.approx(expected / math.log(2) / size, rel=1e-5)
    assert loss.interval is not None
    assert loss.interval.low < loss.nats_per_answer < loss.interval.high


def test_a_long_instruction_loses_its_beginning(model: PreTrainedModel) -> None:
    pair = Pair(pico.TEXT, " boats")
    tokenizer = pico.tokenizer()
    ids = tokenizer(pico.TEXT + " boats")["input_ids"]
    answer = len(ids) - len(tokenizer(pico.TEXT)["input_ids"])
    assert len(ids) > pico.POSITIONS
    expected = -log_probability(model, ids[-pico.POSITIONS :], pico.POSITIONS - answer)
    loss = conditional_loss(model, tokenizer, [pair])
    assert loss.nats_per_answer == pytest.approx(expected, rel=1e-5)
    assert loss.interval is None


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "none given"),
        ([PAIRS[0], Pair("Why?", " ")], "pair 2: the answer is empty"),
        ([Pair("Why?", pico.TEXT)], "does not fit the 128 positions"),
    ],
)
def test_pairs_that_cannot_be_scored(
    model: PreTrainedModel, pairs: list[Pair], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        conditional_loss(model, pico.tokenizer(), pairs)


def test_pairs_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"q": "Why?", "a": "So."}) + "\n\n")
    assert read_pairs(path, "q", "a") == [Pair("Why?", "So.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"instruction": "a", "answer": "b"}\n{"instruction":', "line 2: broken JSON"),
        ('\n{"instruction": "a"}', "line 2: needs an object with the text fields"),
        ('["a"]', "line 1: needs an object"),
        ('{"instruction": 1, "answer": "b"}', "line 1: needs"),
        ("", "no lines"),
    ],
)
def test_a_broken_file_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_pairs(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_jsonl(tmp_path / "nothing.jsonl", ["text"])


def test_minimal_pairs_count_the_likelier_sentence(model: PreTrainedModel) -> None:
    tokenizer = pico.tokenizer()
    pairs = [("There were seven boats.", "There were seven boat."), ("same", "same")]
    pairs += [(pair[1], pair[0]) for pair in pairs[:1]]
    sums = [
        [log_probability(model, [0, *tokenizer(s)["input_ids"]], 1) for s in pair] for pair in pairs
    ]
    won = [1.0 if good > bad else 0.5 if good == bad else 0.0 for good, bad in sums]
    shares = minimal_pairs(model, tokenizer, pairs, ["number", "tie", "number"])
    assert won[0] + won[2] == 1
    assert shares.accuracy == pytest.approx(0.5)
    assert shares.paradigms == {"number": 0.5, "tie": 0.5}
    assert shares.standard_error == pytest.approx(
        math.sqrt(sum((w - 0.5) ** 2 for w in won) / 3 / 2)
    )
    with pytest.raises(UserError, match="none given"):
        minimal_pairs(model, tokenizer, [])
