"""Budgets in every form, and the longest prefix of any order that fits them, to the byte."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstack.container.budget import Budgets, as_word, check_budget, parse_budget
from bitstack.errors import UserError

MODEL = {"original_bytes": 1001, "fixed_bytes": 100, "weights": 84}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("800MB", 800_000_000),
        ("1.5GiB", 3 * 2**29),
        ("0.1GB", 100_000_000),
        (".5 kB", 500),
        ("3 KiB", 3072),
        ("7B", 7),
        ("2tib", 2**41),
        ("1TB", 10**12),
        (" 123456789012345678 ", 123456789012345678),
        (4096, 4096),
        ("1.0005kB", 1000),
        ("50%", 500),
        ("100 %", 1001),
        ("2.5bpw", 100 + 26),
        ("1 BPW", 100 + 10),
    ],
)
def test_budgets_in_bytes(text: str | int, size: int) -> None:
    assert parse_budget(text).to_bytes(**MODEL) == size


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("3", "did you mean 3bpw (3 bits a weight) or 3GiB?"),
        ("1.5", "did you mean 1.5bpw (1.5 bits a weight) or 1.5GiB?"),
        ("everthing", "did you mean everything?"),
        ("Flor", "did you mean floor?"),
    ],
)
def test_what_was_probably_meant(text: str, question: str) -> None:
    with pytest.raises(UserError) as caught:
        check_budget(text)
    assert question in str(caught.value)


def test_words_are_budgets() -> None:
    for text in ("floor", " Everything ", "2bpw"):
        check_budget(text)
    assert (as_word(" Floor"), as_word("2bpw"), as_word(4096)) == ("floor", None, None)


def test_budgets_are_exact() -> None:
    assert parse_budget("0.3GiB").amount == Fraction(3 * 2**30, 10)
    assert parse_budget("33.3%").amount == Fraction(333, 1000)


@pytest.mark.parametrize(
    "text",
    ["800Mb/s", "1.5Gi", "12 parsecs", "", "-1MB", "1.5", "1e9", "MB", "nan", "٣MB", "1.5.2GB"],
)
def test_unknown_budgets(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_budget(text)
    message = str(caught.value)
    assert message.startswith(f"budget {text!r}")
    assert "MiB" in message
    assert "bpw" in message
    assert "for example 800MB" in message
    assert "\n" not in message


@st.composite
def stacked_models(draw: st.DrawFn) -> Budgets:
    steps = draw(
        st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=5), min_size=1, max_size=6)
    )
    sizes = [[sum(row[: i + 1]) for i in range(len(row))] for row in steps]
    whole = [stack for stack, row in enumerate(steps) for _ in row[1:]]
    order = draw(st.permutations(whole))
    return Budgets(
        stack_bytes=sizes,
        fixed_bytes=draw(st.integers(0, 100)),
        order=order[: draw(st.integers(0, len(order)))],
        weights=[draw(st.integers(1, 40)) for _ in sizes],
    )


def prefixes(model: Budgets) -> list[tuple[list[int], int]]:
    """Levels and bytes after every step of the order, counted from nothing."""
    levels = [1] * len(model.stack_bytes)
    points = []
    for step in [None, *model.order]:
        if step is not None:
            levels[step] += 1
        size = sum(sizes[level - 1] for sizes, level in zip(model.stack_bytes, levels, strict=True))
        points.append((list(levels), model.fixed_bytes + size))
    return points


@given(model=stacked_models(), extra=st.integers(0, 400))
def test_the_longest_prefix_that_fits(model: Budgets, extra: int) -> None:
    budget = model.floor_bytes + extra
    expected = [prefix for prefix in prefixes(model) if prefix[1] <= budget][-1]
    assert model.levels(budget) == expected
    assert expected[1] == model.resident_bytes(expected[0]) <= budget


@given(model=stacked_models())
def test_exact_at_every_boundary(model: Budgets) -> None:
    points = prefixes(model)
    for levels, size in points:
        assert model.levels(size) == (levels, size)
    for (levels, size), (_, above) in pairwise(points):
        assert model.levels(above - 1) == (levels, size)
    assert model.floor_bytes == points[0][1]
    assert model.total_bytes == points[-1][1]
    assert model.levels(10**15) == points[-1]


@given(model=stacked_models(), one=st.integers(0, 400), other=st.integers(0, 400))
def test_more_bytes_never_lower_a_level(model: Budgets, one: int, other: int) -> None:
    small, large = sorted((one, other))
    few, _ = model.levels(model.floor_bytes + small)
    many, _ = model.levels(model.floor_bytes + large)
    assert all(a <= b for a, b in zip(few, many, strict=True))
    assert model.bits_per_weight(few) <= model.bits_per_weight(many)


def small_model() -> Budgets:
    return Budgets(
        stack_bytes=[[10, 18, 26], [5, 9]], fixed_bytes=1000, order=[1, 0, 0], weights=[64, 32]
    )


def test_a_model_by_hand() -> None:
    model = small_model()
    assert (model.floor_bytes, model.total_bytes) == (1015, 1035)
    assert model.levels(1026) == ([1, 2], 1019)
    assert model.levels(1027) == ([2, 2], 1027)
    assert model.bits_per_weight([2, 1]) == 8 * 23 / 96
    assert model.uniform(1) == ([1, 1], 1015)
    assert model.uniform(3) == ([3, 2], 1035)
    for level in (0, 4):
        with pytest.raises(UserError, match=f"level is {level}; it must be from 1 to 3"):
            model.uniform(level)


def test_the_floor_is_named_and_can_be_asked_for() -> None:
    model = small_model()
    with pytest.raises(UserError) as caught:
        model.levels(1014)
    message = str(caught.value)
    assert "budget of 1014 bytes" in message
    for text in ("1015 bytes", "0.01MiB", "1.25bpw"):
        assert text in message
        budget = parse_budget(text.removesuffix(" bytes"))
        size = budget.to_bytes(original_bytes=9, fixed_bytes=model.fixed_bytes, weights=96)
        assert model.levels(size)[0][0] >= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": [1, 1]},
        {"stack_bytes": [[10, 10, 26], [5, 9]]},
        {"stack_bytes": [[0, 18, 26], [5, 9]]},
        {"weights": [64]},
    ],
)
def test_impossible_models_are_our_own_bugs(wrong: dict[str, list[int]]) -> None:
    model = small_model()
    fields = {
        name: getattr(model, name) for name in ("stack_bytes", "fixed_bytes", "order", "weights")
    }
    with pytest.raises(AssertionError):
        Budgets(**fields | wrong)
