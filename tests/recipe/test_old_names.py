"""Version 0.1's names of recipe fields: in files, overrides, calls, and containers made then."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from bitstack.cli import app
from bitstack.errors import UserError
from bitstack.live.loading import load
from bitstack.recipe import RENAMED, Recipe, current_names, load_recipe, with_old_names
from bitstack.recipe.old_names import OLD_NAMES, _warn_of_old_name
from bitstack.recipe.schema import OVERRIDABLE
from damage import change_file, change_manifest

OLD: dict[str, Any] = {
    "samples": 7, "length": 33, "together": [3], "sweeps": 1, "passes": 5, "preference": [2.0],
    "rounds": 3, "scaling": False, "tune_rate": 0.02, "tune_codes": 0.001, "targets": [2.5],
}  # fmt: skip
NEW = {RENAMED[name]: value for name, value in OLD.items()}


@pytest.fixture(autouse=True)
def first_time(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every test sees the notices as a new process does."""
    logger = logging.getLogger("bitstack")
    level = logger.level
    logger.setLevel(logging.NOTSET)
    _warn_of_old_name.cache_clear()
    yield
    logger.setLevel(level)


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_every_old_name_leads_to_a_field() -> None:
    assert set(OLD) == set(RENAMED)
    assert set(RENAMED.values()) <= set(Recipe.model_fields)
    assert not set(RENAMED) & set(Recipe.model_fields)
    assert {RENAMED[old] for old in OLD_NAMES.values()} == set(OLD_NAMES)


def test_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump(OLD))
    assert load_recipe(file) == load_recipe(**NEW, name="old")


def test_as_keywords() -> None:
    assert load_recipe(**OLD) == load_recipe(**NEW) == Recipe(**OLD) == Recipe(**NEW)


@pytest.mark.parametrize("old", [name for name in RENAMED if RENAMED[name] in OVERRIDABLE])
def test_in_overrides(old: str) -> None:
    recipe = load_recipe(overrides={"*.down_proj": {old: OLD[old]}})
    assert getattr(recipe.of("layers.0.down_proj"), RENAMED[old]) == OLD[old]
    assert recipe.overrides == {"*.down_proj": {RENAMED[old]: OLD[old]}}


def test_a_keyword_of_one_name_goes_before_a_file_of_the_other(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("samples: 3\nseq_len: 40\n")
    recipe = load_recipe(file, num_samples=4, length=50)
    assert (recipe.num_samples, recipe.seq_len) == (4, 50)


BOTH = "num_samples: also given as samples, its old name; give one"


@pytest.mark.parametrize("text", ["samples: 3\nnum_samples: 4\n", "num_samples: 4\nsamples: 4\n"])
def test_both_names_in_a_file_are_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(text)
    result = call("run", "MODEL", "--output", tmp_path / "c", "--recipe", file)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line == f"error: recipe {file}: {BOTH}"


def test_both_names_in_a_call_or_an_override() -> None:
    with pytest.raises(UserError, match=BOTH):
        load_recipe(samples=3, num_samples=4)
    with pytest.raises(UserError, match="refit_rounds: also given as rounds"):
        load_recipe(overrides={"*": {"rounds": 1, "refit_rounds": 1}})


def test_one_notice_for_each_old_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bitstack"):
        for _ in range(2):
            load_recipe(samples=3, overrides={"*": {"rounds": 1}, "a": {"rounds": 2}})
    assert caplog.messages == [
        "warning: recipe field samples is now called num_samples; both are read",
        "warning: recipe field rounds is now called refit_rounds; both are read",
    ]


def test_new_names_give_no_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bitstack"):
        assert current_names(NEW) == NEW
    assert not caplog.messages


def test_quiet_hides_the_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    call("run", tmp_path / "no", "--output", tmp_path / "c", "--samples", 3, "--quiet")
    assert not caplog.messages


def test_results_carry_both_names() -> None:
    fields = load_recipe(**NEW).model_dump()
    both = with_old_names(fields)
    assert both | OLD | NEW == both
    assert set(both) == set(Recipe.model_fields) | set(RENAMED)


# A container that version 0.1 made


@pytest.fixture
def old_container(stacked: Callable[..., Path], tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    shutil.copytree(stacked("llama-gqa"), folder)
    manifest = json.loads((folder / "bitstack.json").read_text())
    fields = {OLD_NAMES.get(name, name): value for name, value in manifest["recipe"].items()}
    assert set(RENAMED) <= set(fields)
    change_manifest(folder, lambda data: data | {"recipe": fields})
    change_file(folder, "recipe.yaml", yaml.safe_dump(fields).encode())
    return folder


def test_an_old_container_loads_and_evaluates(old_container: Path, text_file: Path) -> None:
    assert load(old_container, budget="100%").bitstack.resident_bytes > 0
    result = call("eval", old_container, "--text", text_file, "--window", 32, "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["perplexity"] > 1
    assert call("plan", old_container).exit_code == 0


def test_an_old_container_reports(old_container: Path, tmp_path: Path) -> None:
    result = call("report", old_container, "--output", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "page.json").read_text())["container"]
    assert "samples" in (tmp_path / "page.html").read_text()


def test_the_recipe_of_an_old_container_is_read(
    old_container: Path, stacked: Callable[..., Path]
) -> None:
    today = load_recipe(stacked("llama-gqa") / "recipe.yaml")
    assert load_recipe(old_container / "recipe.yaml") == today


def test_run_writes_its_record_under_both_names(
    pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    few = ["--num-samples", 4, "--seq-len", 32, "--blocks", 1, "--tune-steps", 0]
    few += ["--order-samples", 1, "--search-sweeps", 0, "--calibration", text_file]
    result = call("run", pico_model("llama-gqa"), "--output", tmp_path / "c", *few, "--json", "-")
    recipe = json.loads(result.stdout)["recipe"]
    assert (recipe["num_samples"], recipe["samples"]) == (4, 4)
    assert set(recipe) == set(Recipe.model_fields) | set(RENAMED)
