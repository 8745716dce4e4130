"""BitStack as published (arXiv 2410.23918): 16 blocks, full SVD, its own sort by perplexity.

Rank 16 is the published one; rank 1 is the best for matrices as narrow as those of small models.
Dense tensors count 16 bits, as published. With `order: loss` each is sorted by our prediction
instead, to tell its blocks and its sort apart.
"""

from collections.abc import Callable, Iterator

from bitstack.recipe import load_recipe
from peers.bench import Bench, Row
from peers.containers import LAST, points

RANKS, ORDERS = (16, 1), ("perplexity", "loss")


def rows(bench: Bench, done: Callable[[str, str], bool]) -> Iterator[Row]:
    for order in ORDERS:
        for rank in RANKS:
            method = f"paper rank {rank}" + ("" if order == "perplexity" else ", order loss")
            if done(method, LAST):
                continue
            recipe = load_recipe(
                "paper", calibration=str(bench.calibration), rank=rank, order=order
            )
            name = f"paper-{rank}-{order}"
            found = points(bench, recipe, name, lambda s, m=method: not done(m, s))
            for setting, model, seconds in found:
                bits = model.bitstack.bits_per_weight
                size = bench.dense_bytes + round(bits * bench.linear_weights / 8)
                yield bench.scored(method, setting, "both", bits, size, model, seconds)
