"""Chooses the level of every stack of a container for a budget.

Reads a manifest, never a tensor. Does not do the arithmetic; see `container.budget`.
"""

from bitstack.container.budget import EVERYTHING, FLOOR, Budget, as_word, parse_budget
from bitstack.container.manifest import Manifest
from bitstack.errors import UserError


def choose_levels(
    manifest: Manifest, budget: str | int | Budget | None, level: int | None = None
) -> list[int]:
    """Returns the level of every stack for a budget, or for one level everywhere.

    Args:
        budget: None, where there is no `level`, for everything in the container.
        level: The level of all stacks; one with fewer levels gets its highest.

    Raises:
        UserError: Both are given, the budget is not understood or below the floor, or no stack
            has that level.
    """
    budgets = manifest.budgets
    if level is not None:
        if budget is not None:
            raise UserError("give a budget or a level, not both")
        return budgets.uniform(level)[0]
    if budget is None:
        return budgets.levels(budgets.total_bytes)[0]
    return budgets.levels(budget_bytes(manifest, budget))[0]


def budget_bytes(manifest: Manifest, budget: str | int | Budget) -> int:
    """Returns a budget in bytes of this container's resident model.

    Args:
        budget: As `parse_budget` takes it, or "floor" or "everything".

    Raises:
        UserError: The budget is not understood.
    """
    if word := as_word(budget):
        sizes = {FLOOR: manifest.budgets.floor_bytes, EVERYTHING: manifest.budgets.total_bytes}
        return sizes[word]
    parsed = budget if isinstance(budget, Budget) else parse_budget(budget)
    return parsed.to_bytes(
        original_bytes=manifest.original_bytes,
        fixed_bytes=manifest.fixed_bytes,
        weights=manifest.weights,
    )
