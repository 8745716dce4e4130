"""The options of `run` that are made from the fields of a recipe, under new and old names."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from bitstack.cli import app
from bitstack.commands.recipe_options import default_text, recipe_fields, recipe_options
from bitstack.container.manifest import read_manifest
from bitstack.errors import UserError
from bitstack.recipe import RENAMED, Recipe, load_recipe


def test_every_field_is_an_option() -> None:
    options = {option.name: option for option in recipe_options()}
    assert list(options) == [*Recipe.model_fields, *RENAMED]
    for name, field in Recipe.model_fields.items():
        (info,) = options[name].annotation.__metadata__
        assert options[name].default is None
        assert field.description
        words = re.sub(r"`(\w+)`", lambda m: "--" + m[1].replace("_", "-"), field.description)
        assert info.help.startswith(words)
        empty = getattr(load_recipe(), name) in ([], {})
        assert ("[default: " in info.help) is not empty
        if get_origin(field.annotation) is Literal:
            assert info.metavar == f"[{'|'.join(get_args(field.annotation))}]"
        if get_origin(field.annotation) is list:
            assert info.metavar.endswith(",…")
        if field.annotation is bool:
            flag = name.replace("_", "-")
            assert f"--{flag}/--no-{flag}" in (info.default, *(info.param_decls or ()))


def test_a_description_names_no_unknown_field() -> None:
    for field in Recipe.model_fields.values():
        assert set(re.findall(r"`(\w+)`", field.description or "")) <= set(Recipe.model_fields)


@pytest.mark.parametrize(
    ("value", "text"), [([], "none"), ({}, "none"), ([2, 2], "2,2"), (True, "yes"), (0, "0")]
)
def test_defaults_are_shown_as_they_are_typed(value: object, text: str) -> None:
    assert default_text(value) == text


def _written(value: object) -> object:
    """A value as it stands on a command line; flags are booleans there already."""
    if isinstance(value, bool):
        return value
    return ",".join(str(part) for part in value) if isinstance(value, list) else str(value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "blocks": st.integers(1, 8),
            "seed": st.integers(0, 2**31),
            "chains": st.sets(st.integers(1, 9), max_size=3).map(sorted),
            "damping": st.lists(st.floats(0, 10), min_size=1, max_size=5),
            "column_scaling": st.booleans(),
            "svd": st.sampled_from(["truncated", "full"]),
            "calibration": st.just("book, second edition.txt"),
        },
    )
)
def test_options_come_back_as_the_values_they_were_written_from(fields: dict) -> None:
    given = {name: _written(value) for name, value in fields.items()}
    recipe = load_recipe(**recipe_fields(dict.fromkeys([*Recipe.model_fields, *RENAMED]) | given))
    assert recipe == load_recipe(**fields)


def test_a_mapping_on_the_command_line() -> None:
    given = recipe_fields({"overrides": '{"*.down_proj": {blocks: 6}}'})
    assert given == {"overrides": {"*.down_proj": {"blocks": 6}}}
    with pytest.raises(UserError, match="--overrides: not valid YAML or JSON"):
        recipe_fields({"overrides": "{a: "})


OLD = [
    "--samples", "4", "--length", "32", "--together", "1,1", "--sweeps", "0", "--passes", "0",
    "--preference", "1,2", "--rounds", "1", "--no-scaling", "--tune-rate", "0.02",
    "--tune-codes", "0", "--targets", "2.2,3.2",
]  # fmt: skip
NEW = {
    "num_samples": 4, "seq_len": 32, "joint_planes": [1, 1], "search_sweeps": 0, "joint_passes": 0,
    "level_weights": [1.0, 2.0], "refit_rounds": 1, "column_scaling": False, "scale_lr": 0.02,
    "code_lr": 0.0, "target_bits": [2.2, 3.2],
}  # fmt: skip


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["run", *(str(arg) for arg in args)])


def test_old_options_still_work(
    pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    few = ["--blocks", 2, "--tune-steps", 0, "--order-samples", 1, "--calibration", text_file]
    result = run(pico_model("llama-gqa"), "--output", tmp_path / "c", *few, *OLD)
    assert result.exit_code == 0, result.output
    assert set(NEW) == set(RENAMED.values())
    assert read_manifest(tmp_path / "c").recipe | NEW == read_manifest(tmp_path / "c").recipe


def test_help_shows_no_old_option() -> None:
    shown = set(re.findall(r"--[\w-]+", run("--help").stdout))
    old = {flag for flag in OLD if flag.startswith("--")}
    assert not shown & old


def test_an_option_under_both_names_is_refused(tmp_path: Path) -> None:
    result = run("MODEL", "--output", tmp_path / "c", "--samples", 3, "--num-samples", 4)
    assert result.exit_code == 2
    (line,) = [part for part in result.stderr.splitlines() if part.startswith("error: ")]
    assert "num_samples: also given as samples, its old name; give one" in line
