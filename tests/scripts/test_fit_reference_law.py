"""The script end to end on pico models: a law comes out, and a second run measures nothing."""

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import fit_reference_law as script
import pytest

import pico
from bitstack.errors import UserError
from bitstack.metrics.density.law_file import load_law

FAMILIES = ["llama-tied", "llama-untied", "llama-gqa", "mistral", "qwen2"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two paradigms: shorter is likelier, which random models know, and noise."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.tar.gz"
    easy = [("A boat.", pico.TEXT[i : i + 80]) for i in range(12)]
    noise = [(pico.TEXT[i : i + 20], pico.TEXT[i + 20 : i + 40]) for i in range(0, 240, 20)]
    with tarfile.open(path, "w:gz") as archive:
        for name, rows in (("easy", easy), ("noise", noise)):
            lines = [json.dumps({"sentence_good": a, "sentence_bad": b}) for a, b in rows]
            data = "\n".join(lines).encode()
            member = tarfile.TarInfo(f"blimp/{name}.jsonl")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["fit_reference_law.py", *map(str, words)])
    script.main()


def test_a_law_of_pico_models(
    pico_model: Callable[..., Path],
    text_file: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["--models", *(pico_model(name) for name in FAMILIES), "--tokens", *range(1, 6)]
    words += ["--text", text_file, "--window", 32, "--windows", 6, "--pairs", pairs, "--items", 12]
    words += ["--work", tmp_path / "work.jsonl", "--output", tmp_path / "law.json"]
    run(monkeypatch, *words)
    law = load_law(tmp_path / "law.json")
    assert [r.tokens for r in law.references] == [1, 2, 3, 4, 5]
    assert law.reference_tokens == 5
    measured = json.loads((tmp_path / "law.json").read_text())["measured"]
    assert set(measured[0]["paradigms"]) == {"easy", "noise"}
    assert measured[0]["paradigms"]["easy"] == 1
    assert 3 < measured[0]["loss"] < 9
    monkeypatch.setattr(script, "measure", None)  # all of it is in the work file
    run(monkeypatch, *words)


def test_training_tokens_must_be_known(
    pico_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no .*train.json; give the training tokens"):
        run(monkeypatch, "--models", pico_model("llama-tied"))
    with pytest.raises(UserError, match="2 given, 1 models"):
        run(monkeypatch, "--models", pico_model("llama-tied"), "--tokens", 1, 2)
