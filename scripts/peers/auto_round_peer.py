"""AutoRound: rounding and clipping by signed gradient descent, block by block, at its default 200
steps; asymmetric, but at 8 bits, where it knows no zero points.

Evaluated as it rounds in training (its weights quantised and dequantised in place). Bytes as its
auto_gptq format stores them: packed codes, fp16 scales, packed zeros.
"""

import logging
from collections.abc import Callable, Iterator

import torch
from auto_round import AutoRound
from torch import Tensor

from peers.bench import Bench, Clock, Row
from peers.grid import grouped_bytes

BITS, GROUPS = (2, 3, 4, 8), (64, 128)
STEPS, BATCH = 200, 8


def rows(bench: Bench, done: Callable[[str, str], bool]) -> Iterator[Row]:
    for group in GROUPS:
        for bits in BITS:
            method, setting = f"auto-round g{group}", f"{bits} bits"
            if done(method, setting):
                continue
            clock = Clock()
            weights = quantise(bench, bits, group)
            size = sum(grouped_bytes(m.rows, m.columns, bits, group) for m in bench.linear)
            yield bench.row(method, setting, weights, size, clock.seconds)


def quantise(bench: Bench, bits: int, group: int) -> dict[str, Tensor]:
    """Dequantised linear weights by parameter."""
    logging.getLogger("autoround").setLevel(logging.ERROR)
    examples = [
        {"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])}
        for ids in bench.windows
    ]
    tuner = AutoRound(
        bench.fresh(), bench.tokenizer, scheme=f"W{bits}A16", bits=bits, group_size=group,
        sym=bits == 8, iters=STEPS, seqlen=bench.task.length, nsamples=len(examples),
        batch_size=BATCH, dataset=examples, device_map="cpu", enable_torch_compile=False,
        low_cpu_mem_usage=False,
    )  # fmt: skip
    model, _ = tuner.quantize()
    return {m.parameter: model.get_parameter(m.parameter).detach().float() for m in bench.linear}
