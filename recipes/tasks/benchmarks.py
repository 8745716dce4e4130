"""Reads the published files of benchmarks into the fields that the task files beside it use.

lm-eval calls these functions with the metadata of a task; its `data` is the folder of the files,
which may lie anywhere below it. Does not define prompts and metrics; see the `.yaml` files here.
"""

import bz2
import json
import re
import tarfile
from collections.abc import Iterable
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from datasets import Dataset

from bitstack.errors import UserError

Rows = list[dict[str, Any]]
Splits = dict[str, Dataset]


def blimp(data: str, **_: Any) -> Splits:
    """BLiMP (arXiv 1912.00582): pairs of sentences, one of each paradigm in turn.

    In this order the first pairs are a fair sample of all.
    """
    archive = _find(data, "blimp.tar.gz")
    try:
        with tarfile.open(archive) as files:
            members = sorted((m for m in files if m.name.endswith(".jsonl")), key=lambda m: m.name)
            texts = [files.extractfile(m).read().decode() for m in members]  # type: ignore[union-attr]
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise UserError(f"{archive}: cannot be read ({error}); download it again") from None
    paradigms = [_jsonl(text, archive) for text in texts]
    fields = ("UID", "sentence_good", "sentence_bad")
    rows = (row for row in chain(*zip_longest(*paradigms)) if row is not None)
    return _splits([{name: row[name] for name in fields} for row in rows], archive)


def lambada(data: str, **_: Any) -> Splits:
    """LAMBADA (arXiv 1606.06031), OpenAI's variant: passages whose last word is predicted."""
    file = _find(data, "lambada_test.jsonl")
    return _splits([{"text": row["text"]} for row in _jsonl(_text(file), file)], file)


def hellaswag(data: str, **_: Any) -> Splits:
    """HellaSwag (arXiv 1905.07830), validation: six lines an item: context, label, four endings."""
    file = _find(data, "hellaswag_val_full.txt.bz2")
    try:
        lines = bz2.decompress(file.read_bytes()).decode().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); download it again") from None
    if len(lines) % 6:
        raise UserError(f"{file}: {len(lines)} lines, no multiple of 6; download it again")
    rows = []
    for first in range(0, len(lines), 6):
        context, label, *endings = map(_plain, lines[first : first + 6])
        rows.append({"query": context, "label": int(label), "choices": endings})
    return _splits(rows, file)


def piqa(data: str, **_: Any) -> Splits:
    """PIQA (arXiv 1911.11641), validation: a goal and two solutions."""
    file, answers = _find(data, "valid.jsonl"), _find(data, "valid-labels.lst")
    labels, rows = _text(answers).split(), _jsonl(_text(file), file)
    if len(labels) != len(rows):
        raise UserError(f"{answers}: {len(labels)} labels for {len(rows)} items of {file}")
    pairs = zip(rows, labels, strict=True)
    return _splits([row | {"label": int(label)} for row, label in pairs], file)


def arc_easy(data: str, **_: Any) -> Splits:
    """ARC-Easy (arXiv 1803.05457), test."""
    return _arc(_find(data, "ARC-Easy.test.json"))


def arc_challenge(data: str, **_: Any) -> Splits:
    """ARC-Challenge (arXiv 1803.05457), test."""
    return _arc(_find(data, "ARC-Challenge.test.json"))


def _arc(file: Path) -> Splits:
    """Takes question and choices apart, which the files join into one instruction."""
    try:
        items = json.loads(_text(file))
    except ValueError as error:
        raise UserError(f"{file}: broken JSON ({error}); download it again") from None
    rows = []
    for number, item in enumerate(items, start=1):
        question, _, answers = item["instruction"].partition("\n\nAnswer1: ")
        choices = re.split(r" Answer\d: ", answers.partition("\n\nAnswer format:")[0])
        label = int(item["answer"].removeprefix("answer")) - 1
        if not answers or not 0 <= label < len(choices):
            raise UserError(f"{file}: item {number} is not of the form known")
        question = question.removeprefix("Please choose the correct answer to the question: ")
        rows.append({"question": question, "choices": choices, "label": label})
    return _splits(rows, file)


def _plain(text: str) -> str:
    """Removes the marks of the web pages that HellaSwag's text comes from, as is usual."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _find(data: str, name: str) -> Path:
    files = sorted(Path(data).rglob(name))
    if not files:
        raise UserError(f"--tasks-folder {data}: no {name} in it or below; name the folder of it")
    return files[0]


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); download it again") from None


def _jsonl(text: str, file: Path) -> Rows:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{file} line {number}: broken JSON ({error})") from None
    return rows


def _splits(rows: Iterable[dict[str, Any]], file: Path) -> Splits:
    some = list(rows)
    if not some:
        raise UserError(f"{file}: no items; download it again")
    return {"test": Dataset.from_list(some)}
