"""MatGPTQ (arXiv 2602.03537), our own small implementation: one parent of 8 bits, sliced to fewer.

A model of b bits is the b most significant bits of the parent's codes, rounded, under the parent's
scales and zero points. The loop is that of GPTQ: a weight takes the code with the least sum of
squared errors over the target widths, and the later columns make up for the mean of these errors.
Targets are the authors' 3, 4 and 8 bits with equal weights, or 2 bits as well. As in our GPTQ,
grids are asymmetric and clipping is searched, here for the same sum. Layers are calibrated through
layers of 8 bits, as the authors do. Mixes of widths by layer are not made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitstack.original.matrix import Matrix
from peers import embedding
from peers.bench import Bench, Clock, Row
from peers.gptq import column_weights, feed_back, layer_by_layer
from peers.grid import Grid, best_range, grouped_bytes
from peers.loops import Done, unmeasured

PARENT = 8  # bits
BITS, GROUPS = (2, 3, 4, PARENT), (64, 128)
TARGETS = {"matgptq g{}": (3, 4, PARENT), "matgptq g{}, from 2 bits": (2, 3, 4, PARENT)}


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row; a parent is made once for all its widths."""
    for name, targets in TARGETS.items():
        for group in bench.limits.groups_of(GROUPS):
            wanted = list(unmeasured(bench, name, BITS, (group,), done))
            if not wanted:
                continue
            clock = Clock()
            parents = quantise_model(bench.fresh(), bench, targets, group)
            seconds = clock.seconds
            for method, setting, bits, _ in wanted:
                weights = {n: parent.weight(bits) for n, parent in parents.items()}
                size = sum(
                    grouped_bytes(m.rows, m.columns, bits, group, PARENT) for m in bench.linear
                )
                linear = embedding.Quantised(method, setting, bits, weights, size, seconds)
                yield from embedding.rows(bench, done, linear)


@dataclass(frozen=True)
class Parent:
    """The codes of a matrix, uint8 [rows, n], with the grid of each group of columns."""

    codes: Tensor
    grids: Sequence[Grid]
    group: int
    transposed: bool = False  # whether the parameter lies the other way round

    def weight(self, bits: int) -> Tensor:
        """Returns the dequantised parameter of a slice."""
        parts = zip(self.codes.split(self.group, dim=1), self.grids, strict=True)
        values = [(sliced(part, bits) - grid.zero) * grid.scale for part, grid in parts]
        value = torch.cat(values, dim=1)
        return value.T if self.transposed else value


def sliced(codes: Tensor, bits: int) -> Tensor:
    """Returns the `bits` most significant bits of `codes`, rounded, in the parent's steps."""
    step = 2 ** (PARENT - bits)
    return ((codes.float() + step // 2) / step).floor().clamp_max(2**bits - 1) * step


class Chooser:
    """Chooses codes by the sum of squared errors over target widths.

    With t a weight in steps of the grid and s_b(q) code q sliced to b bits, the mean over b of
    (t - s_b(q))² is t² - 2 t A(q) + B(q): a line in t for each code but for t². The best codes are
    those on the lower convex hull of the points (A, B), and t lies between two breaks.
    """

    def __init__(self, targets: Sequence[int]) -> None:
        values = torch.stack([sliced(torch.arange(2**PARENT), bits) for bits in targets])
        self.first, self.second = values.mean(0), values.square().mean(0)  # A and B
        self.hull = torch.tensor(_lower_hull(self.first.tolist(), self.second.tolist()))
        rise = self.second[self.hull].diff() / self.first[self.hull].diff()
        self.breaks = rise / 2

    def codes(self, grid: Grid, x: Tensor) -> Tensor:
        """Returns the best codes for `x` [rows, n], int64."""
        return self.hull[torch.bucketize(x / grid.scale + grid.zero, self.breaks)]

    def mean_error(self, grid: Grid, x: Tensor, codes: Tensor) -> Tensor:
        """Returns `x` [rows, n] less the mean of its slices."""
        return x - (self.first[codes] - grid.zero) * grid.scale

    def square(self, grid: Grid, x: Tensor) -> Tensor:
        """Returns the mean squared error over the slices, [rows, n]."""
        t = x / grid.scale + grid.zero
        codes = self.codes(grid, x)
        mean = t.square() - 2 * t * self.first[codes] + self.second[codes]
        return mean * grid.scale.square()


def _lower_hull(first: Sequence[float], second: Sequence[float]) -> list[int]:
    """Returns the indices of the lower convex hull of points with rising `first`."""
    hull: list[int] = []
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if hull and a == first[hull[-1]]:
            if b >= second[hull[-1]]:
                continue
            hull.pop()
        while len(hull) > 1 and _above(first, second, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _above(first: Sequence[float], second: Sequence[float], i: int, j: int, k: int) -> bool:
    """Returns whether point j lies on or above the line from i to k."""
    before = (second[j] - second[i]) * (first[k] - first[i])
    return before >= (second[k] - second[i]) * (first[j] - first[i])


def quantise(weight: Tensor, moment: Tensor, targets: Sequence[int], group: int) -> Parent:
    """Returns the parent of `weight` [rows, n] under the second moment [n, n] of its inputs."""
    chooser, importance = Chooser(targets), column_weights(moment)
    grids = [
        best_range(part, PARENT, own, chooser.square)
        for part, own in zip(weight.split(group, dim=1), importance.split(group), strict=True)
    ]
    result = torch.empty_like(weight, dtype=torch.uint8)

    def one(column: int, x: Tensor) -> Tensor:
        grid = grids[column // group]
        codes = chooser.codes(grid, x)
        result[:, column] = codes[:, 0]
        return chooser.mean_error(grid, x, codes)

    feed_back(weight, moment, one)
    return Parent(result, grids, group)


def quantise_model(
    model: Any, bench: Bench, targets: Sequence[int], group: int
) -> dict[str, Parent]:
    """Quantises `model` in place to 8 bits; returns the parents of linear weights by parameter."""
    parents: dict[str, Parent] = {}

    def one(matrix: Matrix, weight: Tensor, moment: Tensor) -> Tensor:
        own = quantise(weight, moment, targets, group)
        parents[matrix.parameter] = replace(own, transposed=matrix.transposed)
        return own.weight(PARENT)

    layer_by_layer(model, bench, f"matgptq g{group} {min(targets)} to {PARENT} bits", one)
    return parents
