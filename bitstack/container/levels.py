"""Which level every stack of a container has for a budget, and the bytes a budget stands for.

Reads a manifest, never a tensor. The arithmetic is in `budget`.
"""

from bitstack.container.budget import Budget, parse_budget
from bitstack.container.manifest import Manifest
from bitstack.errors import UserError


def choose_levels(
    manifest: Manifest, budget: str | int | Budget | None, level: int | None = None
) -> list[int]:
    """The level of every stack for a budget, or for one level everywhere."""
    budgets = manifest.budgets
    if level is not None:
        if budget is not None:
            raise UserError("give a budget or a level, not both")
        return budgets.uniform(level)[0]
    if budget is None:
        return budgets.levels(budgets.total_bytes)[0]
    return budgets.levels(budget_bytes(manifest, budget))[0]


def budget_bytes(manifest: Manifest, budget: str | int | Budget) -> int:
    """A budget in bytes of this container's resident model."""
    asked = budget if isinstance(budget, Budget) else parse_budget(budget)
    return asked.to_bytes(
        original_bytes=manifest.original_bytes,
        fixed_bytes=manifest.fixed_bytes,
        weights=manifest.weights,
    )
