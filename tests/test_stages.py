"""What of a stack is made before tuning."""

from dataclasses import replace

from bitstack.matrices import Matrix
from bitstack.recipe import load_recipe
from bitstack.stages import LOWER, UPPER, WHOLE

INSIDE = Matrix("a.0.b", "a.0.b.weight", "a.0.b", "linear", 8, 8, layer=0)
HEAD = replace(INSIDE, name="head", parameter="head.weight", module="head", kind="head", layer=None)


def test_layers_get_their_lower_planes_embedding_and_head_all_of_them() -> None:
    recipe = load_recipe(blocks=7, together=[2, 1], overrides={"head": {"blocks": 5}})
    assert LOWER.recipe(recipe, INSIDE).blocks == 3
    assert LOWER.recipe(recipe, HEAD).blocks == 5
    for stage in (UPPER, WHOLE):
        assert [stage.recipe(recipe, m).blocks for m in (INSIDE, HEAD)] == [7, 5]
    assert LOWER.recipe(load_recipe(blocks=2), INSIDE).blocks == 2
