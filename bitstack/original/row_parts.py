"""Splits the matrices of a large vocabulary into parts of some rows, which are decomposed apart.

Tokenizers number their tokens about by how often text has them, so the first rows of an embedding
or LM head count many times as much as the last. Parts of their own get more blocks for the first,
and a block of one is a small step from budget to budget. Without text nobody knows how often rows
are used, and the order would be worse: then matrices stay whole (see `compression.inputs`). Does
not find matrices; see `original.matrices`.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from bitstack.original.matrix import Matrix

# Where parts end, in 16ths of the rows. The shares of tokens in text fall fastest at the beginning:
# with a thousand parts instead of six, bits per row could follow them only a little better.
_ENDS = (1, 2, 4, 8, 12, 16)
_FEWEST = 512  # rows of the first part: in a vocabulary of 4,096, tuning at 1.5 bits lost by parts


def in_parts(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Returns `matrices` with every large embedding and LM head in the parts it is split into."""
    return [part for matrix in matrices for part in _parts(matrix)]


def _parts(matrix: Matrix) -> list[Matrix]:
    step = matrix.rows // _ENDS[-1]
    if matrix.kind not in ("embedding", "head") or step < _FEWEST:
        return [matrix]
    ends = [0, *(end * step for end in _ENDS[:-1]), matrix.rows]
    return [
        replace(matrix, name=f"{matrix.name}.{index}", rows=end - first, first_row=first)
        for index, (first, end) in enumerate(pairwise(ends))
    ]
