"""A stack holds exactly the tensors of its level and multiplies as its matrix does."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from formats import matrix_of, random_tensors
from hypothesis import given
from hypothesis import strategies as st

from bitstack.container.blocks import StackSpec
from bitstack.nn import Stack

SHAPED = st.builds(
    StackSpec, st.just("codes"), st.integers(1, 20), st.integers(1, 20), st.integers(1, 8),
    rotation=st.integers(0, 2),
)  # fmt: skip
WITH_OUTLIERS = st.builds(
    lambda spec, share: replace(spec, outliers=1 + int(share * (spec.rows * spec.columns - 1))),
    SHAPED,
    st.floats(0, 1),
)
SPECS = st.one_of(
    SHAPED,
    WITH_OUTLIERS,
    st.builds(
        StackSpec,
        st.just("signs"),
        st.integers(1, 20),
        st.integers(1, 20),
        st.integers(1, 4),
        st.integers(1, 3),
    ),
)


@given(SPECS, st.data())
def test_any_walk_through_the_levels(spec: StackSpec, data: st.DataObject) -> None:
    tensors = random_tensors(spec)
    stack, held = Stack(spec), set()
    walk = data.draw(st.lists(st.integers(1, spec.levels), min_size=1, max_size=4))
    for level in walk:
        read: list[str] = []
        stack.set_level(level, lambda name, r=read: (r.append(name), tensors[name])[1])
        needed = {t.name for t in spec.resident(level)}
        assert set(read) == needed - held  # only what was lacking
        held = needed
        assert {name for name, _ in stack.named_buffers()} == needed
        assert sum(b.nbytes for b in stack.buffers()) == spec.bytes()[level - 1]
        torch.testing.assert_close(
            stack.dequantize(), matrix_of(spec, tensors, level), rtol=1e-5, atol=1e-5
        )


@given(SPECS, st.booleans())
def test_products_and_rows(spec: StackSpec, with_bias: bool) -> None:
    tensors = random_tensors(spec)
    stack = Stack(spec)
    stack.set_level(spec.levels, tensors.__getitem__)
    matrix = matrix_of(spec, tensors, spec.levels)
    bias = torch.randn(spec.rows) if with_bias else None
    x = torch.randn(2, 3, spec.columns)
    reference = F.linear(x, matrix, bias)
    close = 0.02 * float(reference.abs().max()) + 1e-4  # a kernel may round its activations
    torch.testing.assert_close(stack.product(x, bias), reference, rtol=0.01, atol=close)
    ids = torch.randint(spec.rows, (2, 5))
    torch.testing.assert_close(stack.gather(ids), matrix[ids], rtol=1e-5, atol=1e-5)
    assert stack.gather(ids[:0]).shape == (0, 5, spec.columns)


def test_a_failing_read_changes_nothing() -> None:
    spec = StackSpec("codes", 3, 9, 4)
    tensors = random_tensors(spec)
    stack = Stack(spec)
    stack.set_level(2, tensors.__getitem__)
    before = stack.dequantize()
    del tensors["plane_4"]
    with pytest.raises(KeyError):
        stack.set_level(4, tensors.__getitem__)
    assert stack.level == 2
    assert torch.equal(stack.dequantize(), before)
    assert {name for name, _ in stack.named_buffers()} == {"plane_1", "plane_2", "scale_2"}


def test_casts_leave_the_stored_dtypes() -> None:
    """Nor would `float()` make a model larger than its budget, or `bfloat16()` round its scales."""
    spec = StackSpec("codes", 4, 9, 2)
    tensors = random_tensors(spec)
    stack = Stack(spec)
    stack.set_level(2, tensors.__getitem__)
    before = stack.dequantize()
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        stack.to(dtype)
        assert stack.dtype == dtype
        assert {b.dtype for b in stack.buffers()} == {torch.uint8, torch.float16}
        assert torch.equal(stack.dequantize(), before)


def test_an_empty_stack_is_not_used() -> None:
    with pytest.raises(AssertionError, match="without blocks"):
        Stack(StackSpec("codes", 2, 2, 1)).product(torch.ones(1, 2))


def test_repr_tells_the_level() -> None:
    assert "4x9, codes, level 0 of 2" in repr(Stack(StackSpec("codes", 4, 9, 2)))
