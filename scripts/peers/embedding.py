"""The rows of one quantised model: the embedding in 16 bits, in 8 bits, and like the linear ones.

Peers leave the embedding (and a head that is not tied to it) in 16 bits. In a small model that is
half of all bytes, so that a comparison of whole models would be won by whoever rounds it at all.
Linear matrices are quantised once for all rows. Does not quantise them; see the other modules.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bitstack.original.matrices import find_matrices
from bitstack.original.matrix import Matrix
from peers.bench import HALF, Bench, Clock, Row
from peers.grid import grouped_bytes, rounded
from peers.limits import EIGHT
from peers.loops import Done, quantise_each

Quantise = Callable[[Tensor], tuple[Tensor, int]]  # weight to dequantised value and stored bytes
GROUP = 64  # of the embedding in 8 bits


@dataclass(frozen=True)
class Quantised:
    """The linear matrices of a model, quantised by a method at a setting."""

    method: str
    setting: str
    bits: int
    weights: Mapping[str, Tensor]  # dequantised, by parameter
    size: int  # bytes
    seconds: float


def rows(bench: Bench, done: Done, linear: Quantised, own: Quantise | None = None) -> Iterator[Row]:
    """Measures every row of `linear` that is not there.

    Args:
        bench: The opened model.
        done: `done(method, setting)` says whether there is a row.
        linear: What was quantised.
        own: How the method quantises the embedding like a linear matrix; None: it does not.
    """
    for ending in bench.limits.endings(linear.bits, same=own is not None):
        if done(linear.method + ending, linear.setting):
            continue
        if not ending:
            setting, seconds = linear.setting, linear.seconds
            yield bench.row(linear.method, setting, linear.weights, linear.size, seconds)
            continue
        quantise = own if own and ending != EIGHT else partial(rounding, bits=8, group=GROUP)
        yield _whole(bench, linear, ending, quantise)


def rounding(weight: Tensor, bits: int, group: int) -> tuple[Tensor, int]:
    """Returns `weight` [rows, columns] rounded to nearest in groups, and the bytes it takes."""
    return rounded(weight, bits, group), grouped_bytes(*weight.shape, bits, group)


def outer_matrices(bench: Bench) -> list[Matrix]:
    """Returns the embedding, and the head where it is not tied to it."""
    linear = {m.parameter for m in bench.linear}
    return [m for m in find_matrices(bench.model) if m.parameter not in linear]


def _whole(bench: Bench, linear: Quantised, ending: str, quantise: Quantise) -> Row:
    clock, outer = Clock(), outer_matrices(bench)
    name = linear.method + ending
    more, stored = quantise_each(bench, f"{name} {linear.setting}", quantise, outer)
    seconds, stored = linear.seconds + clock.seconds, stored + linear.size
    dense = sum(m.weights for m in outer)
    bits = 8 * stored / (bench.linear_weights + dense)
    size = bench.dense_bytes - HALF * dense + stored
    with bench.replaced({**linear.weights, **more}) as model:
        return bench.scored(name, linear.setting, "whole", bits, size, model, seconds)
