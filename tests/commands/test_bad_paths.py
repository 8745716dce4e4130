"""Whatever place a command is given, a wrong one is named in one line, with exit code 2."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import fails
from transformers import AutoModelForCausalLM, MambaConfig

import pico
from bitstack import compress
from bitstack.container.manifest import MANIFEST

PLACES: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "nothing",
    "a file": lambda folder: written(folder / "file.txt", "text"),
    "empty": lambda folder: written(folder / "empty/.hidden", "").parent,
    "a config alone": lambda folder: written(folder / "c/config.json", "{}").parent,
    "a broken config": lambda folder: written(folder / "b/config.json", "{").parent,
    "a broken manifest": lambda folder: written(folder / "m" / MANIFEST, "{}").parent,
    "no weights": lambda folder: (
        written(folder / "w/config.json", pico.FAMILIES["qwen2"]().to_json_string()).parent
    ),
}


def written(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def commands(place: Path, text: Path, folder: Path) -> dict[str, list[object]]:
    """Every command that reads a model or a container, given `place` for it."""
    pairs = written(folder / "pairs.jsonl", '{"instruction": "a", "answer": "b"}\n')
    return {
        "run": ["run", place, "--output", folder / "out", "--calibration", "none"],
        "plan": ["plan", place],
        "eval": ["eval", place, "--text", text],
        "generate": ["generate", place, "--prompt", "The river"],
        "export": ["export", place, "--output", folder / "out"],
        "push": ["push", place, "owner/name", "--dry-run"],
        "report": ["report", place, "--output", folder / "page.html"],
        "order": ["metric", "order", place, "--text", text],
        "capacity": ["metric", "information-capacity", place, "--text", text],
        "loss": ["metric", "density", "loss", place, "--pairs", pairs],
        "gap": ["metric", "gap", "measure", place, place, "--text", text],
    }


COMMANDS = (
    "run", "plan", "eval", "generate", "export", "push", "report", "order", "capacity", "loss",
    "gap",
)  # fmt: skip


@pytest.fixture(autouse=True)
def without_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing folder is not looked for in the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_places_that_hold_nothing_of_use(
    command: str, kind: str, text_file: Path, tmp_path: Path
) -> None:
    place = PLACES[kind](tmp_path / "places")
    line = fails(*commands(place, text_file, tmp_path)[command])
    assert str(place) in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def container(pico_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places") / "c"
    return compress(pico_model("qwen2"), folder, blocks=2, calibration="none")


@pytest.mark.parametrize("command", ["plan", "eval", "order", "capacity", "loss", "gap"])
@pytest.mark.parametrize("target", [".", "missing/rows.json"])
def test_json_is_checked_before_the_work(
    command: str, target: str, container: Path, text_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    arguments = commands(container, text_file, tmp_path)[command]
    assert f"--json {target}: cannot write" in fails(*arguments, "--json", target)


@pytest.mark.parametrize("command", ["run", "export", "report"])
def test_an_output_that_is_this_folder(
    command: str, container: Path, pico_model: Callable[..., Path], text_file: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    place = pico_model("qwen2") if command == "run" else container
    arguments = commands(place, text_file, tmp_path)[command]
    here = written(tmp_path / "here/mine.txt", "mine").parent
    monkeypatch.chdir(here)
    assert "--output ." in fails(*arguments[:2], "--output", ".", *arguments[4:])
    assert [path.name for path in here.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The container of a model without attention."""
    folder = tmp_path_factory.mktemp("mamba")
    config = MambaConfig(**pico.SPECIAL, hidden_size=16, num_hidden_layers=2, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    pico.tokenizer().save_pretrained(folder / "model")
    return compress(folder / "model", folder / "c", blocks=2, calibration="none")


def test_what_a_model_without_attention_cannot_do(
    stateful: Path, text_file: Path, tmp_path: Path
) -> None:
    assert "KV cache" in fails("plan", stateful, "--context", 10)
    draft = ["--draft-budget", "50%"]
    line = fails("generate", stateful, "--prompt", "The river", *draft)
    assert "draft" in line
    capacity = commands(stateful, text_file, tmp_path)["capacity"]
    assert "attention" in fails(*capacity, "--variant", "bytes")
