"""Tensors as the library takes them: what was checked once is checked again when it changed.

What is refused is in `test_wrong_calls.py`.
"""

import pytest
import torch

from bitstack import kernels
from bitstack.kernels import arguments, selection

from .conftest import make_coded

ROWS, COLUMNS = 24, 40
built = pytest.mark.skipif(not selection.variants(), reason="the compiled kernels were not built")


def test_dtypes() -> None:
    assert [arguments.supports(d) for d in (torch.float32, torch.bfloat16, torch.float16)] == [
        True
    ] * 3
    assert not arguments.supports(torch.float64)


@built
def test_a_plane_that_lost_its_memory_is_seen_although_it_was_checked() -> None:
    matrix, x = make_coded(ROWS, COLUMNS, 3), torch.randn(1, COLUMNS)
    kernels.coded_linear(x, matrix.planes, matrix.scale, ROWS)
    matrix.planes[1].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="plane"):
        kernels.coded_linear(x, matrix.planes, matrix.scale, ROWS)


@built
def test_checked_matrices_are_forgotten_with_their_tensors() -> None:
    before = len(arguments._known)
    matrix = make_coded(ROWS, COLUMNS, 3)
    kernels.coded_linear(torch.randn(1, COLUMNS), matrix.planes, matrix.scale, ROWS)
    assert len(arguments._known) == before + 1
    del matrix
    assert len(arguments._known) == before
