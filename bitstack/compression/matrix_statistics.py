"""Picks the statistics that one matrix is decomposed under: E[x xᵀ] of its inputs, E[g²] of its
outputs.

An expert that no token of the calibration reached has none of its own and takes those of its
siblings, the other experts of the same tensor. Does not measure anything; see
`calibration.observers` and `calibration.fisher`.
"""

import torch
from torch import Tensor

from bitstack.calibration.fisher import FisherInformation
from bitstack.calibration.observers import Moments
from bitstack.original.matrix import Matrix


def second_moment(matrix: Matrix, moments: dict[str, Moments]) -> Tensor | None:
    """Returns E[x xᵀ] [n, n] of a matrix's inputs; None without calibration.

    Removes it from `moments`, except for experts, whose siblings may still need it.
    """
    if matrix.kind != "expert":
        own = moments.pop(matrix.name, None)
        return None if own is None else own.mean()
    if matrix.name in moments:
        return moments[matrix.name].mean()
    siblings = [m for name, m in moments.items() if _is_sibling(name, matrix)]
    if not siblings:
        return None
    tokens = sum(m.tokens for m in siblings)
    return torch.stack([m.mean() * m.tokens for m in siblings]).sum(0) / tokens


def row_weights(
    matrix: Matrix, fisher: FisherInformation | None, moments: dict[str, Moments]
) -> Tensor | None:
    """Returns E[g²] [m] of a matrix's outputs; None without calibration.

    An expert that no token reached counts as if one token had, with the gradients of a token that
    reached a sibling: with ones instead it would take the first bytes of every budget.
    """
    if not fisher:
        return None
    siblings = [rows for name, rows in fisher.rows.items() if _is_sibling(name, matrix)]
    if matrix.kind == "expert" and matrix.name not in fisher.rows and siblings:
        uses = sum(m.tokens for name, m in moments.items() if _is_sibling(name, matrix))
        return torch.stack(siblings).sum(0) / max(uses, 1)
    return fisher.rows.get(matrix.name)


def _is_sibling(name: str, matrix: Matrix) -> bool:
    return name.startswith(f"{matrix.parameter}.")
