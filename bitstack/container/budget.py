"""Bytes to levels, exactly: which prefix of the order fits a memory budget.

Pure arithmetic over the sizes of a stacked model. Where the order comes from is the business of
`order`, what the sizes are that of `container`, and spending the bytes that of `load`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from bitstack.errors import UserError

PREFIXES = ("k", "M", "G", "T")
UNITS = (
    {"B": 1}
    | {f"{prefix}B": 1000**i for i, prefix in enumerate(PREFIXES, start=1)}
    | {f"{prefix.upper()}iB": 1024**i for i, prefix in enumerate(PREFIXES, start=1)}
)
_UNITS = {unit.lower(): size for unit, size in UNITS.items()}
_FORM = re.compile(r"(\d+\.?\d*|\.\d+)\s*(%|[A-Za-z]*)", re.ASCII)


@dataclass(frozen=True)
class Budget:
    """A memory budget as it was asked for; what it is in bytes depends on the model."""

    amount: Fraction
    kind: Literal["bytes", "share", "bpw"]  # share: 1 is all of the original model
    text: str  # as written, for messages

    def to_bytes(self, *, original_bytes: int, fixed_bytes: int, weights: int) -> int:
        """Whole bytes of the resident model, rounded down.

        `original_bytes` is the size of the original model, `weights` the number of decomposed
        weights. `fixed_bytes`, what stays dense, comes on top of a budget in bits per weight.
        """
        if self.kind == "share":
            return int(self.amount * original_bytes)
        if self.kind == "bpw":
            return fixed_bytes + int(self.amount * weights / 8)
        return int(self.amount)


def parse_budget(text: str | int) -> Budget:
    """`800MB`, `1.5GiB`, `50%` (of the original's bytes), `2.5bpw`, or a whole number of bytes.

    bpw is mean bits per decomposed weight. Units of any case, white space around. Raises
    UserError for anything else.
    """
    text = str(text).strip()
    match = _FORM.fullmatch(text)
    number, unit = match.groups() if match else ("0", "?")
    if unit == "%":
        return Budget(Fraction(number) / 100, "share", text)
    if unit.lower() == "bpw":
        return Budget(Fraction(number), "bpw", text)
    if unit.lower() in _UNITS:
        return Budget(Fraction(number) * _UNITS[unit.lower()], "bytes", text)
    if not unit and number.isdecimal():
        return Budget(Fraction(number), "bytes", text)
    raise UserError(
        f"budget {text!r} is not understood; allowed: a number with {', '.join(UNITS)}, a whole "
        "number of bytes, N% of the original's bytes, or Nbpw for mean bits per decomposed "
        "weight; for example 800MB, 1.5GiB, 50% or 2.5bpw"
    )


def format_bytes(size: int) -> str:
    """`5.47 MiB`: two decimals in the largest binary unit below the number."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for prefix in PREFIXES:
        value /= 1024
        if value < 1023.995 or prefix == PREFIXES[-1]:
            break
    return f"{value:.2f} {prefix.upper()}iB"


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
        """The least this model can be: every stack at level 1."""
        return int(self._totals[0])

    @property
    def total_bytes(self) -> int:
        """At the end of the order."""
        return int(self._totals[-1])

    @property
    def prefix_bytes(self) -> list[int]:
        """Resident bytes at the floor and after every entry of the order."""
        return [int(total) for total in self._totals]

    def levels(self, budget_bytes: int) -> tuple[list[int], int]:
        """Level of every stack, and resident bytes, of the longest prefix within the budget.

        Raises UserError when the budget is below the floor.
        """
        if budget_bytes < self.floor_bytes:
            raise UserError(self._below_floor(budget_bytes))
        prefix = int(np.searchsorted(self._totals, budget_bytes, side="right")) - 1
        raised = np.bincount(
            np.asarray(self.order[:prefix], dtype=np.int64), minlength=len(self.stack_bytes)
        )
        return [int(level) for level in raised + 1], int(self._totals[prefix])

    def uniform(self, level: int) -> tuple[list[int], int]:
        """Every stack at `level`, or at its own top where that is lower, and resident bytes.

        Raises UserError for a level that no stack has.
        """
        top = max(len(sizes) for sizes in self.stack_bytes)
        if not 1 <= level <= top:
            raise UserError(f"level is {level}; it must be from 1 to {top}, the planes stored")
        levels = [min(level, len(sizes)) for sizes in self.stack_bytes]
        return levels, self.resident_bytes(levels)

    def resident_bytes(self, levels: Sequence[int]) -> int:
        """The whole model with its stacks at `levels`."""
        return self.fixed_bytes + self._stacked(levels)

    def bits_per_weight(self, levels: Sequence[int]) -> float:
        """Mean bits of a decomposed weight, scales included, dense tensors not."""
        return 8 * self._stacked(levels) / sum(self.weights)

    def _stacked(self, levels: Sequence[int]) -> int:
        pairs = zip(self.stack_bytes, levels, strict=True)
        return sum(sizes[level - 1] for sizes, level in pairs)

    def _below_floor(self, budget_bytes: int) -> str:
        # Rounded up, so that each of the three can be given as a budget.
        mib = ceil(100 * self.floor_bytes / 2**20) / 100
        bpw = ceil(100 * self.bits_per_weight([1] * len(self.weights))) / 100
        return (
            f"budget of {budget_bytes} bytes ({format_bytes(budget_bytes)}) is below the floor of "
            f"this model: {self.floor_bytes} bytes ({mib:.2f}MiB, {bpw:.2f}bpw), one plane of "
            f"every matrix and {format_bytes(self.fixed_bytes)} that stay dense; give at least that"
        )


def kv_cache_bytes(config: PretrainedConfig, context: int, dtype_bytes: int = 2) -> int:
    """Bytes of the keys and values of one sequence of `context` tokens, as `DynamicCache` keeps.

    Layers with a sliding window keep its last `sliding_window - 1` tokens, layers that share the
    cache of another nothing; recurrent states are not counted. `dtype_bytes` is the size of one
    number. Raises UserError if the model has no attention heads, and so no such cache.
    """
    text_config = config.get_text_config(decoder=True)
    if not getattr(text_config, "num_attention_heads", None):
        raise UserError(
            f"model type {text_config.model_type!r} has no attention heads in its config, so no "
            "KV cache to plan for; leave the context length out"
        )
    tokens = sum(_kept(layer, context) for layer in DynamicCache(config=config).layers)
    return tokens * _numbers_per_token(text_config) * dtype_bytes


def _kept(layer: object, context: int) -> int:
    if isinstance(layer, DynamicSlidingWindowLayer):
        return min(context, layer.sliding_window - 1)
    return context if isinstance(layer, DynamicLayer) else 0


def _numbers_per_token(config: PretrainedConfig) -> int:
    """Numbers that one layer keeps of one token: its keys and values in all heads."""
    if getattr(config, "kv_lora_rank", None):  # latent attention keeps one compressed vector
        return config.kv_lora_rank + config.qk_rope_head_dim
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * heads * size
