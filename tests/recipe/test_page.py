"""docs/recipes.md is what the code makes of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bitstack import recipes
from bitstack.recipe import RENAMED, Recipe, load_recipe
from bitstack.recipe.page import recipes_page

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_recipes_doc.py"


def test_the_committed_page_is_up_to_date() -> None:
    """If this fails: python scripts/make_recipes_doc.py."""
    assert (ROOT / "docs" / "recipes.md").read_text() == recipes_page()


def test_the_script_prints_the_page() -> None:
    command = [sys.executable, str(SCRIPT), "--print"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == recipes_page()


def test_every_field_old_name_and_recipe_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", recipes_page(), re.MULTILINE)
    shipped, fields = rows[: len(recipes.names())], rows[len(recipes.names()) :]
    assert sorted(name for name, _ in shipped) == recipes.names()
    assert [name for name, _ in fields] == list(Recipe.model_fields)
    assert {name: old for name, rest in fields if (old := rest.split("`")[-2]) in RENAMED} == {
        new: old for old, new in RENAMED.items()
    }


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", recipes_page(), re.DOTALL))
def test_the_examples_are_recipes(block: str) -> None:
    assert load_recipe(**yaml.safe_load(block))
