"""Turns bytes into levels, exactly: which prefix of the order fits a memory budget.

Pure arithmetic over the sizes of a stacked model. Does not read the sizes and the order (see
`container.manifest`), make the order (see `ordering`) or load anything (see `live.loading`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.machine.sizes import UNITS, format_bytes, parse_bytes

FLOOR, EVERYTHING = "floor", "everything"  # budgets that are words: the smallest, the whole model
WORDS = (FLOOR, EVERYTHING)
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)
_LIKELY_BITS = re.compile(r"([1-9]|1[0-6])(\.\d+)?", re.ASCII)  # nobody means so few bytes
_RELATIVE = re.compile(r"(\d+\.?\d*|\.\d+)\s*(%|[Bb][Pp][Ww])", re.ASCII)


@dataclass(frozen=True)
class Budget:
    """A memory budget as the user wrote it; how many bytes it is depends on the model."""

    amount: Fraction
    kind: Literal["bytes", "share", "bpw"]  # share: 1 is all of the original model
    text: str  # as written, for messages

    def to_bytes(self, *, original_bytes: int, fixed_bytes: int, weights: int) -> int:
        """Returns whole bytes of the resident model, rounded down.

        Args:
            original_bytes: Size of the original model.
            fixed_bytes: What stays dense; it is added to a budget in bits per weight.
            weights: Number of decomposed weights.
        """
        if self.kind == "share":
            return int(self.amount * original_bytes)
        if self.kind == "bpw":
            return fixed_bytes + int(self.amount * weights / 8)
        return int(self.amount)


def parse_budget(text: str | int) -> Budget:
    """Parses `800MB`, `1.5GiB`, `50%` (of the original's bytes), `2.5bpw`, or a number of bytes.

    bpw is mean bits per decomposed weight. A bare number up to 16 is refused: it is meant as bits.
    Units may be of any case, and white space may stand
    around.

    Raises:
        UserError: The text is anything else.
    """
    text = str(text).strip()
    if match := _RELATIVE.fullmatch(text):
        number, unit = match.groups()
        if unit == "%":
            return Budget(Fraction(number) / 100, "share", text)
        return Budget(Fraction(number), "bpw", text)
    if not _LIKELY_BITS.fullmatch(text) and (size := parse_bytes(text)) is not None:
        return Budget(size, "bytes", text)
    raise UserError(
        f"budget {text!r} is not understood; {_meant(text)}allowed: a number with "
        f"{', '.join(UNITS)}, a whole number of bytes, N% of the original's bytes, Nbpw for mean "
        f"bits per compressed weight, {FLOOR} (the smallest model) or {EVERYTHING}; for example "
        "800MB, 1.5GiB, 50%, 2.5bpw"
    )


def _meant(text: str) -> str:
    """A question about what was probably meant."""
    if _NUMBER.fullmatch(text):
        return f"did you mean {text}bpw ({text} bits a weight) or {text}GiB? "
    if near := get_close_matches(text.lower(), WORDS, n=1):
        return f"did you mean {near[0]}? "
    return ""


def as_word(budget: str | int | Budget) -> str | None:
    """Returns the one of `WORDS` that a budget is; None where it is none."""
    word = budget.strip().lower() if isinstance(budget, str) else None
    return word if word in WORDS else None


def check_budget(text: str) -> None:
    """Checks that a budget is one of `WORDS` or what `parse_budget` takes.

    Raises:
        UserError: It is not.
    """
    if as_word(text) is None:
        parse_budget(text)


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """The sizes of a stacked model at every point of its order.

    At the floor every stack is at level 1; each entry of `order` then raises one stack by one
    level. Bits per weight count the stacks alone, planes and scales; bytes count everything.
    """

    stack_bytes: Sequence[Sequence[int]]  # resident bytes of every stack at level 1, 2, … B
    fixed_bytes: int  # everything that stays dense
    order: Sequence[int]  # indices of stacks
    weights: Sequence[int]  # decomposed weights of every stack
    _totals: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert len(self.stack_bytes) == len(self.weights) > 0, "one number of weights a stack"
        assert all(
            below < above
            for sizes in self.stack_bytes
            for below, above in zip((0, *sizes), sizes, strict=False)
        ), "a level costs bytes"
        totals = np.cumsum([self.resident_bytes([1] * len(self.weights)), *self._steps()])
        object.__setattr__(self, "_totals", totals.astype(np.int64))

    def _steps(self) -> list[int]:
        """Bytes that every entry of the order adds."""
        levels = [1] * len(self.stack_bytes)
        steps = []
        for stack in self.order:
            sizes, level = self.stack_bytes[stack], levels[stack]
            assert level < len(sizes), f"the order raises stack {stack} above its top"
            steps.append(sizes[level] - sizes[level - 1])
            levels[stack] += 1
        return steps

    @property
    def floor_bytes(self) -> int:
        """Resident bytes of the smallest model: every stack at level 1."""
        return int(self._totals[0])

    @property
    def total_bytes(self) -> int:
        """Resident bytes at the end of the order."""
        return int(self._totals[-1])

    @property
    def prefix_bytes(self) -> list[int]:
        """Resident bytes at the floor and after every entry of the order."""
        return [int(total) for total in self._totals]

    def levels(self, budget_bytes: int) -> tuple[list[int], int]:
        """Returns the level of every stack, and the resident bytes, for a budget.

        They are those of the longest prefix of the order that fits.

        Raises:
            UserError: The budget is below the floor.
        """
        if budget_bytes < self.floor_bytes:
            raise UserError(self._below_floor_message(budget_bytes))
        prefix = int(np.searchsorted(self._totals, budget_bytes, side="right")) - 1
        raised = np.bincount(
            np.asarray(self.order[:prefix], dtype=np.int64), minlength=len(self.stack_bytes)
        )
        return [int(level) for level in raised + 1], int(self._totals[prefix])

    def uniform(self, level: int) -> tuple[list[int], int]:
        """Returns the level of every stack, and the resident bytes, for one level everywhere.

        A stack with fewer levels is at its highest.

        Raises:
            UserError: No stack has that level.
        """
        top = max(len(sizes) for sizes in self.stack_bytes)
        if not 1 <= level <= top:
            raise UserError(f"level is {level}; it must be from 1 to {top}, the planes stored")
        levels = [min(level, len(sizes)) for sizes in self.stack_bytes]
        return levels, self.resident_bytes(levels)

    def resident_bytes(self, levels: Sequence[int]) -> int:
        """Returns the bytes of the whole model with its stacks at `levels`."""
        return self.fixed_bytes + self._stacked_bytes(levels)

    def bits_per_weight(self, levels: Sequence[int]) -> float:
        """Returns the mean bits of a decomposed weight, scales included, dense tensors not."""
        return 8 * self._stacked_bytes(levels) / sum(self.weights)

    def _stacked_bytes(self, levels: Sequence[int]) -> int:
        pairs = zip(self.stack_bytes, levels, strict=True)
        return sum(sizes[level - 1] for sizes, level in pairs)

    def _below_floor_message(self, budget_bytes: int) -> str:
        # Rounded up, so that each of the three can be given as a budget.
        mib = ceil(100 * self.floor_bytes / 2**20) / 100
        bpw = ceil(100 * self.bits_per_weight([1] * len(self.weights))) / 100
        return (
            f"budget of {budget_bytes} bytes ({format_bytes(budget_bytes)}) is below the floor of "
            f"this model: {self.floor_bytes} bytes ({mib:.2f}MiB, {bpw:.2f}bpw), one plane of "
            f"every matrix and {format_bytes(self.fixed_bytes)} that stay dense; give at least that"
        )
