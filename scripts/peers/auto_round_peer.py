"""AutoRound: rounding and clipping learnt by signed gradient descent, layer by layer.

Its default recipe takes 200 steps, its recipe `light` 50 of the same size. Groups are asymmetric,
but symmetric at 8 bits, where it has no zero points. Evaluated with the weights that it quantises
and dequantises in place. Bytes are those of its auto_gptq format: packed codes, fp16 scales, packed
zero points.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from auto_round import AutoRound
from torch import Tensor

from peers import embedding
from peers.bench import Bench, Clock, Row
from peers.grid import grouped_bytes
from peers.loops import Done, unmeasured

BITS, GROUPS = (2, 3, 4, 8), (64, 128)
BATCH = 8


@dataclass(frozen=True)
class Pace:
    """The steps of a recipe and their size; None: one over the steps."""

    steps: int
    rate: float | None = None


DEFAULT, LIGHT = Pace(200), Pace(50, 5e-3)  # as in its command line


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    yield from _rows(bench, done, "auto-round g{}", DEFAULT)


def light_rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting of the recipe `light` without a row."""
    yield from _rows(bench, done, "auto-round-light g{}", LIGHT)


def _rows(bench: Bench, done: Done, name: str, pace: Pace) -> Iterator[Row]:
    for method, setting, bits, group in unmeasured(bench, name, BITS, GROUPS, done):
        clock = Clock()
        weights = quantise(bench, bits, group, pace)
        size = sum(grouped_bytes(m.rows, m.columns, bits, group) for m in bench.linear)
        linear = embedding.Quantised(method, setting, bits, weights, size, clock.seconds)
        yield from embedding.rows(bench, done, linear)


def quantise(bench: Bench, bits: int, group: int, pace: Pace) -> dict[str, Tensor]:
    """Returns the dequantised linear weights by parameter."""
    logging.getLogger("autoround").setLevel(logging.ERROR)
    examples = [
        {"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])}
        for ids in bench.windows
    ]
    tuner = AutoRound(
        bench.fresh(), bench.tokenizer, scheme=f"W{bits}A16", bits=bits, group_size=group,
        sym=bits == 8, iters=pace.steps, lr=pace.rate, seqlen=bench.task.length,
        nsamples=len(examples), batch_size=BATCH, dataset=examples, device_map="cpu",
        enable_torch_compile=False, low_cpu_mem_usage=False,
    )  # fmt: skip
    model, _ = tuner.quantize()
    return {m.parameter: model.get_parameter(m.parameter).detach().float() for m in bench.linear}
