"""What a job makes of its text: the windows it runs, and what the container says of them."""

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pico
from bitstack import recipes
from bitstack.compression.job import open_job
from bitstack.compression.pipeline import RECIPE, compress
from bitstack.container.manifest import read_manifest
from bitstack.errors import UserError
from bitstack.recipe import GENERAL, load_recipe

Folder = Callable[..., Path]
FEW = {"num_samples": 3, "seq_len": 24, "order_samples": 1}
QUICK = {**FEW, "blocks": 3, "search_sweeps": 1, "joint_passes": 1, "tune_steps": 2}


def test_shorter_windows_but_as_many_tokens(pico_model: Folder, run: Folder) -> None:
    """Of a model that reads fewer tokens than a window of the recipe has."""
    fields = QUICK | {"num_samples": 3, "seq_len": 2 * pico.POSITIONS}
    text = read_manifest(run(pico_model("llama-tied"), **fields)).text
    assert text is not None
    assert (text["samples"], text["length"]) == (6, pico.POSITIONS)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_container_says_what_it_was_tuned_on(pico_model: Folder, run: Folder, steps: int) -> None:
    model, fields = pico_model("llama-tied"), QUICK | {"tune_steps": steps}
    text = read_manifest(run(model, **fields)).text
    assert text is not None
    # A batch of windows a step, and one step for the finer planes; no more than the text has.
    read = len(pico.tokenizer()(pico.TEXT * 3)["input_ids"])
    pieces = min(4 * QUICK["num_samples"] * QUICK["seq_len"], read) // QUICK["seq_len"]
    assert text["tuned"] == (pieces - QUICK["order_samples"] if steps else 0)


def test_without_text_it_says_so(
    pico_model: Folder, run: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bitstack"):
        run(pico_model("llama-tied"), **QUICK | {"calibration": "none"})
    assert "no calibration text" in caplog.text


def test_runners_take_the_windows_they_are_given(
    pico_model: Folder, text_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(calibration=str(text_file), **QUICK | {"num_samples": 5})
    job = open_job(pico_model("llama-tied"), tmp_path / "out", recipe, False)
    assert job.text is not None
    assert torch.equal(torch.cat(job.runner().windows), job.text.windows)
    batches = job.runner(job.text.tuning_windows, samples=3, batch_tokens=2 * 24 + 5).windows
    assert [batch.shape for batch in batches] == [(2, 24), (1, 24)]
    assert torch.equal(torch.cat(batches), job.text.tuning_windows[:3])
    assert len(job.runner(batch_tokens=1).windows) == 5  # a window at least


def test_without_text_nothing_is_run(pico_model: Folder, tmp_path: Path) -> None:
    recipe = load_recipe(calibration="none", **QUICK)
    job = open_job(pico_model("llama-tied"), tmp_path / "out", recipe, False)
    assert job.runner().windows == []
    assert job.text_record() is None


@pytest.mark.parametrize("absolute", [True, False])
def test_the_container_names_no_path_of_this_machine(
    pico_model: Folder, text_file: Path, tmp_path: Path, absolute: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A relative path is kept, so that the recipe finds the text again from the same folder."""
    monkeypatch.chdir(text_file.parent.parent)
    relative = f"{text_file.parent.name}/{text_file.name}"
    recipe = load_recipe(calibration=str(text_file) if absolute else relative, **QUICK)
    job = open_job(pico_model("llama-tied"), tmp_path / "out", recipe, False)
    assert job.text_name == text_file.name
    assert job.recipe_calibration == (text_file.name if absolute else relative)


@pytest.fixture
def general(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short text in the place of the shipped one."""
    file = tmp_path / "shipped.txt.gz"
    file.write_bytes(gzip.compress(pico.TEXT.encode()))
    monkeypatch.setattr(recipes, "general_text", lambda: file)
    return file


def test_the_general_text_has_a_name_and_no_path(
    pico_model: Folder, general: Path, tmp_path: Path
) -> None:
    container = compress(pico_model("llama-tied"), tmp_path / "out", **QUICK)
    manifest = read_manifest(container)
    assert manifest.text is not None
    assert manifest.recipe["calibration"] == manifest.text["source"] == GENERAL
    assert load_recipe(container / RECIPE).calibration == GENERAL
    assert str(tmp_path) not in (container / RECIPE).read_text()


def test_the_general_text_is_told_of_where_none_was_named(
    pico_model: Folder, general: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lines(output: str, **fields: str) -> list[str]:
        caplog.clear()
        recipe = load_recipe(load_recipe(**QUICK | fields))  # as `run` hands it to `compress`
        with caplog.at_level(logging.WARNING, "bitstack"):
            open_job(pico_model("llama-tied"), tmp_path / output, recipe, False)
        return caplog.messages

    (line,) = lines("one")
    assert line.startswith("calibration: the general text that is shipped; --calibration FILE")
    assert lines("two", calibration=GENERAL) == []
    assert lines("three", calibration=str(general)) == []


def test_a_run_goes_on_with_the_same_general_text(
    pico_model: Folder, general: Path, tmp_path: Path
) -> None:
    model, output, recipe = pico_model("llama-tied"), tmp_path / "out", load_recipe(**QUICK)
    open_job(model, output, recipe, False).journal.put("a", {"x": torch.ones(2)}, {})
    assert open_job(model, output, recipe, False).journal.notes == {"a": {}}
    general.write_bytes(gzip.compress((pico.TEXT + pico.TEXT).encode()))  # that of a later version
    with pytest.raises(UserError, match="unfinished run with another model, recipe or calibration"):
        open_job(model, output, recipe, False)
