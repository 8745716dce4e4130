import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_demo_model as script
import typer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from bitstack import recipes
from bitstack.errors import UserError

PICO = script.Settings(
    vocabulary=300,
    hidden=16,
    intermediate=20,
    layers=1,
    heads=2,
    kv_heads=1,
    positions=64,
    tokens=12 * 8 * 32,
    window=32,
    batch=8,
    rate=1e-2,
    warmup=3,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("books")
    content = recipes.calibration_text().read_text("utf-8")
    (folder / "one.txt").write_text(content[:10_000] + script.END + content[10_000:15_000], "utf-8")
    (folder / "two.md").write_text(content[15_000:20_000], "utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def trained(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model"
    script.train(text, output, PICO, valid=text, save_every=5)
    return output


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(path / "model.safetensors") for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_model_folder_that_has_learned(trained: Path, text: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert model.dtype == torch.bfloat16
    assert len(tokenizer) == model.config.vocab_size == PICO.vocabulary
    assert tokenizer.decode(tokenizer("Zwölf 🦊\n")["input_ids"]) == "Zwölf 🦊\n"
    facts = json.loads((trained / "train.json").read_text())
    assert (facts["tokens"], facts["steps"]) == (12 * 8 * 32, 12)
    assert facts["params"] == model.num_parameters()
    assert facts["non_embedding"] == facts["params"] - 300 * 16
    untrained = torch.tensor(300.0).log()
    assert facts["valid_nll_per_token"] < untrained - 0.3
    assert not trained.with_name("model.part").exists()
    assert not list(trained.glob("*.pt"))


def test_the_same_seed_gives_the_same_weights(text: str, trained: Path, tmp_path: Path) -> None:
    script.train(text, tmp_path / "again", PICO)
    assert same_weights(trained, tmp_path / "again")
    script.train(text, tmp_path / "other", replace(PICO, seed=1))
    assert not same_weights(trained, tmp_path / "other")


def interrupt(text: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break off in step 8, after the checkpoint of step 5."""
    advance = script.Training.advance

    def broken(training: object, ids: torch.Tensor) -> torch.Tensor:
        if training.step == 7:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return advance(training, ids)

    with monkeypatch.context() as patch:
        patch.setattr(script.Training, "advance", broken)
        with pytest.raises(KeyboardInterrupt):
            script.train(text, output, PICO, save_every=5)
    assert not output.exists()


def test_resumed_is_unbroken(
    text: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model"
    interrupt(text, output, monkeypatch)
    with pytest.raises(UserError, match="left of another run"):
        script.train(text, output, PICO)
    with pytest.raises(UserError, match=r"rate is 0\.5, but .* was made with 0\.01"):
        script.train(text, output, replace(PICO, rate=0.5), resume=True)
    with pytest.raises(UserError, match="made from another text"):
        script.train(f"{text}/one.txt", output, PICO, resume=True)
    torch.manual_seed(123)
    script.train(text, output, PICO, resume=True)
    assert same_weights(trained, output)
    assert not output.with_name("model.part").exists()


def test_every_window_comes_once_an_epoch() -> None:
    settings = replace(PICO, batch=4)
    starts = torch.cat([script.window_starts(settings, 10 * 32 + 5, step) for step in range(5)])
    expected = torch.arange(10) * 32
    first, second = starts[:10], starts[10:]
    assert torch.equal(first.sort().values, expected)
    assert torch.equal(second.sort().values, expected)
    assert not torch.equal(first, second)


def test_the_defaults_are_those_of_the_demo_model() -> None:
    settings = script.Settings()
    demo = AutoModelForCausalLM.from_pretrained(recipes.demo_model()).config.to_dict()
    config = script.llama_config(settings).to_dict()
    for note in ("_name_or_path", "architectures", "dtype", "transformers_version"):
        demo.pop(note, None), config.pop(note, None)
    assert config == demo
    facts = json.loads((recipes.demo_model() / "train.json").read_text())
    assert settings.steps == facts["steps"]
    assert settings.steps * settings.window * settings.batch == facts["tokens"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 200}, "vocabulary is 200, but this text gives 257"),
        ({"heads": 3}, "hidden is 16, heads 3; hidden must be a multiple of heads"),
        ({"window": 65}, "window is 65 tokens; it must be at most 64"),
        ({"window": 30_000, "positions": 30_000, "tokens": 10**9}, "text too short"),
        ({"tokens": 255}, "tokens is 255; it must be at least 256, one step"),
    ],
)
def test_errors(text: str, tmp_path: Path, change: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        script.train(text, tmp_path / "model", replace(PICO, **change))
    assert not list(tmp_path.iterdir())


def test_command_line(text: str, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(script.main)
    sizes = "--vocabulary 270 --hidden 8 --intermediate 8 --layers 1 --heads 1 --kv-heads 1"
    words = [
        text,
        str(tmp_path / "m"),
        *sizes.split(),
        *["--tokens", "64", "--window", "16", "--batch", "2"],
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert '"steps": 2' in result.output
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "exists already" in result.output
