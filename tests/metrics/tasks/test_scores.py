"""Scores of lm-eval against sums of losses by hand, on benchmarks in the form they have on disk."""

import bz2
import io
import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pico
from bitstack.errors import UserError
from bitstack.live.opening import Opened, open_model
from bitstack.metrics.loss.conditional_loss import Pair, minimal_pairs
from bitstack.metrics.tasks.evaluation import evaluate_tasks
from bitstack.metrics.tasks.scores import mean_accuracy, run_tasks, task_pairs, with_recovery

NAME = "llama-gqa"
WORDS = pico.TEXT.replace(",", "").replace(".", "").split()
PAIRS = [(" ".join(WORDS[i : i + 4]), " ".join(WORDS[i + 4 : i : -1])) for i in range(0, 60, 3)]
LAMBADA = [" ".join(WORDS[i : i + 6]) for i in range(0, 30, 6)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every shipped benchmark, a few items each."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with tarfile.open(folder / "blimp.tar.gz", "w:gz") as archive:
        for name, pairs in (("a", PAIRS[::2]), ("b", PAIRS[1::2])):
            rows = [{"UID": name, "sentence_good": g, "sentence_bad": b} for g, b in pairs]
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            member = tarfile.TarInfo(f"blimp/{name}.jsonl")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (folder / "lambada_test.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in LAMBADA)
    )
    lines = ["Boats: The man [step] counts [title] boats", "2", "one", "two", "three", "four"]
    (folder / "hellaswag_val_full.txt.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))
    (folder / "piqa").mkdir()
    goals = [{"goal": "Count boats", "sol1": "by hand", "sol2": "by night"}] * 3
    (folder / "piqa/valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in goals))
    (folder / "piqa/valid-labels.lst").write_text("0\n1\n1\n")
    question = (
        "Please choose the correct answer to the question: Where?\n\nAnswer1: in the town "
        "Answer2: at sea Answer3: here\n\nAnswer format: answer1/answer2/answer3"
    )
    items = [{"instruction": question, "input": "", "output": "", "answer": "answer2"}]
    for part in ("Easy", "Challenge"):
        (folder / f"ARC-{part}.test.json").write_text(json.dumps(items))
    return folder


@pytest.fixture(scope="module")
def opened(pico_model: Callable[..., Path]) -> Opened:
    return open_model(pico_model(NAME))


def log_likelihood(opened: Opened, prompt: str, answer: str) -> float:
    """ln P(answer | prompt), tokenised apart (no merge of the pico tokenizer crosses a space)."""
    tokenizer = opened.tokenizer
    start = tokenizer(prompt)["input_ids"] or [tokenizer.bos_token_id]
    ids = [*start, *tokenizer(answer)["input_ids"]]
    with torch.no_grad():
        p = opened.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(p[i - 1, ids[i]]) for i in range(len(start), len(ids)))


def test_blimp_is_minimal_pairs(opened: Opened, data: Path) -> None:
    (found,) = run_tasks(opened, ["blimp"], data)
    spaced = [(f" {good}", f" {bad}") for good, bad in PAIRS]
    expected = minimal_pairs(opened.model, opened.tokenizer, spaced)
    assert (found.task, found.metric, found.documents) == ("blimp", "acc", len(PAIRS))
    assert found.value == expected.accuracy
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high


def test_the_first_pairs_are_of_every_paradigm(opened: Opened, data: Path) -> None:
    assert [pair.answer for pair in task_pairs(["blimp"], data, limit=4)] == [
        f" {good}" for good, _ in PAIRS[:4]
    ]
    (found,) = run_tasks(opened, ["blimp"], data, limit=4)
    assert found.documents == len(found.values) == 4


def test_lambada_by_hand(opened: Opened, data: Path) -> None:
    found = {score.metric: score for score in run_tasks(opened, ["lambada"], data)}
    logs = []
    for text in LAMBADA:
        start, last = text.rsplit(" ", 1)
        logs.append(log_likelihood(opened, start, f" {last}"))
    assert found["perplexity"].value == pytest.approx(math.exp(-sum(logs) / len(logs)), rel=1e-4)
    assert not found["perplexity"].higher_is_better
    interval = found["perplexity"].interval
    assert interval is not None
    assert 0 < interval.low < found["perplexity"].value < interval.high
    assert found["acc"].documents == len(LAMBADA)


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


def test_recovery_of_a_container(
    opened: Opened, stacked: Callable[..., Path], pico_model: Callable[..., Path], data: Path
) -> None:
    folder = stacked(NAME)
    found = evaluate_tasks(
        folder, ["blimp", "lambada"], data, original=pico_model(NAME), budget="100%"
    )
    blimp, perplexity, _ = found.tasks
    alone = run_tasks(opened, ["blimp"], data)[0]
    assert blimp.original == alone.value
    assert blimp.recovery == pytest.approx(blimp.value / alone.value)
    assert blimp.recovery_interval is not None
    assert blimp.recovery_interval.low <= blimp.recovery <= blimp.recovery_interval.high
    assert perplexity.original is not None
    assert perplexity.recovery is None
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["resident_bytes"] < record["original_bytes"]
    assert "values" not in record["tasks"][0]


def test_an_original_recovers_all(opened: Opened, data: Path) -> None:
    scores = run_tasks(opened, ["blimp"], data)
    (same,) = with_recovery(scores, scores)
    assert same.recovery == 1
    assert same.recovery_interval is not None
    assert same.recovery_interval.low == same.recovery_interval.high == 1


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


def test_the_mean_of_accuracies(opened: Opened, data: Path) -> None:
    scores = run_tasks(opened, ["blimp", "lambada"], data)
    values = [score for score in scores if score.metric == "acc"]
    mean, error = mean_accuracy(scores)
    assert mean == pytest.approx(sum(one.value for one in values) / 2)
    assert error == pytest.approx(math.hypot(*(one.standard_error or 0 for one in values)) / 2)


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
