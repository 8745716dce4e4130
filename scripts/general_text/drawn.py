"""Pieces drawn by chance from patterns: exercises with their solutions, records, letters.

Every draw takes nothing but `random.Random(seed).random()`, whose stream Python keeps the same in
all its versions. Does not hold the letters' sentences; see the file `written/letters.txt`.
"""

import json
import random
from collections.abc import Sequence
from typing import TypeVar

from general_text.written import read

T = TypeVar("T")
NAMES = (
    "Ada", "Amir", "Beatriz", "Chen", "Dana", "Emeka", "Fatima", "Georg", "Hana", "Ivan", "Jun",
    "Kofi", "Lena", "Mateo", "Nadia", "Olga", "Priya", "Quentin", "Rosa", "Samuel", "Tuan", "Yara",
)  # fmt: skip
TOWNS = (
    "Lisbon", "Oslo", "Nairobi", "Kyoto", "Lima", "Toronto", "Prague", "Hanoi", "Cairo", "Perth",
)  # fmt: skip
GOODS = (
    "notebooks", "candles", "postcards", "batteries", "mugs", "tiles", "pencils", "lamps", "chairs",
    "ropes", "bells", "maps",
)  # fmt: skip
FRUIT = ("apples", "lemons", "plums", "pears", "melons", "cherries")
MONTHS = ("January", "March", "April", "June", "August", "September", "October", "December")
EVENTS = (
    "INFO  server: connection from 10.0.{}.{} accepted", "INFO  jobs: job {} finished in {} ms",
    "DEBUG cache: miss for key user:{}:{}", "WARN  client: request {} sent again after {} ms",
    "ERROR store: block {} has checksum {}, which is wrong", "INFO  jobs: worker {} has pid {}",
)  # fmt: skip
ROUNDS = 20  # of every pattern


class Dice:
    """A stream of draws."""

    def __init__(self, seed: int) -> None:
        self._stream = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        """Returns a whole number from `low` to `high`, both included."""
        return low + int(self._stream.random() * (high - low + 1))

    def one(self, items: Sequence[T]) -> T:
        return items[self.number(0, len(items) - 1)]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Returns `count` different items."""
        rest = list(items)
        return [rest.pop(self.number(0, len(rest) - 1)) for _ in range(count)]


def letters() -> list[str]:
    """Returns letters, minutes and small stories, each pattern three times with other names."""
    dice, patterns = Dice(1), read("letters")
    return [_filled(pattern, dice) for _ in range(3) for pattern in patterns]


def exercises() -> list[str]:
    """Returns exercises of arithmetic with their solutions, and records in several formats."""
    dice = Dice(2)
    patterns = (_shopping, _log, _equation, _csv, _sums, _json, _journey, _markdown)
    return [pattern(dice) for _ in range(ROUNDS) for pattern in patterns]


def _filled(pattern: str, dice: Dice) -> str:
    a, b, c = dice.some(NAMES, 3)
    hour, n = dice.number(7, 12), dice.number(12, 40)
    return pattern.format(
        a=a, b=b, c=c, n=n, town=dice.one(TOWNS), good=dice.one(GOODS), fruit=dice.one(FRUIT),
        month=dice.one(MONTHS), date=_date(dice), time=f"{hour}:30", later=f"{hour + 6}:00",
        price=f"€{dice.number(9, 900)}.{dice.number(10, 99)}", number=dice.number(10_000, 99_999),
    )  # fmt: skip


def _date(dice: Dice) -> str:
    return f"{dice.number(1, 28)} {dice.one(MONTHS)}"


def _shopping(dice: Dice) -> str:
    (name, other), good, fruit = dice.some(NAMES, 2), dice.one(GOODS), dice.one(FRUIT)
    many, each, more, price = (dice.number(*span) for span in ((3, 12), (2, 9), (4, 20), (2, 4)))
    first, second = many * each, more * price
    return (
        f"{name} buys {many} {good} at {each} euros each and {more} {fruit} at {price} euros each. "
        f"{other} pays half of it. How much does {other} pay?\n\n"
        f"The {good} cost {many} × {each} = {first} euros, and the {fruit} {more} × {price} = "
        f"{second} euros. Together that is {first} + {second} = {first + second} euros. Half of it "
        f"is {first + second} / 2 = {(first + second) / 2:g} euros.\n"
        f"Answer: {(first + second) / 2:g}"
    )


def _journey(dice: Dice) -> str:
    start, end = dice.some(TOWNS, 2)
    speed, hours, rest = 10 * dice.number(5, 12), dice.number(2, 6), 15 * dice.number(1, 3)
    begin, minutes = dice.number(6, 11), hours * 60 + rest
    arrival = f"{begin + minutes // 60}:{minutes % 60:02d}"
    return (
        f"Q: A lorry on its way from {start} to {end} drives {speed * hours} km at {speed} km/h "
        f"and stops once for {rest} minutes. It leaves at {begin}:00. When does it arrive?\n"
        f"A: Driving takes {speed * hours} / {speed} = {hours} hours. With the stop the journey "
        f"takes {hours} hours and {rest} minutes, so it arrives at {arrival}."
    )


def _equation(dice: Dice) -> str:
    x, a, b = dice.number(-9, 12), dice.number(2, 9), dice.number(1, 30)
    return (
        f"Solve {a}x + {b} = {a * x + b} for x.\n\n"
        f"Subtract {b} from both sides: {a}x = {a * x}.\n"
        f"Divide both sides by {a}: x = {x}.\n"
        f"Check: {a} · ({x}) + {b} = {a * x + b}."
    )


def _sums(dice: Dice) -> str:
    pairs = [(dice.number(12, 999), dice.number(11, 99)) for _ in range(4)]
    return "\n".join(
        f"{a} + {b} = {a + b}\n{a} - {b} = {a - b}\n{a} * {b} = {a * b}" for a, b in pairs
    )


def _orders(dice: Dice) -> list[dict[str, str | int | float]]:
    return [
        {
            "order": dice.number(1000, 9999), "customer": name, "town": dice.one(TOWNS),
            "item": dice.one(GOODS), "count": dice.number(1, 40),
            "price": dice.number(90, 9000) / 100,
        }
        for name in dice.some(NAMES, 6)
    ]  # fmt: skip


def _csv(dice: Dice) -> str:
    rows = _orders(dice)
    return "\n".join(",".join(map(str, line)) for line in [rows[0], *(r.values() for r in rows)])


def _json(dice: Dice) -> str:
    return json.dumps(_orders(dice)[:3], indent=dice.one((None, 2)))


def _markdown(dice: Dice) -> str:
    rows = _orders(dice)
    head = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    body = [f"| {' | '.join(map(str, row.values()))} |" for row in rows]
    best = max(rows, key=lambda row: row["count"])
    return "\n".join([*head, *body, "", f"The largest order is that of {best['customer']}."])


def _log(dice: Dice) -> str:
    day, second = f"2021-{dice.number(1, 12):02d}-{dice.number(1, 28):02d}", dice.number(0, 80_000)
    lines = []
    for _ in range(8):
        second += dice.number(1, 90)
        clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
        event = dice.one(EVENTS).format(dice.number(1, 254), dice.number(1, 254))
        lines.append(f"{day} {clock} {event}")
    return "\n".join(lines)
