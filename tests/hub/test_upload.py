"""Pushing a container: the real client against a server on this machine.

Also covers `hub.from_report` and `hub.base_model`.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, constants
from typer.testing import CliRunner, Result

import bitstack
import pico
from bitstack.cli import app
from bitstack.container.manifest import MANIFEST, Manifest, read_manifest
from bitstack.container.planning import plan
from bitstack.hub import measured
from bitstack.hub.card import CARD, MARK, PICTURE
from bitstack.live.chat_template import chat_text
from bitstack.metrics.loss.evaluation import evaluate
from bitstack.original.source import load_tokenizer
from hub_server import READER, WRITER, HubServer

NAME = "someone/pico-stacked"
ASKED = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def made(stacked: Callable[..., Path]) -> Path:
    return stacked("llama-gqa", blocks=4, shard_size="8kB")


@pytest.fixture
def container(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "container")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "held-out.txt"
    file.write_text(pico.TEXT)
    return file


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """--quiet is for the process of a command; here others follow."""
    yield
    logging.getLogger("bitstack").setLevel(logging.NOTSET)


@pytest.fixture
def writer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return hub


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def push(*args: object) -> dict:
    """What a push that must succeed says of itself."""
    result = call("push", *args, "--json", "-", "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fails(*args: object) -> str:
    """The one line on stderr of a command that must refuse its input."""
    result = call(*args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def shard_files(manifest: Manifest) -> list[str]:
    return [shard.file for shard in manifest.shards]


# the upload


def test_what_is_pushed_loads_again(writer: HubServer, container: Path) -> None:
    for private in ("notes.md", "private-notes.txt", "report.json", "report.md", "own.yaml"):
        (container / private).write_text("private")
    for beside in (
        "NOTICE",
        "USE_POLICY.md",
        "additional_chat_templates/rag.jinja",
        "spiece.model",
    ):
        (container / beside).parent.mkdir(exist_ok=True)
        (container / beside).write_text("public")
    (container / ".work").mkdir()
    (container / "tokenizer").mkdir()
    (container / "tokenizer" / "private.json").write_text("{}")
    pushed = push(container, NAME, "--license", "mit")
    repo = writer.repos[NAME]
    assert len(repo.commits) == 2  # the Hub's own first one, and all of the container at once
    assert pushed["commit"] == repo.head
    assert set(repo.files) == set(pushed["files"]) | {".gitattributes"}
    own = {"config.json", MANIFEST, "recipe.yaml", "README.md", "tokenizer.json", "NOTICE"}
    assert own | {"USE_POLICY.md", "additional_chat_templates/rag.jinja"} <= set(repo.files)
    assert not [file for file in repo.files if "private" in file or "report" in file]
    assert not {"notes.md", "own.yaml"} & set(repo.files)
    assert not repo.private
    for file, size in pushed["files"].items():
        assert writer.content(repo, file) == (container / file).read_bytes()
        assert len(writer.content(repo, file)) == size
    budget = read_manifest(container).budgets.total_bytes - 1
    there, here = bitstack.load(NAME, budget), bitstack.load(container, budget)
    assert there.bitstack.levels == here.bitstack.levels


def test_private(writer: HubServer, container: Path) -> None:
    push(container, NAME, "--private", "--license", "mit")
    assert writer.repos[NAME].private
    push(container, NAME, "--private", "--license", "mit")
    writer.repos[NAME].private = False
    assert "is on the Hub and public" in fails("push", container, NAME, "--private", "--quiet")


def test_a_push_again_sends_nothing_twice(writer: HubServer, container: Path) -> None:
    push(container, NAME, "--license", "mit")
    head = writer.repos[NAME].head
    writer.log.clear()
    assert push(container, NAME, "--license", "mit")["commit"] == head
    assert [r for r in writer.log if r.method == "PUT"] == []


def test_a_broken_push_goes_on_where_it_stopped(
    writer: HubServer, container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    files = shard_files(read_manifest(container))
    assert len(files) > 4
    writer.uploads_left = 3
    line = fails("push", container, NAME, "--license", "mit", "--quiet")
    assert line.startswith(f"error: {NAME}: cannot be pushed: ")
    assert "call again" in line
    assert set(writer.repos[NAME].files) == {".gitattributes"}  # nothing that looks whole
    assert len(writer.large) == 3
    writer.uploads_left = None
    writer.log.clear()
    push(container, NAME, "--license", "mit")
    sent = [r.path for r in writer.log if r.method == "PUT"]
    assert len(sent) == len(set(sent)) == len(files) - 3
    assert bitstack.load(NAME).bitstack.levels == bitstack.load(container).bitstack.levels


def test_another_container_replaces_the_first_in_one_commit(
    writer: HubServer, container: Path, stacked: Callable[..., Path]
) -> None:
    push(container, NAME, "--license", "mit")
    first = writer.repos[NAME].head
    other = stacked("qwen3", blocks=4)
    manifest = read_manifest(other)
    pushed = push(shutil.copytree(other, container.parent / "other"), NAME, "--license", "mit")
    gone = set(shard_files(read_manifest(container))) - set(shard_files(manifest))
    assert set(pushed["removed"]) == gone
    assert gone
    assert not gone & set(writer.repos[NAME].files)
    assert len(writer.repos[NAME].commits) == 3
    assert bitstack.load(NAME).config.model_type == "qwen3"
    assert bitstack.load(NAME, revision=first).config.model_type == "llama"


# the card


def test_a_dry_run_sends_nothing(hub: HubServer, container: Path) -> None:
    result = call("push", container, NAME, "--dry-run", "--license", "mit")
    assert result.exit_code == 0, result.output
    assert hub.log == []
    manifest = read_manifest(container)
    for shard in manifest.shards:
        assert f"{shard.bytes}  {shard.file}" in result.stdout
    assert "nothing was sent" in result.stdout
    assert (container / CARD).is_file()


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


def table(text: str, first: str = "budget") -> list[list[str]]:
    """Cells of the card's table whose first column is called `first`, without its head."""
    lines = text.split(f"| {first} |")[1].split("\n\n")[0].splitlines()
    lines[0] = f"| {first} |{lines[0]}"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1, "a column too many"
    return cells[2:]


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


def test_a_report_gives_the_card_its_figures(
    hub: HubServer, container: Path, text: Path, tasks_folder: Path,
    pico_model: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    page = tmp_path / "r.html"
    made = call(
        "report", container, "--text", text, "--window", 32, "--original", pico_model("llama-gqa"),
        "--tasks", "boats", "--tasks-folder", tasks_folder, "--no-metrics", "--output", page,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    report = page.with_suffix(".json")
    pushed = push(container, NAME, "--dry-run", "--license", "mit", "--report", report)
    record = json.loads(report.read_text())
    assert [row["planned"]["budget"] for row in pushed["rows"]] == [
        r["name"] for r in record["rows"]
    ]
    card = (container / CARD).read_text()
    scores = table(card.split("## Benchmark tasks")[1])
    assert scores[0] == ["original", f"{record['original']['tasks'][0]['value']:.4g}"]
    for cells, row in zip(scores[1:], record["rows"], strict=True):
        score = row["tasks"][0]
        assert cells == [row["name"], f"{score['value']:.4g} ({100 * score['recovery']:.1f}%)"]
    assert PICTURE in pushed["files"]
    thumbnail = ModelCard(card).data.to_dict()["thumbnail"]
    assert thumbnail == f"https://huggingface.co/{NAME}/resolve/main/{PICTURE}"
    (container / CARD).unlink()
    command = ["push", container, NAME, "--dry-run", "--report", report]
    assert "leave --text and --budget out" in fails(*command, "--text", text)
    record["total_bytes"] += 1
    report.write_text(json.dumps(record))
    assert "not the report of" in fails(*command, "--license", "mit", "--base-model", "a/b")
    assert not (container / CARD).exists()


def test_no_path_of_the_disk_is_stored_or_pushed(
    hub: HubServer, run: Callable[..., Path], pico_model: Callable[..., Path], text: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Of the model, the text, or the container, in any file, at any depth."""
    secret = tmp_path / "home-of-somebody"
    model = shutil.copytree(pico_model("llama-gqa"), secret / "model")
    config = json.loads((model / "config.json").read_text())
    config["_name_or_path"] = str(model)
    (model / "config.json").write_text(json.dumps(config))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {"name_or_path": str(model), "special_tokens_map_file": str(model / "map.json")}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    held_out = shutil.copy(text, secret / "held-out.txt")
    fields = {"blocks": 2, "search_sweeps": 0, "joint_passes": 0, "tune_steps": 0}
    few = {"num_samples": 4, "seq_len": 32, "order": "predicted", "calibration": str(held_out)}
    made = run(model, "container", **fields, **few)
    options = ["--text", held_out, "--window", 32, "--original", model, "--budget", "100%"]
    push(made, NAME, "--dry-run", "--license", "mit", *options)
    bitstack.load(made).save_pretrained(tmp_path / "saved")
    bitstack.export(made, tmp_path / "dense", budget="100%")
    for folder in (made, tmp_path / "saved", tmp_path / "dense"):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert len(files) > 4
        for file in files:
            assert str(tmp_path).encode() not in file.read_bytes(), file
            assert secret.name.encode() not in file.read_bytes(), file


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


# bad input


def test_bad_input(
    hub: HubServer, container: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["push", container, NAME, "--license", "mit"]
    assert "no token for the Hub; log in with `hf auth login`" in fails(*args)
    monkeypatch.setenv("HF_TOKEN", "hf_forged")
    assert "the token is not valid" in fails(*args)
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "the token has no right to do this (You don't have" in fails(*args)
    assert hub.repos == {}
    assert "give owner/name" in fails("push", container, "no-owner", "--dry-run")
    assert "--text" in fails(*args, "--original", "someone/pico")
    assert "is not understood" in fails(*args, "--dry-run", "--budgets", "60%,much")
    assert "below the floor" in fails(*args, "--dry-run", "--budgets", "1%")
    assert "no such folder" in fails("push", container / "no", NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert HfApi().endpoint == "http://127.0.0.1:9"
    assert "cannot be reached" in fails(*args)
    assert not (container / CARD).exists()


def test_a_broken_container_is_not_pushed(writer: HubServer, container: Path) -> None:
    shard = container / read_manifest(container).shards[1].file
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert f"{shard.name}: " in fails("push", container, NAME, "--dry-run")
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "SHA-256" in fails("push", container, NAME)
    shard.unlink()
    assert "missing" in fails("push", container, NAME)
    (container / MANIFEST).unlink()
    assert "not a finished" in fails("push", container, NAME)
    assert writer.large == {}


def test_an_unknown_license_is_left_out(
    hub: HubServer, container: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = call("push", container, NAME, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "name it with --license" in caplog.text
    assert "name it with --base-model OWNER/NAME" in caplog.text
    assert "license" not in ModelCard.load(container / CARD).data.to_dict()
