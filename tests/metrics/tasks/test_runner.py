"""Scores of lm-eval against sums of losses by hand, on benchmarks in the form they have on disk.

Also covers `metrics.tasks.harness` and `recipes.tasks.benchmarks`.
"""

import math
from pathlib import Path

import pytest
import torch

from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.metrics.loss.conditional_loss import Pair, minimal_pairs
from bitstack.metrics.tasks.runner import run_tasks, task_pairs


def log_likelihood(opened: Opened, prompt: str, answer: str) -> float:
    """ln P(answer | prompt), tokenised apart (no merge of the pico tokenizer crosses a space)."""
    tokenizer = opened.tokenizer
    start = tokenizer(prompt)["input_ids"] or [tokenizer.bos_token_id]
    ids = [*start, *tokenizer(answer)["input_ids"]]
    with torch.no_grad():
        p = opened.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(p[i - 1, ids[i]]) for i in range(len(start), len(ids)))


def test_blimp_is_minimal_pairs(opened: Opened, data: Path, pairs: list[tuple[str, str]]) -> None:
    (score,) = run_tasks(opened, ["blimp"], data)
    spaced = [(f" {good}", f" {bad}") for good, bad in pairs]
    expected = minimal_pairs(opened.model, opened.tokenizer, spaced)
    assert (score.task, score.metric, score.documents) == ("blimp", "acc", len(pairs))
    assert score.value == expected.accuracy
    assert score.standard_error == pytest.approx(expected.standard_error)
    assert score.interval is not None
    assert score.interval.low < score.value < score.interval.high


def test_the_first_pairs_are_of_every_paradigm(
    opened: Opened, data: Path, pairs: list[tuple[str, str]]
) -> None:
    assert [pair.answer for pair in task_pairs(["blimp"], data, limit=4)] == [
        f" {good}" for good, _ in pairs[:4]
    ]
    (score,) = run_tasks(opened, ["blimp"], data, limit=4)
    assert score.documents == len(score.values) == 4


def test_lambada_by_hand(opened: Opened, data: Path, passages: list[str]) -> None:
    scores = {score.metric: score for score in run_tasks(opened, ["lambada"], data)}
    logs = []
    for text in passages:
        start, last = text.rsplit(" ", 1)
        logs.append(log_likelihood(opened, start, f" {last}"))
    assert scores["perplexity"].value == pytest.approx(math.exp(-sum(logs) / len(logs)), rel=1e-4)
    assert not scores["perplexity"].higher_is_better
    interval = scores["perplexity"].interval
    assert interval is not None
    assert 0 < interval.low < scores["perplexity"].value < interval.high
    assert scores["acc"].documents == len(passages)


def test_choices_by_hand(opened: Opened, data: Path) -> None:
    for task, prompt, choices, label in [
        ("hellaswag", "Boats: The man counts. boats", ["one", "two", "three", "four"], 2),
        ("arc_easy", "Question: Where?\nAnswer:", ["in the town", "at sea", "here"], 1),
        ("arc_challenge", "Question: Where?\nAnswer:", ["in the town", "at sea", "here"], 1),
    ]:
        scores = {score.metric: score for score in run_tasks(opened, [task], data)}
        logs = [log_likelihood(opened, prompt, f" {choice}") for choice in choices]
        each = [log / len(choice) for log, choice in zip(logs, choices, strict=True)]
        assert scores["acc"].value == float(max(logs) == logs[label])
        assert scores["acc_norm"].value == float(max(each) == each[label])
        assert task_pairs([task], data) == [Pair(prompt, f" {choices[label]}")]


def test_piqa_has_its_labels(opened: Opened, data: Path) -> None:
    prompt = "Question: Count boats\nAnswer:"
    first, second = (log_likelihood(opened, prompt, f" by {end}") for end in ("hand", "night"))
    scores = {score.metric: score for score in run_tasks(opened, ["piqa"], data)}
    assert scores["acc"].value == pytest.approx((1 if first > second else 2) / 3)


def test_a_task_file_of_ones_own(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "boats.jsonl").write_text('{"q": "The", "a": "river"}\n{"q": "A", "a": "boat"}\n')
    (tmp_path / "boats.yaml").write_text(
        "task: boats\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path / 'boats.jsonl'}\n"
        "output_type: loglikelihood\ntest_split: test\ndoc_to_text: '{{q}}'\n"
        "doc_to_target: ' {{a}}'\nmetric_list:\n  - metric: acc\n"
        "    aggregation: mean\n    higher_is_better: true\n"
    )
    (score,) = run_tasks(opened, ["boats"], tmp_path)
    assert (score.task, score.documents) == ("boats", 2)


def test_nothing_is_printed(opened: Opened, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_tasks(opened, ["lambada"], data, progress=True)
    assert capfd.readouterr() == ("", "")


def test_bad_requests(opened: Opened, data: Path, tmp_path: Path) -> None:
    for message, tasks, folder, limit in [
        ("--tasks: mmlu; known are arc_challenge, arc_easy, blimp", ["mmlu"], data, None),
        ("none named", [], data, None),
        ("no such folder", ["blimp"], tmp_path / "none", None),
        ("no blimp.tar.gz", ["blimp"], tmp_path, None),
        ("with --tasks-folder", ["blimp"], None, None),
        ("limit is 0", ["blimp"], data, 0),
    ]:
        with pytest.raises(UserError, match=message):
            run_tasks(opened, tasks, folder, limit=limit)
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "a b"}\n{"text"\n')
    with pytest.raises(UserError, match=r"lambada_test.jsonl line 2: broken JSON"):
        run_tasks(opened, ["lambada"], tmp_path)


def test_the_real_benchmarks_are_read(shared: Path) -> None:
    pairs = task_pairs(
        ["arc_easy", "arc_challenge", "piqa", "lambada"], shared / "benchmarks", limit=2
    )
    assert len(pairs) == 8
    assert pairs[2].answer == " Planetary days will become shorter."
    assert all(pair.answer.strip() for pair in pairs)
