"""Fields of a recipe, their limits and overrides, and every kind of recipe that cannot be.

Also covers `recipe.loading` and `recipe.problems`.
"""

from pathlib import Path
from typing import Any

import pytest

from bitstack import recipes
from bitstack.errors import UserError
from bitstack.recipe import Recipe, load_recipe


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_are_valid_and_carry_their_name(name: str) -> None:
    assert load_recipe(name).name == name


def test_paper_is_the_published_setting() -> None:
    """arXiv 2410.23918: 16 blocks of rank 16, 256 samples of 2048 tokens, embeddings 16-bit."""
    paper = load_recipe("paper")
    assert (paper.method, paper.blocks, paper.rank) == ("signs", 16, 16)
    assert (paper.num_samples, paper.seq_len, paper.embeddings) == (256, 2048, "dense")
    assert paper.column_scaling
    assert paper.order == "perplexity"


def test_flag_before_file_before_default(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("blocks: 3\nseed: 5\n")
    recipe = load_recipe(file, seed=7, refit_rounds=None)
    assert (recipe.blocks, recipe.seed) == (3, 7)
    assert recipe.refit_rounds == Recipe.model_fields["refit_rounds"].default
    assert recipe.name == "mine"


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("rnak: 3\nblocks: many\nmethod: magic\n")
    with pytest.raises(UserError) as caught:
        load_recipe(file, seed="-1", damping=["0.1", "much"])
    message = str(caught.value)
    for part in (
        "no field rnak, did you mean rank?", "blocks: 'many'", "'codes' or 'signs'",
        "seed: '-1'", "greater than or equal to 0", "damping.1: 'much'", str(file),
    ):  # fmt: skip
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "codes", "blocks": 9}, "9 is too many for method codes; at most 8"),
        ({"damping": [0.5, -1]}, "holds a negative number; at least 0"),
        ({"chains": [4, 2]}, r"chains: \[4, 2\]: give levels from 1 on, each above the one before"),
        ({"chains": [0, 4]}, "levels from 1 on"),
        ({"target_bits": [3, 0.5]}, "0.5].*bits a weight lie between 1 and 16"),
    ],
)
def test_values_that_mean_nothing(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(**fields)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [1", "just words"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"no mapping of fields|not valid YAML"):
        load_recipe(file)


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(UserError, match=f"give one of {', '.join(recipes.names())}, or"):
        load_recipe("papre")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such name or file"):
        load_recipe(tmp_path)


def test_too_many_planes_are_refused_for_codes_alone() -> None:
    assert load_recipe(method="signs", blocks=16).blocks == 16
    with pytest.raises(UserError, match="at most 8"):
        load_recipe(method="codes", blocks=9)


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({"chains": [2, 4]}, (2, 4)),
        ({"chains": [2, 4, 8]}, (2, 4)),
        ({"chains": []}, ()),
        ({"chains": [2, 4], "blocks": 4}, (2,)),
        ({"chains": [4], "method": "signs"}, ()),
    ],
)
def test_chains_end_below_the_last_level(fields: dict[str, Any], ends: tuple[int, ...]) -> None:
    recipe = load_recipe(**fields)
    assert recipe.ends == ends
    assert (recipe.fine_steps > 0) == bool(ends)


def test_overrides_by_pattern() -> None:
    recipe = load_recipe(
        blocks=4,
        overrides={"*.down_proj": {"blocks": 6}, "*.1.*": {"search_sweeps": 0, "blocks": 2}},
    )
    assert recipe.of("layers.0.up_proj").blocks == 4
    assert recipe.of("layers.0.down_proj").blocks == 6
    both = recipe.of("layers.1.down_proj")
    assert (both.blocks, both.search_sweeps) == (2, 0)  # the later pattern goes first


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"seed": 3}, "holds seed; allowed: blocks, "),
        ({"blocks": 0}, "greater than or equal to 1"),
        ({"blocks": 9}, "at most 8"),
        ({"dense": "maybe"}, "dense is 'maybe'; true or false"),
    ],
)
def test_overrides_that_cannot_be(override: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(overrides={"*.down_proj": override})


def test_a_written_recipe_is_read_as_it_was(tmp_path: Path) -> None:
    recipe = load_recipe("fast", overrides={"lm_head": {"dense": True}}, shard_size="2MB", seed=4)
    recipe.write(tmp_path / "recipe.yaml", recipe.calibration)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_which_recipes_tune() -> None:
    """The published one has no codes to tune, whatever the default number of steps."""
    assert {name: load_recipe(name).tunes for name in recipes.names()} == {
        "best": True, "default": True, "fast": False, "paper": False,
    }  # fmt: skip
