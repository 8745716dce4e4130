"""Times the coded product of one matrix against torch's dense one, on this machine's CPU.

    python scripts/bench_kernels.py [--rows 4096] [--columns 11008] [--json]

For 1 to 8 planes and every compiled variant: milliseconds at batch 1, times as fast as torch's
bf16 F.linear, and the share of the memory bandwidth measured beside it. Then the time of a batch
of tokens against dense bf16. Weights, dense ones, and the memory read for the bandwidth are each
taken from copies that exceed the caches together. Ratios compare the best of several rounds; the
rounds of what is compared take turns, so that other work on the machine meets both alike.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack import kernels
from bitstack.kernels import native


@dataclass
class Line:
    """One row of the table; times in milliseconds, bandwidth in GB/s of packed bytes."""

    variant: str
    accuracy: str
    planes: int
    batch: int
    ms: float
    speedup_vs_bf16: float
    bandwidth_fraction: float


def best_of(rounds: int, *actions: Callable[[], None]) -> list[float]:
    """Seconds of the best round of each action; the actions take turns."""
    best = [float("inf")] * len(actions)
    for _ in range(rounds):
        for i, action in enumerate(actions):
            start = time.perf_counter()
            action()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def copies(nbytes: int, total: int) -> int:
    """How many copies of a thing of `nbytes` make `total` bytes."""
    return max(2, -(-total // nbytes))


class Bench:
    """The dense side, made once: bf16 copies of the matrix and memory to read."""

    def __init__(self, rows: int, columns: int, total: int, rounds: int) -> None:
        self.rows, self.columns, self.total, self.rounds = rows, columns, total, rounds
        count = copies(rows * columns * 2, total)
        first = torch.randn(rows, columns).bfloat16()
        self.dense = [first, *[first.clone() for _ in range(count - 1)]]

    def packed(self, planes: int) -> tuple[Tensor, list[list[Tensor]], Tensor]:
        """Memory, the stacks of planes that lie in it, and their scale set."""
        shape = (self.rows, (self.columns + 7) // 8)
        count = copies(planes * shape[0] * shape[1], self.total)
        table = torch.linspace(-1, 1, 2**planes)
        scale = torch.cat([torch.ones(self.rows), torch.ones(self.columns), table]).half()
        memory = torch.empty(count, planes, *shape, dtype=torch.uint8)
        memory[:] = torch.randint(0, 256, (planes, *shape), dtype=torch.uint8)
        return memory, [list(stack) for stack in memory], scale

    def batch_one(
        self,
        variant: native.Variant,
        accuracy: str,
        packed: tuple[Tensor, list[list[Tensor]], Tensor],
    ) -> Line:
        memory, stacks, scale = packed
        x = torch.randn(1, self.columns).bfloat16()
        fast = accuracy == "fast"

        def product() -> None:
            for planes in stacks:
                native.linear(variant, fast, x, planes, scale, self.rows, None)

        def dense() -> None:
            for weight in self.dense:
                F.linear(x, weight)

        ours, theirs, reading = best_of(self.rounds, product, dense, lambda: native.read(memory))
        speedup = theirs / len(self.dense) / (ours / len(stacks))
        return Line(
            variant.name,
            accuracy,
            len(stacks[0]),
            1,
            1e3 * ours / len(stacks),
            speedup,
            reading / ours,
        )

    def tokens(self, batch: int, packed: tuple[Tensor, list[list[Tensor]], Tensor]) -> Line:
        _, stacks, scale = packed
        x = torch.randn(batch, self.columns).bfloat16()
        ours, theirs = best_of(
            self.rounds,
            lambda: keep(kernels.coded_linear(x, stacks[0], scale, self.rows)),
            lambda: keep(F.linear(x, self.dense[0])),
        )
        name, accuracy = kernels.which().name, kernels.get_accuracy()
        return Line(name, accuracy, len(stacks[0]), batch, 1e3 * ours, theirs / ours, 0.0)


def keep(_: Tensor) -> None:
    """Takes a result that only its time was wanted of."""


def print_table(lines: list[Line]) -> None:
    header = f"{'variant':<12} {'accuracy':<8} {'planes':>6} {'batch':>5} {'ms':>9}"
    print(f"{header} {'vs bf16':>8} {'bandwidth':>9}")
    for line in lines:
        share = f"{line.bandwidth_fraction:8.0%}" if line.batch == 1 else ""
        print(
            f"{line.variant:<12} {line.accuracy:<8} {line.planes:>6} {line.batch:>5}"
            f" {line.ms:>9.3f} {line.speedup_vs_bf16:>7.2f}x {share:>9}"
        )


def measure(options: argparse.Namespace) -> list[Line]:
    bench = Bench(options.rows, options.columns, options.megabytes << 20, options.rounds)
    able = [variant for variant in native.variants() if variant.runs]
    if options.variant:
        able = [variant for variant in able if variant.name in options.variant]
    lines = []
    with torch.no_grad():
        for planes in options.planes:
            packed = bench.packed(planes)
            for variant in able:
                for accuracy in ["fast", "exact"] if variant.fast else ["exact"]:
                    lines.append(bench.batch_one(variant, accuracy, packed))
            if planes == options.batch_planes:
                lines += [bench.tokens(batch, packed) for batch in options.batches]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=11008)
    parser.add_argument("--planes", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--variant", nargs="+", help="only these compiled variants")
    parser.add_argument("--batches", type=int, nargs="*", default=[4, 8, 16, 32, 128, 512])
    parser.add_argument("--batch-planes", type=int, default=3, help="planes of the batches")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=384, help="copies to go through")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    lines = measure(options)
    if not options.json:
        choice = kernels.which()
        print(f"kernel {choice.name}: {choice.reason}; {torch.get_num_threads()} threads")
        print_table(lines)
        return
    print(json.dumps({"kernel": kernels.which().name, "lines": [asdict(line) for line in lines]}))


if __name__ == "__main__":
    main()
