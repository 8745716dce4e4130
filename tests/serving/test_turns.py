"""Turns are handed on in order, first tokens before others, and nobody waits for ever."""

import threading
from collections.abc import Callable

from bitstack.serving.turns import Turns
from served import until


def waiting(turns: Turns) -> int:
    return len(turns._first) + len(turns._next)


def order_of(firsts: list[bool]) -> list[int]:
    """The order in which threads that came in turn get their turns."""
    turns, order = Turns(), list[int]()
    turns.take(first=True)

    def take(index: int, first: bool) -> Callable[[], None]:
        def run() -> None:
            turns.take(first=first)
            order.append(index)
            turns.give()

        return run

    threads = [threading.Thread(target=take(i, first)) for i, first in enumerate(firsts)]
    for i, thread in enumerate(threads):
        thread.start()
        until(lambda i=i: waiting(turns) == i + 1)  # type: ignore[misc]
    turns.give()
    for thread in threads:
        thread.join()
    return order


def test_in_order() -> None:
    assert order_of([False] * 5) == [0, 1, 2, 3, 4]
    assert order_of([True] * 5) == [0, 1, 2, 3, 4]


def test_first_tokens_go_first_but_not_for_ever() -> None:
    assert order_of([False, True]) == [1, 0]
    assert order_of([False, False, True, True, True]) == [2, 0, 3, 1, 4]


def test_one_alone_keeps_its_turn() -> None:
    turns = Turns()
    turns.take(first=True)
    turns.pass_on()
    turns.give()
    turns.take(first=False)
    turns.give()


def test_one_at_a_time_and_everyone_in_turn() -> None:
    turns, inside, got = Turns(), list[int](), list[int]()
    turns.take(first=True)

    def run(index: int) -> None:
        turns.take(first=True)
        for _ in range(200):
            inside.append(index)
            assert inside == [index]
            inside.clear()
            got.append(index)
            turns.pass_on()
        turns.give()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: waiting(turns) == 4)
    turns.give()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(list(range(4)) * 200)
    middle = got[300:500]  # all four run: each gets one turn in four
    assert all(set(middle[i : i + 4]) == {0, 1, 2, 3} for i in range(0, 200, 4))
    assert not turns._taken
