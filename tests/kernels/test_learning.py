"""Gradients of scales and cells, and steps of positions: compiled as in torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.kernels import learning, native

compiled_only = pytest.mark.skipif(
    native.compiled() is None, reason="the native library was not built"
)


def numbers(seed: int, *shapes: int | tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def codes(seed: int, rows: int, columns: int, planes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**planes, (rows, columns), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 140), columns=st.integers(1, 70), planes=st.integers(0, 8),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_gradients_are_those_of_the_definition(
    compiled: bool, rows: int, columns: int, planes: int, seed: int
) -> None:
    if compiled and native.compiled() is None:
        pytest.skip("the native library was not built")
    code = codes(seed, rows, columns, 8)
    table, u, v, gradient = numbers(seed, 2**planes, rows, columns, (rows, columns))
    leaves = [t.double().requires_grad_() for t in (u, v, table)]
    cells = leaves[2][code.long() & (2**planes - 1)]
    cells.retain_grad()
    (leaves[0].unsqueeze(1) * cells * leaves[1] * gradient).sum().backward()
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(native, "compiled", lambda: None)
        found = learning.spread(code, table, u, v, gradient.clone())
    for own, leaf in zip(found, (*leaves, cells), strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(own, leaf.grad.float(), rtol=1e-3, atol=1e-3)


@compiled_only
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70), columns=st.integers(1, 70), planes=st.integers(1, 8),
    kept=st.integers(0, 8), moved=st.integers(0, 8), seed=st.integers(0, 99),
)  # fmt: skip
def test_steps_as_in_torch(
    rows: int, columns: int, planes: int, kept: int, moved: int, seed: int
) -> None:
    """A position within a rounding error of a border may fall on either side of it."""
    kept = min(kept, planes)
    code = codes(seed, rows, columns, planes)
    table, gradient, row, column = numbers(seed, 2**planes, (rows, columns), rows, columns)
    offset = 0.01 * numbers(seed + 1, (rows, columns))[0].half()
    arguments = (table, gradient, 0.3 * row.abs(), column.abs())
    mine, theirs = offset.clone(), offset.clone()
    moves = learning.move(code, *arguments, mine, kept, moved)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "compiled", lambda: None)
        expected = learning.move(code, *arguments, theirs, kept, moved)
    same = moves == expected
    assert same.float().mean() > 0.99 or int((~same).sum()) <= 1
    torch.testing.assert_close(mine[same], theirs[same], rtol=1e-2, atol=1e-3)
    mask = 2**kept - 1
    assert torch.equal(moves & mask, code & mask)


@compiled_only
def test_tables_of_other_lengths_are_refused() -> None:
    code, u = torch.zeros(2, 2, dtype=torch.uint8), torch.ones(2)
    with pytest.raises(ValueError, match="pass \\[2\\^planes\\]"):
        learning.spread(code, torch.ones(3), u, u, torch.ones(2, 2))
    with pytest.raises(ValueError, match="gradient"):
        learning.spread(code, torch.ones(4), u, u, torch.ones(2, 3))
    with pytest.raises(ValueError, match="offset"):
        learning.move(code, torch.ones(4), torch.ones(2, 2), u, u, torch.zeros(2, 3).half(), 0, 2)
