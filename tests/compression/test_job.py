"""What a run is opened with: inputs that cannot be used, told before anything is written, and what
the container says of its text."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import pico
from bitstack import UserError
from bitstack.compression import inputs
from bitstack.container.manifest import read_manifest

Folder = Callable[..., Path]
FEW = {"num_samples": 3, "seq_len": 24, "order_samples": 1}
QUICK = {**FEW, "blocks": 3, "search_sweeps": 1, "joint_passes": 1, "tune_steps": 2}
PAPER = {**FEW, "recipe": "paper", "blocks": 2, "rank": 3}


def test_outputs_that_are_taken(pico_model: Folder, run: Folder, tmp_path: Path) -> None:
    model = pico_model("llama-tied")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"--output .*file: is a file; name a folder"):
        run(model, "file", **QUICK)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        run(model, "full", **QUICK)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    run(model, "done", **QUICK | {"calibration": "none"})
    with pytest.raises(UserError, match="already holds a container"):
        run(model, "done", **QUICK)
    (tmp_path / "empty").mkdir()
    run(model, "empty", **QUICK | {"calibration": "none"})


def test_a_full_disk_is_told_beforehand(
    pico_model: Folder, run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal and the shards, the planes once more after tuning, the states of all layers for
    the backward pass, the last of what is tuned on, and of the windows that settle the order what
    the original predicts."""
    model = pico_model("llama-tied")
    manifest = read_manifest(run(model, "room", **QUICK | {"num_samples": 20}))
    stacked = sum(t.bytes for e in manifest.stacks for t in e.spec.all())
    needed = 2 * (stacked + manifest.fixed_bytes) + stacked + (2 + 2) * 20 * 24 * 32 * 4
    read = len(pico.tokenizer()(pico.TEXT * 3)["input_ids"])
    pieces = min(4 * 20 * 24, read) // 24
    needed += (pieces - QUICK["order_samples"]) * 24 * 32 * 4
    needed += QUICK["order_samples"] * 24 * 256 * 8
    for free, enough in ((needed - 1, False), (needed, True)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(inputs.shutil, "disk_usage", lambda path, u=usage: u)
        if enough:
            run(model, **QUICK | {"num_samples": 20})
        else:
            with pytest.raises(
                UserError, match=r"KiB of disk are needed while it runs, but .* fre"
            ):
                run(model, **QUICK | {"num_samples": 20})
            assert not (tmp_path / "out").exists()


def test_texts_that_do_not_do(pico_model: Folder, run: Folder, tmp_path: Path) -> None:
    model = pico_model("llama-tied")
    (tmp_path / "short.txt").write_text("A few words.")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"too short: .* tokens found, 24 needed"):
        run(model, **QUICK | {"calibration": str(tmp_path / "short.txt")})
    with pytest.raises(UserError, match="holds no text"):
        run(model, **QUICK | {"calibration": str(tmp_path / "empty.txt")})
    with pytest.raises(UserError, match="does not exist"):
        run(model, **QUICK | {"calibration": str(tmp_path / "none.txt")})
    with pytest.raises(UserError, match="calibration is none, but scaling and order: perplexity"):
        run(model, **PAPER | {"calibration": "none"})
    assert not (tmp_path / "out").exists()


def test_shorter_windows_but_as_many_tokens(pico_model: Folder, run: Folder) -> None:
    """Of a model that reads fewer tokens than a window of the recipe has."""
    asked = QUICK | {"num_samples": 3, "seq_len": 2 * pico.POSITIONS}
    text = read_manifest(run(pico_model("llama-tied"), **asked)).text
    assert text is not None
    assert (text["samples"], text["length"]) == (6, pico.POSITIONS)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_container_says_what_it_was_tuned_on(pico_model: Folder, run: Folder, steps: int) -> None:
    model, fields = pico_model("llama-tied"), QUICK | {"tune_steps": steps}
    text = read_manifest(run(model, **fields)).text
    assert text is not None
    # A batch of windows a step, and one step for the finer planes; no more than the text has.
    read = len(pico.tokenizer()(pico.TEXT * 3)["input_ids"])
    pieces = min(4 * QUICK["samples"] * QUICK["length"], read) // QUICK["length"]
    assert text["tuned"] == (pieces - QUICK["order_samples"] if steps else 0)


def test_a_tokenizer_of_another_model(pico_model: Folder, run: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    config = pico.FAMILIES["llama-tied"]()
    config.vocab_size = 60
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    pico.tokenizer().save_pretrained(folder)
    with pytest.raises(UserError, match=r"gives id \d+, but the model has 60 embeddings"):
        run(folder, **QUICK)


def test_without_text_it_says_so(
    pico_model: Folder, run: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bitstack"):
        run(pico_model("llama-tied"), **QUICK | {"calibration": "none"})
    assert "no calibration text" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"*.donw_proj": {"blocks": 2}}, r"matches no matrix of the model; near it: .*down_proj"),
        ({"*.experts.down_proj.1": {"dense": True}}, "leave all of it dense or none"),
        ({"*": {"dense": True}}, "nothing is left to decompose"),
    ],
)
def test_overrides_that_do_not_fit_the_model(
    pico_model: Folder, run: Folder, tmp_path: Path, overrides: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(pico_model("mixtral"), **QUICK, overrides=overrides)
    assert not (tmp_path / "out").exists()
