"""Inputs that cannot be used are refused before anything is written; others say their sizes.

Also covers `container.output`.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import pico
from bitstack import UserError
from bitstack.compression import inputs
from bitstack.compression.inputs import open_inputs, stack_spec
from bitstack.container.manifest import read_manifest
from bitstack.original.matrix import Matrix
from bitstack.recipe import load_recipe

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
    """The journal and the shards, the planes once more after tuning, the states of all layers and
    two gradients for the backward pass, the last of what is tuned on, and of the windows that
    settle the order what the original predicts."""
    model = pico_model("llama-tied")
    manifest = read_manifest(run(model, "room", **QUICK | {"num_samples": 20}))
    stacked = sum(t.bytes for e in manifest.stacks for t in e.spec.all())
    needed = 2 * (stacked + manifest.fixed_bytes) + stacked + (2 + 3) * 20 * 24 * 32 * 4
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
    with pytest.raises(
        UserError, match="calibration is none, but column_scaling and order: perplexity needs text"
    ):
        run(model, **PAPER | {"calibration": "none"})
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model(pico_model: Folder, run: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    config = pico.FAMILIES["llama-tied"]()
    config.vocab_size = 60
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    pico.tokenizer().save_pretrained(folder)
    with pytest.raises(UserError, match=r"gives id \d+, but the model has 60 embeddings"):
        run(folder, **QUICK)


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


def test_overrides_decide_what_is_decomposed_and_how(pico_model: Folder, tmp_path: Path) -> None:
    overrides = {"*.down_proj": {"dense": True}, "*.up_proj": {"blocks": 2}}
    recipe = load_recipe(overrides=overrides, calibration="none", **QUICK)
    opened = open_inputs(pico_model("llama-tied"), tmp_path / "out", recipe)
    names = {matrix.name for matrix in opened.matrices}
    assert "model.layers.1.mlp.up_proj" in names
    assert not any("down_proj" in name for name in names)
    assert "model.layers.1.mlp.down_proj.weight" in {dense.name for dense in opened.dense}
    levels = {m.name: stack_spec(m, recipe.of(m.name)).levels for m in opened.matrices}
    assert (levels["model.layers.0.mlp.up_proj"], levels["model.layers.0.mlp.gate_proj"]) == (2, 3)
    assert not (tmp_path / "out").exists()


def test_sizes_with_and_without_text(pico_model: Folder, text_file: Path, tmp_path: Path) -> None:
    model = pico_model("llama-tied")
    without = open_inputs(model, tmp_path / "out", load_recipe(calibration="none", **QUICK))
    assert (without.tokens, without.batch_tokens, without.tunes) == (0, 0, False)
    assert without.disk_bytes == 2 * without.stored_bytes  # the journal and the shards
    recipe = load_recipe(calibration=str(text_file), **QUICK)
    opened = open_inputs(model, tmp_path / "out", recipe)
    assert (opened.tokens, opened.batch_tokens, opened.tunes) == (3 * 24, 2048, True)
    assert opened.stored_bytes == without.stored_bytes
    assert opened.disk_bytes > without.disk_bytes
    assert opened.memory_bytes > without.memory_bytes
    untuned = open_inputs(model, tmp_path / "out", recipe.model_copy(update={"tune_steps": 0}))
    assert not untuned.tunes
    assert untuned.disk_bytes < opened.disk_bytes


def test_the_rank_of_a_stack_is_at_most_the_smaller_side() -> None:
    matrix = Matrix("m", "m", "m", "linear", 40, 12)
    assert stack_spec(matrix, load_recipe("paper", rank=16)).rank == 12
    assert stack_spec(matrix, load_recipe("paper", rank=3)).rank == 3
    assert stack_spec(matrix, load_recipe("default", rank=16)).rank == 0  # of signs only
