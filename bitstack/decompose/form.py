"""Decides in which form a matrix is coded: with inputs rotated or not, with outliers or without.

Rotation spreads large weights, which a table of few values cannot reach; it also spreads what the
second moment says of single columns, which scales and search live on. Outliers take the largest
weights away and leave the columns as they are, for some bytes. Which counts more is seen from quick
decompositions of some rows, at equal bytes. Without text the inputs are unknown, and inputs are
rotated wherever that is allowed: only then does an error cost the same whatever the inputs are.
Does not rotate (see `kernels.rotation`) or find outliers (see `decompose.outliers`).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bitstack.decompose.nested import Plan, build_level
from bitstack.decompose.outliers import OUTLIER_BITS, find_outliers, split_off
from bitstack.decompose.problem import make_space, mean_one
from bitstack.recipe import Recipe

ROTATION = 1  # the seed of all rotations; matrices that share an input share its rotation
ROWS = 256  # of a trial
_LEVEL = 3  # of the trial
_MIN_GAIN = 0.02  # of the squared error, by which a form must be better than a simpler one


@dataclass(frozen=True)
class Form:
    """The seed of the rotation, 0 for none, and the positions of the outliers, int64 [k]."""

    rotation: int = 0
    outliers: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def choose_form(
    weight: Tensor, recipe: Recipe, plan: Plan, moment: Tensor | None, row_weights: Tensor | None
) -> Form:
    """Returns the form with the least error at equal bytes, among those the recipe allows.

    Args:
        weight: W [m, n].
        recipe: Its fields `rotation` and `outliers` say what may be tried.
        plan: The plan of the full decomposition. The trials make one pass, for one level.
        moment: E[x xᵀ] [n, n], or None.
        row_weights: E[g²] [m], or None.
    """
    rotations = {"never": [0], "always": [ROTATION], "auto": [0, ROTATION]}[recipe.rotation]
    if moment is None:  # large columns get large errors, and where they are, inputs are large too
        rotations = rotations[-1:]
    forms = [Form(rotation) for rotation in rotations]
    if recipe.outliers == "auto":
        squares = None if moment is None else moment.diagonal()
        found = find_outliers(weight, squares, mean_one(row_weights, weight))
        if len(found):  # then the plain form is never the best
            forms = [form for form in forms if form.rotation]
            forms += [Form(rotation, found) for rotation in rotations]
    if len(forms) == 1:
        return forms[0]
    costs = [_trial(weight, form, plan, moment, row_weights) for form in forms]
    best = costs.index(min(costs))
    return next(f for f, cost in zip(forms, costs, strict=True) if cost < costs[best] + _MIN_GAIN)


def _trial(
    weight: Tensor, form: Form, plan: Plan, moment: Tensor | None, row_weights: Tensor | None
) -> float:
    """The logarithm of the error of a form at one level, with what its bytes cost.

    A bit for every weight divides the squared error by four.
    """
    rows = _trial_rows(weight)
    some, positions = weight[rows], _of_rows(form.outliers, rows.cpu(), weight.shape[1])
    whole = some.float().square().sum()
    if len(positions):
        some = split_off(some, positions)[1]
    weights = None if row_weights is None else row_weights[rows.to(row_weights.device)]
    space = make_space(weight.shape[1], moment, form.rotation, weight.device)
    problem = space.problem(some, mean_one(weights, some))
    level = build_level(problem, plan, min(_LEVEL, plan.blocks))
    # The units of both are the same for every form.
    error = float(level.row_errors(problem) @ problem.row_weights)
    bits = OUTLIER_BITS * len(form.outliers) / weight.numel()
    return math.log(error / max(float(whole), 1e-30) + 1e-30) + math.log(4) * bits


def _trial_rows(weight: Tensor) -> Tensor:
    """Rows at equal distances, and as many with the largest weights: large ones lie in few rows."""
    m = len(weight)
    if m <= ROWS:
        return torch.arange(m, device=weight.device)
    even = torch.arange(ROWS // 2, device=weight.device) * m // (ROWS // 2)
    largest = weight.abs().amax(1).topk(ROWS // 2).indices
    return torch.cat([even, largest]).unique()


def _of_rows(positions: Tensor, rows: Tensor, columns: int) -> Tensor:
    """The outliers of some rows, which rise, as positions in the matrix of these rows alone."""
    place = torch.searchsorted(rows, positions // columns).clamp_max(len(rows) - 1)
    inside = rows[place] == positions // columns
    return (place * columns + positions % columns)[inside]
