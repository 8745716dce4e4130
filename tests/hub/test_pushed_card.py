"""The card that a push writes: its tables, its code, and what was measured for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

import bitstack
import pico
from bitstack.container.manifest import read_manifest
from bitstack.container.planning import plan
from bitstack.hub import measured
from bitstack.hub.card import CARD, MARK, PICTURE
from bitstack.live.chat_template import chat_text
from bitstack.metrics.loss.evaluation import evaluate
from bitstack.original.source import load_tokenizer
from hub_push import NAME, push, table
from hub_server import HubServer

ASKED = [{"role": "user", "content": "Who are you?"}]


def test_a_card_without_text_has_bytes_only(hub: HubServer, container: Path) -> None:
    pushed = push(container, NAME, "--dry-run", "--license", "mit")
    card = ModelCard.load(container / CARD)
    head = next(line for line in card.text.splitlines() if line.startswith("| budget |"))
    assert "bits per weight" in head
    for word in ("loss", "perplexity", "bits per byte", "recovery"):
        assert word not in head
    assert "Measured" not in card.text
    assert card.data.eval_results is None
    assert PICTURE not in pushed["files"]
    budgets = read_manifest(container).budgets
    rows = table(card.text)
    assert rows[0][:2] == ["floor", str(budgets.floor_bytes)]
    assert rows[-1][:2] == ["everything", str(budgets.total_bytes)]


def test_the_card_says_what_was_measured(
    writer: HubServer, container: Path, text: Path, pico_model: Callable[..., Path]
) -> None:
    model = pico_model("llama-gqa")
    base_card = b"---\nlicense: other\nlicense_name: pico\nlanguage: en\n---\n"
    writer.add("someone/pico", model).files["README.md"] = base_card
    options = ["--text", text, "--window", 32, "--original", "someone/pico"]
    budgets = [str(read_manifest(container).budgets.floor_bytes), "100%"]
    pushed = push(container, NAME, "--budgets", ", ".join(budgets), *options)
    card = ModelCard(writer.content(writer.repos[NAME], CARD).decode())
    data = card.data.to_dict()
    assert data["base_model"] == "someone/pico"
    assert data["base_model_relation"] == "quantized"
    assert (data["license"], data["license_name"], data["language"]) == ("other", "pico", "en")
    assert (data["library_name"], data["pipeline_tag"]) == ("bitstack", "text-generation")

    original = evaluate(model, str(text), window=32)
    first, *rows = table(card.text)
    assert first[0] == "original"
    assert first[1] == str(original.resident_bytes)
    assert [row[0] for row in rows] == budgets
    results = {(r.metric_type, r.metric_args["budget"]): r for r in card.data.eval_results}
    for row, planned in zip(rows, plan(container, budgets), strict=True):
        scored = evaluate(container, str(text), budget=row[0], window=32)
        assert row[1] == str(planned.resident_bytes)
        assert row[-4:] == [
            f"{scored.nll_per_token:.4f}",
            f"{scored.perplexity:.2f}",
            f"{scored.bits_per_byte:.4f}",
            f"{100 * original.bits_per_byte / scored.bits_per_byte:.1f}%",
        ]
        result = results["perplexity", row[0]]
        assert result.metric_value == pytest.approx(scored.perplexity, abs=1e-6)
        assert result.metric_args["resident_bytes"] == planned.resident_bytes
        assert result.metric_args["window"] == 32
    assert PICTURE in pushed["files"]
    assert (container / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert f"]({PICTURE})" in card.text
    assert str(text.parent) not in (container / CARD).read_text()


def test_a_text_may_be_named_alone(hub: HubServer, container: Path, text: Path) -> None:
    """By its source or path; a `Text` says more."""
    floor = read_manifest(container).budgets.floor_bytes
    options: dict = {"budgets": [floor], "license": "mit", "dry_run": True}
    pushed = [
        bitstack.push(container, NAME, text=form, **options)
        for form in (str(text), text, measured.Text(str(text)))
    ]
    assert pushed[0] == pushed[1] == pushed[2]
    assert pushed[0].rows[0].scored is not None
    assert pushed[0].rows[0].scored.text == text.name


def test_the_code_of_the_card_runs(
    writer: HubServer, container: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(container, NAME, "--license", "mit")
    capsys.readouterr()
    card = (container / CARD).read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 4
    names: dict = {}
    exec(code, names)
    assert capsys.readouterr().out.startswith("The river")


def test_the_code_of_a_chat_models_card_runs(
    hub: HubServer, chatty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    container = Path(shutil.copytree(chatty, NAME))  # a folder of that name stands for the Hub
    push(container, NAME, "--dry-run", "--license", "mit")
    card = (container / CARD).read_text()
    message = card.split("## Chat format")[1].split("````")[1].strip("\n")
    assert chat_text(load_tokenizer(container), ASKED).strip("\n") == message
    assert ASKED[0]["content"] in message
    capsys.readouterr()
    exec(card.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out
    assert f"compress-model chat {NAME} --budget" in card


def test_a_budget_for_every_memory(hub: HubServer, container: Path) -> None:
    push(container, NAME, "--dry-run", "--license", "mit")
    ((memory, budget, *_),) = table((container / CARD).read_text(), "memory")
    assert (memory, budget) == ("4 GB and more", '**`budget="everything"`**')


def test_the_card_holds_the_recipe(hub: HubServer, container: Path) -> None:
    push(container, NAME, "--dry-run", "--license", "mit")
    recipe = (container / CARD).read_text().split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(recipe) == read_manifest(container).recipe


def test_what_was_measured_is_not_measured_again(
    writer: HubServer, container: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = measured.open_model
    monkeypatch.setattr(
        measured, "open_model", lambda *a, **k: (opened.append(a), real(*a, **k))[1]
    )
    options = ["--text", text, "--license", "mit", "--window", 32, "--budgets"]
    floor = str(read_manifest(container).budgets.floor_bytes)
    push(container, NAME, "--dry-run", *options, floor)
    first = (container / CARD).read_text()
    push(container, NAME, *options, floor)
    assert (container / CARD).read_text() == first
    assert len(opened) == 1
    push(container, NAME, *options, f"{floor},100%")
    assert len(opened) == 2
    text.write_text(pico.TEXT[:300])
    push(container, NAME, *options, f"{floor},100%")
    assert len(opened) == 4
    assert measured.EVALUATIONS in writer.repos[NAME].files


def test_a_card_of_ones_own_is_kept(writer: HubServer, container: Path) -> None:
    push(container, NAME, "--dry-run", "--license", "mit")
    own = (container / CARD).read_text().replace(MARK, "My words.")
    (container / CARD).write_text(own)
    push(container, NAME, "--license", "mit")
    assert writer.content(writer.repos[NAME], CARD).decode() == own
