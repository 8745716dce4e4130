"""Round to nearest with groups, each range clipped by search: no text, no error feedback."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from peers.bench import Bench, Clock, Row
from peers.grid import best_range, grouped_bytes

BITS, GROUPS = (2, 3, 4, 8), (32, 64, 128)


def rows(bench: Bench, done: Callable[[str, str], bool]) -> Iterator[Row]:
    for group in GROUPS:
        for bits in BITS:
            method, setting = f"rtn g{group}", f"{bits} bits"
            if done(method, setting):
                continue
            clock, size, weights = Clock(), 0, {}
            for matrix in tqdm(bench.linear, desc=f"{method} {setting}", disable=None):
                parameter = bench.model.get_parameter(matrix.parameter)
                value = rounded(matrix.of(parameter), bits, group)
                weights[matrix.parameter] = value.T if matrix.transposed else value
                size += grouped_bytes(matrix.rows, matrix.columns, bits, group)
            yield bench.row(method, setting, weights, size, clock.seconds)


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """`weight` [rows, columns] rounded to nearest in groups of columns."""
    parts = weight.split(group, dim=1)
    return torch.cat([best_range(part, bits).round(part) for part in parts], dim=1)
