"""BitStack as published (arXiv 2410.23918): 16 blocks, full SVD, sorted by measured perplexity.

Rank 16 is the published one; rank 1 is the best for the narrow matrices of small models. Dense
tensors count 16 bits, as published. With `order: loss` the same blocks are sorted by our
prediction, which separates the quality of the blocks from that of the sort.
"""

from collections.abc import Iterator

from bitstack.recipe import load_recipe
from peers.bench import Bench, Row
from peers.containers import LAST, points
from peers.loops import Done

RANKS, ORDERS = (16, 1), ("perplexity", "loss")


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    for order in ORDERS:
        for rank in RANKS:
            method = f"paper rank {rank}" + ("" if order == "perplexity" else ", order loss")
            if done(method, LAST):
                continue
            recipe = load_recipe(
                "paper", calibration=str(bench.calibration), rank=rank, order=order
            )
            name = f"paper-{rank}-{order}"
            loaded = points(bench, recipe, name, lambda s, m=method: not done(m, s))
            for setting, model, seconds in loaded:
                bits = model.bitstack.bits_per_weight
                size = bench.dense_bytes + round(bits * bench.linear_weights / 8)
                yield bench.scored(method, setting, "both", bits, size, model, seconds)
