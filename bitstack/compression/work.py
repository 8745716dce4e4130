"""Counts the work of a run before it starts, from the model's skeleton and the recipe.

The counts follow what `decompose`, `calibration`, `ordering` and `tuning` do, apart by kind: each
kind has a speed of its own on a machine. Does not know how fast this one is; see
`compression.speeds`.
"""

from collections.abc import Iterable
from typing import NamedTuple

from bitstack.calibration.fisher import GRADIENT_TOKENS
from bitstack.calibration.windows import READ_FACTOR, TUNING_TOKENS
from bitstack.decompose.form import ROWS as TRIAL_ROWS
from bitstack.decompose.nested import REFIT_EVERY, Plan
from bitstack.decompose.refit import PRODUCTS as REFIT_PRODUCTS
from bitstack.decompose.rows import rows_of_blocks
from bitstack.ordering.greedy import MEASURED_SHARES, PROBED_LEVELS, TRIED_SIZES
from bitstack.original.config_facts import text_config, width
from bitstack.original.decoder_layers import find_layers
from bitstack.original.matrix import Matrix
from bitstack.original.source import Source
from bitstack.recipe import Recipe

_TRIAL_TOKENS = 4096  # tokens on which whole orders are tried
# What the elementwise work beside a product costs, in operations of a product:
_PER_WEIGHT = 800  # of a weight, beside each product of a decomposition
_TRIAL_PRODUCTS = 5.0  # of a trial of a form, on some rows
# Elementwise work, in passes over as many numbers:
_PER_WIDTH = 24.0  # of a number of the hidden state, in one layer forward
_PER_SCORE = 3.0  # of a score of attention, in one layer forward
_PER_LOGIT = 5.0  # of a logit, forward
_TUNED_PER_WIDTH = 190.0  # of the same forward and back in a step of tuning
_TUNED_PER_LOGIT = 25.0  # of a logit there
_HEAD = 64  # usual width of a head, by which scores are counted


class Work(NamedTuple):
    """The work of one stage by kind; `compression.speeds.Speeds` has the same fields."""

    decomposing: float = 0.0  # operations of a decomposition
    running: float = 0.0  # operations of the model's products, in the dtype that is fastest here
    products: float = 0.0  # operations of products in fp32
    elementwise: float = 0.0  # numbers in passes over activations


def decompose_operations(matrix: Matrix, recipe: Recipe, *, text: bool) -> float:
    """Returns the operations of decomposing one matrix, in units of those of a large product.

    Args:
        recipe: of the run; the matrix's overrides are applied here.
        text: whether there is calibration text. Without it the second moment is diagonal, and the
            products with it cost next to nothing.
    """
    recipe = recipe.of(matrix.name)
    m, n = matrix.rows, matrix.columns
    if recipe.method == "signs":
        # A full SVD, or ten power iterations on 3 k + 8 directions.
        full = 20.0 * m * n * min(m, n)
        truncated = 4.0 * m * n * (3 * recipe.rank + 8) * 12
        return recipe.blocks * (full if recipe.svd == "full" else min(full, truncated))
    each = _PER_WEIGHT + (2.0 * n if text else 0.0)
    forms = (2 if recipe.rotation == "auto" else 1) * (2 if recipe.outliers == "auto" else 1)
    tried = _TRIAL_PRODUCTS * (forms if forms > 1 else 0) * min(m, TRIAL_ROWS)
    learned, rows = rows_of_blocks(m, n)
    work = stack_products(recipe, REFIT_PRODUCTS) * learned + stack_products(recipe, 1) * rows
    return (work + tried) * n * each


def stack_products(recipe: Recipe, refit: float) -> float:
    """Returns the number of products of m n² multiply-adds for all planes of one stack, if a refit
    takes `refit` of them. Follows `decompose.nested` step by step."""
    plan = Plan(
        recipe.blocks, recipe.ends, joint_planes=tuple(recipe.joint_planes),
        joint_levels=recipe.joint_levels,
    )  # fmt: skip
    searched = recipe.search_sweeps > 0
    chosen_again = searched and recipe.joint_passes > 0
    products = 1.0 + recipe.blocks  # of the matrix itself, and the errors of what is stored
    for chain in plan.chains():
        tops = [sum(chain.groups[: i + 1]) for i in range(len(chain.groups))]
        again = {level for _, levels in chain.joint_levels() for level in levels}
        stale = {*range(chain.first, tops[-1] + 1)}
        if searched:
            products += len(tops) * (1 + recipe.refit_rounds * (recipe.search_sweeps + refit))
            stale -= {*tops}
        if chosen_again:
            refits = -(-recipe.joint_passes // REFIT_EVERY)
            products += len(again & stale) + len(again) * (recipe.joint_passes + refits * refit)
            stale -= again
        products += len(stale) * (1 + recipe.refit_rounds * refit)
    return products


def calibration_work(
    source: Source, matrices: Iterable[Matrix], tokens: int, batch: int, length: int
) -> Work:
    """Returns the work of calibrating on `tokens` in windows of `length`, `batch` tokens at a time.

    Two forwards over all tokens, one of them and back over some, and the moments.
    """
    layers = find_layers(source.model)[1]
    whole = sum(p.numel() for p in source.model.parameters())
    inside = sum(p.numel() for p in layers.parameters())
    back = min(tokens, max(GRADIENT_TOKENS, batch))
    passes = 2 * tokens + 2.5 * back  # over the layers, as forwards
    outside = (whole - inside) * (2.0 * tokens + 6.0 * back)
    # Matrices that read the same input share its moment; about half of them do, and all parts.
    own = (m for m in matrices if m.kind != "expert" and not m.first_row)
    attention, numbers = _beside(source, length)
    return Work(
        running=2.0 * inside * passes + outside,
        products=tokens * sum(0.7 * m.columns**2 for m in own) + attention * passes,
        elementwise=numbers * passes + 2 * _PER_LOGIT * _words(source) * back,
    )


def _beside(source: Source, length: int) -> tuple[float, float]:
    """Returns what a token takes in a forward pass over all layers beside the products of weights:
    operations of attention in windows of `length`, and numbers of elementwise passes."""
    hidden = len(find_layers(source.model)[1]) * width(source.config)
    return 4.0 * length * hidden, (_PER_WIDTH + _PER_SCORE * length / _HEAD) * hidden


def _words(source: Source) -> int:
    words: int = text_config(source.config).vocab_size
    return words


def order_work(source: Source, matrices: list[Matrix], recipe: Recipe, length: int) -> Work:
    """Returns the work of measuring the order, with windows of `length`."""
    parameters = sum(p.numel() for p in source.model.parameters())
    passes, tried = 0, 0
    if recipe.order == "perplexity":
        passes = sum(recipe.of(m.name).blocks for m in matrices)
    elif recipe.order == "loss":
        passes = PROBED_LEVELS * len({m.role for m in matrices}) + 2
        tried = len(MEASURED_SHARES) * TRIED_SIZES + 1
    windows = passes * recipe.order_samples + tried * trial_windows(recipe, length)
    tokens = float(windows * length)
    attention, numbers = _beside(source, length)
    return Work(
        products=(2.0 * tokens + 20.0 * (passes + tried)) * parameters + attention * tokens,
        elementwise=(numbers + _PER_LOGIT * _words(source)) * tokens,
    )


def tuning_work(source: Source, recipe: Recipe) -> Work:
    """Returns the work of tuning.

    A step is a forward and a backward pass, and rebuilding matrices; before, every window that they
    take is run through the original once, in fp32.
    """
    steps = recipe.tune_steps + recipe.fine_steps if recipe.tunes else 0
    parameters = sum(p.numel() for p in source.model.parameters())
    tokens = float(steps * TUNING_TOKENS)
    targets = min(tokens, READ_FACTOR * recipe.num_samples * recipe.seq_len)
    hidden = len(find_layers(source.model)[1]) * width(source.config)
    step = _TUNED_PER_WIDTH * hidden + _TUNED_PER_LOGIT * _words(source)
    return Work(
        running=8.0 * tokens * parameters,
        products=2.0 * targets * parameters,
        elementwise=tokens * step + targets * _PER_WIDTH * hidden,
    )


def trial_windows(recipe: Recipe, length: int) -> int:
    """Returns the number of windows of `length` tokens on which whole orders are tried."""
    return min(recipe.order_samples, max(1, _TRIAL_TOKENS // length))
