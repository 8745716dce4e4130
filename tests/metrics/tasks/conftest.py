"""A few items of every shipped benchmark, in the form of their published files."""

import bz2
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import pico
from bitstack.live.opening import Opened, open_model

WORDS = pico.TEXT.replace(",", "").replace(".", "").split()


@pytest.fixture(scope="session")
def pairs() -> list[tuple[str, str]]:
    """BLiMP: (acceptable, unacceptable) sentences, the paradigms "a" and "b" in turn."""
    return [(" ".join(WORDS[i : i + 4]), " ".join(WORDS[i + 4 : i : -1])) for i in range(0, 60, 3)]


@pytest.fixture(scope="session")
def passages() -> list[str]:
    """LAMBADA: passages whose last word is predicted."""
    return [" ".join(WORDS[i : i + 6]) for i in range(0, 30, 6)]


@pytest.fixture(scope="session")
def data(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], passages: list[str]
) -> Path:
    """The folder of the published files."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with tarfile.open(folder / "blimp.tar.gz", "w:gz") as archive:
        for name, some in (("a", pairs[::2]), ("b", pairs[1::2])):
            rows = [{"UID": name, "sentence_good": g, "sentence_bad": b} for g, b in some]
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            member = tarfile.TarInfo(f"blimp/{name}.jsonl")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (folder / "lambada_test.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in passages)
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


@pytest.fixture(scope="session")
def opened(pico_model: Callable[..., Path]) -> Opened:
    return open_model(pico_model("llama-gqa"))
