"""Decomposes one matrix into its stack of blocks, by the method that the recipe names. Never sees
a model or a file."""

from torch import Tensor

from bitstack.decompose.form import choose_form
from bitstack.decompose.nested import Plan
from bitstack.decompose.published import decompose_signs
from bitstack.decompose.result import Decomposed
from bitstack.decompose.rows import MapBlocks, decompose_codes
from bitstack.recipe import Recipe

__all__ = ["Decomposed", "decompose"]


def decompose(
    weight: Tensor,
    recipe: Recipe,
    *,
    moment: Tensor | None = None,
    row_weights: Tensor | None = None,
    map_blocks: MapBlocks = map,
) -> Decomposed:
    """Decomposes `weight` [m, n], on the device it lies on; same recipe and inputs, same bytes.

    Args:
        moment: E[x xᵀ] [n, n] of the matrix's inputs; None without calibration.
        row_weights: E[g²] [m] of the gradient at its outputs; None without calibration.
        map_blocks: Runs the blocks of rows of a large matrix, in place of `map`; such as the `map`
            of a pool of threads. Method codes only.
    """
    if recipe.method == "signs":
        return decompose_signs(
            weight,
            blocks=recipe.blocks,
            rank=recipe.rank,
            full=recipe.svd == "full",
            seed=recipe.seed,
            moment=moment,
        )
    plan = Plan(
        blocks=recipe.blocks,
        ends=recipe.ends,
        joint_planes=tuple(recipe.joint_planes),
        damping=tuple(recipe.damping),
        refit_rounds=recipe.refit_rounds,
        search_sweeps=recipe.search_sweeps,
        joint_passes=recipe.joint_passes,
        # Without a moment the passes take no products with it, so that they cost next to nothing.
        joint_levels=recipe.joint_levels if moment is not None else recipe.blocks,
        level_weights=tuple(recipe.level_weights),
    )
    form = choose_form(weight, recipe, plan, moment, row_weights)
    return decompose_codes(
        weight, plan, moment=moment, row_weights=row_weights, rotation=form.rotation,
        outliers=form.outliers, map_blocks=map_blocks,
    )  # fmt: skip
