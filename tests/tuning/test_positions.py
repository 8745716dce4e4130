"""Codes follow their gradients, and planes that are kept stay."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.tuning.positions import Positions

TABLE = torch.tensor([0.5, -1.0, 1.0, -0.5])  # as nested codes leave it: not in order


def codes(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (6, 10), generator=generator, dtype=torch.uint8)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), sign=st.sampled_from([-1.0, 1.0]))
def test_codes_end_where_a_steady_gradient_drives_them(seed: int, sign: float) -> None:
    code = codes(seed)
    positions = Positions(code)
    values = [TABLE[code.int()]]
    for _ in range(60):
        code = positions.move(code, sign * torch.ones(code.shape), TABLE, rate=0.1)
        values.append(TABLE[code.int()])
    steps = torch.stack(values).diff(dim=0) * -sign
    assert (steps >= 0).all()
    assert (values[-1] == -sign).all()


def test_small_steps_add_up_to_a_new_code() -> None:
    code = torch.full((2, 3), 3, dtype=torch.uint8)  # -0.5; the next cell begins at 0
    positions, gradient = Positions(code), -torch.ones(2, 3)
    moved = [code := positions.move(code, gradient, TABLE, rate=1e-3) for _ in range(600)]
    first = next(i for i, c in enumerate(moved) if (c == 0).all())
    assert 450 <= first <= 550  # 0.5 in steps of 0.001


def test_without_a_gradient_nothing_moves() -> None:
    code = codes(0)
    assert torch.equal(Positions(code).move(code, torch.zeros(code.shape), TABLE, 0.1), code)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), kept=st.integers(1, 3))
def test_planes_that_are_kept_stay(seed: int, kept: int) -> None:
    """However steep the gradient, a code goes as far as its kept planes allow and no farther."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(8, generator=generator)
    code = torch.randint(0, 8, (6, 10), generator=generator, dtype=torch.uint8)
    gradient = torch.randn(code.shape, generator=generator).sign()
    moved, positions = code, Positions(code)
    for _ in range(60):
        moved = positions.move(moved, gradient, table, rate=0.2, kept=kept)
    mask = 2**kept - 1
    assert torch.equal(moved & mask, code & mask)
    for family in range(2**kept):
        mine, values = code & mask == family, table[family :: 2**kept]
        ends = torch.where(gradient[mine] > 0, values.min(), values.max())
        assert torch.equal(table[moved.int()][mine], ends)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), moved=st.integers(1, 3))
def test_finer_planes_change_only_with_those_that_move(seed: int, moved: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table, mask = torch.randn(8, generator=generator), 2**moved - 1
    code = torch.randint(0, 8, (6, 10), generator=generator, dtype=torch.uint8)
    positions, free, changed = Positions(code), Positions(code), torch.tensor(False)
    for _ in range(20):
        gradient = torch.randn(code.shape, generator=generator)
        wanted = free.move(code, gradient, table, rate=0.1)
        after = positions.move(code, gradient, table, rate=0.1, moved=moved)
        same = (wanted ^ code) & mask == 0
        assert torch.equal(after, torch.where(same, code, wanted))
        changed, code = changed | (~same).any(), after
        free.offset.copy_(positions.offset)
    assert changed
