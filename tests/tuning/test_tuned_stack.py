"""A stack that learns: steps as long as width and level allow, and scales that are stored as they
were learned."""

import pytest
import torch

from bitstack.container.blocks import StackSpec
from bitstack.tuning.tuned_stack import Planes, SharedInputs, TunedStack


def moved(columns: int, level: int) -> float:
    """How far a steady gradient moved the weights within their cells in five steps at `level`."""
    spec = StackSpec("codes", 2, columns, 3)
    kept = {t.name: torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in spec.all()}
    for j in (1, 2, 3):
        kept[f"scale_{j}"][-(2**j) :] = torch.linspace(-1, 1, 2**j)  # the table, of even steps
    stack = TunedStack(spec, kept.__getitem__, SharedInputs(), codes_learn=True)
    stack.level, stack.code_rate = level, 0.002
    for _ in range(5):
        stack._move_codes(-torch.ones(2, columns))
    assert not stack.codes[3].any()  # none has crossed
    return float(stack.positions[3].offset.float().mean())


def test_steps_of_the_codes_by_width_and_level() -> None:
    """Half as long for four times the columns, and for a level more."""
    here = moved(128, 2)
    assert here == pytest.approx(5 * 0.002, rel=0.01)
    assert moved(512, 2) == pytest.approx(here / 2, rel=0.01)
    assert moved(32, 2) == pytest.approx(here * 2, rel=0.01)
    assert moved(128, 3) == pytest.approx(here / 2, rel=0.01)


def random_stack(*, codes_learn: bool) -> tuple[TunedStack, dict[str, torch.Tensor]]:
    """A stack of two chains with random planes and scales, and what it was read from."""
    generator = torch.Generator().manual_seed(0)
    spec = StackSpec("codes", 6, 16, 4, ends=(2,))
    kept = {
        t.name: torch.randint(0, 256, t.shape, generator=generator, dtype=torch.uint8)
        if t.dtype == "uint8"
        else torch.randn(t.shape, generator=generator).half()
        for t in spec.all()
    }
    return TunedStack(spec, kept.__getitem__, SharedInputs(), codes_learn=codes_learn), kept


def test_what_did_not_learn_is_stored_as_it_was_read() -> None:
    stack, kept = random_stack(codes_learn=True)
    stored = stack.stored()
    assert stored.keys() == kept.keys()
    assert all(torch.equal(stored[name], kept[name]) for name in kept)


def test_the_matrix_of_every_level() -> None:
    """Whole, by rows and in products: the same, from the planes of the level's own chain."""
    stack, _ = random_stack(codes_learn=False)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    for level in (1, 2, 3, 4):
        stack.level = level
        top = 2 if level <= 2 else 4
        assert stack.chain_top == top
        u, v, table = stack.scales(level)
        code = stack.codes[top].int() & (2**level - 1)
        matrix = u.unsqueeze(1) * table[code] * v
        torch.testing.assert_close(stack.dequantize(), matrix)
        torch.testing.assert_close(stack.gather(torch.tensor([4, 0])), matrix[[4, 0]])
        # The lower levels may be multiplied in bf16.
        torch.testing.assert_close(stack.product(x), x @ matrix.T, rtol=0.05, atol=0.05)


def test_a_phase_keeps_what_the_one_before_learned() -> None:
    stack, _ = random_stack(codes_learn=True)
    with torch.no_grad():
        stack.scale_changes["2"].fill_(0.25)
    before = [part.detach().clone() for part in stack.scales(2)]
    stack.begin_phase([Planes(1, 2), Planes(4, 4)])
    assert not stack.scale_changes["2"].any()
    for part, old in zip(stack.scales(2), before, strict=True):
        torch.testing.assert_close(part, old, rtol=1e-3, atol=1e-4)  # rounded to fp16
    assert stack.learning_levels() == [2]
    assert stack.positions.keys() == {2}  # the codes of the highest chain never learn
    stack.begin_phase([Planes(2, 2), Planes(0, 4)])
    assert stack.learning_levels() == [3, 4]
    assert not stack.positions
