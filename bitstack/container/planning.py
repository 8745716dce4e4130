"""Tells what a container becomes at each budget: exact bytes, and the KV cache beside them.

Reads the manifest and the config. Does not read tensors; see `live.loading`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitstack.container.budget import EVERYTHING, FLOOR, Budget, Budgets
from bitstack.container.entries import CacheEntry
from bitstack.container.levels import budget_bytes
from bitstack.container.manifest import FIRST_WITH_CACHE, Manifest, read_manifest
from bitstack.container.small_files import CONFIG, check_sums
from bitstack.errors import UserError
from bitstack.kernels import selection
from bitstack.kernels.selection import Choice
from bitstack.machine.gpu_driver import has_gpu
from bitstack.original.hub_cache import locate

DEFAULT_CONTEXT = 4096  # tokens, or the model's positions where those are fewer
DEFAULT_STEPS = 6  # from the floor to everything


@dataclass(frozen=True)
class PlanRow:
    """One budget, and the model that fits it."""

    budget: str  # as it was given
    budget_bytes: int
    resident_bytes: int  # of the whole model, at most `budget_bytes`
    bits_per_weight: float  # of a decomposed weight, planes and scales
    lowest_level: int  # over all stacks
    mean_level: float  # over all decomposed weights
    highest_level: int
    original_share: float  # resident bytes over the original's
    context: int | None  # tokens; None where the size of the KV cache is not known
    kv_cache_bytes: int | None  # of one sequence of `context` tokens
    total_bytes: int  # model and cache
    kernel: str  # that would run on this machine
    kernel_reason: str  # why this one


def plan(
    path: str | Path,
    budgets: str | int | Budget | Sequence[str | int | Budget] = (),
    *,
    context: int | None = None,
) -> list[PlanRow]:
    """Tells the exact bytes of a container at each budget, without loading it.

    Args:
        path: Folder of a container, or `owner/name` on the Hub.
        budgets: One budget or several, as in `bitstack.load`; none for the smallest model, the
            whole one, and five between at equal steps of bytes.
        context: Tokens of the one sequence whose KV cache is counted; None for 4096, or the
            model's positions where those are fewer.

    Returns:
        One row per budget, in their order: bytes of the model, bits per weight, bytes of the KV
        cache in the model's dtype, and the kernel of the best device here.

    Raises:
        UserError: The container is missing or damaged, a budget is not understood or below the
            smallest model, or the model does not have that many positions.

    Example:
        >>> import bitstack
        >>> for row in bitstack.plan("my-container", ["20%", "25%"], context=100):
        ...     print(row.budget, row.resident_bytes <= row.budget_bytes, row.kv_cache_bytes > 0)
        20% True True
        25% True True
    """
    folder = locate(path).folder
    manifest = read_manifest(folder)
    check_sums(folder, manifest, [CONFIG])
    context, cache = _context_and_cache_bytes(*limits(folder, manifest), context)
    if isinstance(budgets, str | int | Budget):
        budgets = [budgets]
    sizes = [_text_and_bytes(manifest, one) for one in budgets] or _default(manifest.budgets)
    kernel = selection.for_gpu() if has_gpu() else selection.for_cpu()[0]
    return [_row(manifest, text, size, context, cache, kernel) for text, size in sizes]


def _row(
    manifest: Manifest, text: str, size: int, context: int | None, cache: int, kernel: Choice
) -> PlanRow:
    levels, resident = manifest.budgets.levels(size)
    weighted = sum(n * j for n, j in zip(manifest.budgets.weights, levels, strict=True))
    return PlanRow(
        budget=text,
        budget_bytes=size,
        resident_bytes=resident,
        bits_per_weight=manifest.budgets.bits_per_weight(levels),
        lowest_level=min(levels),
        mean_level=weighted / manifest.weights,
        highest_level=max(levels),
        original_share=resident / manifest.original_bytes,
        context=context,
        kv_cache_bytes=None if context is None else cache,
        total_bytes=resident + cache,
        kernel=kernel.name,
        kernel_reason=kernel.reason,
    )


def _text_and_bytes(manifest: Manifest, budget: str | int | Budget) -> tuple[str, int]:
    text = budget.text if isinstance(budget, Budget) else str(budget)
    return text, budget_bytes(manifest, budget)


def _default(budgets: Budgets) -> list[tuple[str, int]]:
    """Name and bytes of the budgets of a plan that names none."""
    low, high = budgets.floor_bytes, budgets.total_bytes
    if low == high:
        return [(EVERYTHING, high)]
    sizes = [low + (high - low) * i // DEFAULT_STEPS for i in range(DEFAULT_STEPS + 1)]
    names = [FLOOR, *(str(size) for size in sizes[1:-1]), EVERYTHING]
    return list(zip(names, sizes, strict=True))


def limits(folder: Path, manifest: Manifest) -> tuple[int | None, list[CacheEntry] | None]:
    """Returns the positions of the model and what its KV cache takes, None where not known."""
    if manifest.format >= FIRST_WITH_CACHE:
        return manifest.positions, manifest.kv_cache
    # Imported for older containers only: torch and the model's code take seconds.
    from bitstack.container.kv_cache import kv_cache
    from bitstack.container.skeleton_of import skeleton_of
    from bitstack.original.model_limits import positions

    model = skeleton_of(folder, manifest)
    return positions(model), kv_cache(model)


def _context_and_cache_bytes(
    limit: int | None, entries: list[CacheEntry] | None, context: int | None
) -> tuple[int | None, int]:
    """The context length and the bytes of its cache; (None, 0) for a model that keeps none."""
    if context is not None and not 1 <= context <= (limit or context):
        most = f" and at most {limit}, the positions of the model" if limit else ""
        raise UserError(f"context is {context} tokens; it must be at least 1{most}")
    length = context or min(DEFAULT_CONTEXT, limit or DEFAULT_CONTEXT)
    if entries is None and context is not None:
        raise UserError(
            "the size of this model's KV cache is not known (it has none, or one of an unknown "
            "kind); leave the context length out"
        )
    if entries is None:
        return None, 0
    return length, sum(entry.bytes(length) for entry in entries)
