"""Rounding to nearest in groups, the range of each group clipped by search.

Uses no calibration text and no error feedback.
"""

from collections.abc import Iterator
from functools import partial

from peers import embedding
from peers.bench import Bench, Clock, Row
from peers.loops import Done, quantise_each, unmeasured

BITS, GROUPS = (2, 3, 4, 8), (32, 64, 128)


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    settings = unmeasured(bench, "rtn g{}", BITS, GROUPS, done, same=True)
    for method, setting, bits, group in settings:
        clock, one = Clock(), partial(embedding.rounding, bits=bits, group=group)
        weights, size = quantise_each(bench, f"{method} {setting}", one)
        linear = embedding.Quantised(method, setting, bits, weights, size, clock.seconds)
        yield from embedding.rows(bench, done, linear, one)
