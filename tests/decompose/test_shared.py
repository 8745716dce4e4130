"""What was settled first is what later blocks get, step by step."""

from bitstack.decompose.shared import Shared


def test_later_blocks_take_what_was_learned() -> None:
    first = Shared()
    assert [first.settle(lambda k=k: k) for k in (3, 5)] == [3, 5]
    assert first.learns
    for _ in range(2):
        later = Shared(first.learned)
        assert not later.learns
        assert [later.settle(lambda: 1 / 0) for _ in range(2)] == [3, 5]
