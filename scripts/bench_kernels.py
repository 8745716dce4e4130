"""Measures the time of one packed matrix product on the CPU, beside torch's dense product.

    python scripts/bench_kernels.py [--rows 4096] [--columns 11008] [--json]

At one token, for 1 to 8 planes and every compiled kernel: milliseconds, the speed-up over torch's
bf16 F.linear, and the share of the memory bandwidth, which is measured beside it. Then batches of
tokens against dense bf16, and what a rotation of the input, outliers (one for every 2,000
weights), or both add to the time of one token. All weights are read from so many copies that they
exceed the caches. Ratios compare the best of several rounds. The rounds of the two sides take
turns, so that other work on the machine slows both.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack import kernels
from bitstack.kernels import arguments, native, selection


@dataclass
class Line:
    """One row of the table."""

    variant: str  # compiled kernel
    accuracy: str  # fast or exact
    planes: int
    batch: int  # tokens
    ms: float
    speedup_vs_bf16: float  # milliseconds of the dense product / ms
    bandwidth_fraction: float  # of the bandwidth of reading the same bytes; 0 for batches


@dataclass
class Extra:
    """What the form of a matrix adds to the time of one token, as a share of the plain product."""

    planes: int
    rotation: float
    outliers: float  # one for every 2,000 weights
    both: float


OUTLIER_SHARE = 2000


def best_of(rounds: int, *actions: Callable[[], None]) -> list[float]:
    """Returns the seconds of the best round of each action; the actions take turns."""
    best = [float("inf")] * len(actions)
    for _ in range(rounds):
        for i, action in enumerate(actions):
            start = time.perf_counter()
            action()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def read(memory: Tensor) -> None:
    """Reads `memory`, but for its last few bytes: the bandwidth that a product is compared with."""
    whole = memory.nbytes // 8 * 8
    memory.view(-1)[:whole].view(torch.int64).sum()


def copies(nbytes: int, total: int) -> int:
    """Returns how many copies of `nbytes` bytes make `total` bytes, at least 2."""
    return max(2, -(-total // nbytes))


class Bench:
    """The dense matrix, in copies of `total` bytes together; makes the packed one."""

    def __init__(self, rows: int, columns: int, total: int, rounds: int) -> None:
        self.rows, self.columns, self.total, self.rounds = rows, columns, total, rounds
        count = copies(rows * columns * 2, total)
        first = torch.randn(rows, columns).bfloat16()
        self.dense = [first, *[first.clone() for _ in range(count - 1)]]

    def packed(self, planes: int) -> tuple[Tensor, list[list[Tensor]], Tensor]:
        """Returns memory, the copies of `planes` planes that lie in it, and their scales."""
        shape = (self.rows, (self.columns + 7) // 8)
        count = copies(planes * shape[0] * shape[1], self.total)
        table = torch.linspace(-1, 1, 2**planes)
        scale = torch.cat([torch.ones(self.rows), torch.ones(self.columns), table]).half()
        memory = torch.empty(count, planes, *shape, dtype=torch.uint8)
        memory[:] = torch.randint(0, 256, (planes, *shape), dtype=torch.uint8)
        return memory, [list(stack) for stack in memory], scale

    def multiply_dense(self, x: Tensor) -> None:
        """Multiplies `x` [tokens, columns] by every copy of the dense matrix."""
        for weight in self.dense:
            F.linear(x, weight)

    def batch_one(
        self,
        variant: selection.Variant,
        accuracy: str,
        packed: tuple[Tensor, list[list[Tensor]], Tensor],
    ) -> Line:
        """Times one token, with a compiled kernel of choice."""
        memory, stacks, scale = packed
        x = torch.randn(1, self.columns).bfloat16()
        fast = accuracy == "fast"

        def product() -> None:
            for planes in stacks:
                native.linear(variant, fast, x, planes, scale, self.rows, None)

        ours, theirs, reading = best_of(
            self.rounds, product, lambda: self.multiply_dense(x), lambda: read(memory)
        )
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

    def extra(self, packed: tuple[Tensor, list[list[Tensor]], Tensor]) -> Extra:
        """Times one token plain, with its input rotated, with outliers, and with both."""
        _, stacks, scale = packed
        x = torch.randn(1, self.columns).bfloat16()
        count = self.rows * self.columns // OUTLIER_SHARE
        positions = torch.arange(count, dtype=torch.int32) * OUTLIER_SHARE
        kept = [(positions.clone(), torch.randn(count).half()) for _ in stacks]
        none = [None for _ in stacks]

        def product(outliers: Sequence[arguments.Kept | None], seed: int) -> Callable[[], None]:
            def multiply() -> None:
                for planes, own in zip(stacks, outliers, strict=True):
                    kernels.coded_linear(x, planes, scale, self.rows, seed=seed, kept=own)

            return multiply

        forms = [product(none, 0), product(none, 1), product(kept, 0), product(kept, 1)]
        plain, *others = best_of(self.rounds, *forms)
        return Extra(len(stacks[0]), *[seconds / plain - 1 for seconds in others])

    def tokens(self, batch: int, packed: tuple[Tensor, list[list[Tensor]], Tensor]) -> Line:
        """Times `batch` tokens, with the kernel that bitstack chooses."""
        _, stacks, scale = packed
        x = torch.randn(batch, self.columns).bfloat16()
        ours, theirs = best_of(
            self.rounds,
            lambda: drop(kernels.coded_linear(x, stacks[0], scale, self.rows)),
            lambda: drop(F.linear(x, self.dense[0])),
        )
        name, accuracy = kernels.which().name, kernels.get_accuracy()
        return Line(name, accuracy, len(stacks[0]), batch, 1e3 * ours, theirs / ours, 0.0)


def drop(_: Tensor) -> None:
    """Drops a result of which only the time counts."""


def print_table(lines: list[Line]) -> None:
    header = f"{'variant':<12} {'accuracy':<8} {'planes':>6} {'batch':>5} {'ms':>9}"
    print(f"{header} {'vs bf16':>8} {'bandwidth':>9}")
    for line in lines:
        share = f"{line.bandwidth_fraction:8.0%}" if line.batch == 1 else ""
        print(
            f"{line.variant:<12} {line.accuracy:<8} {line.planes:>6} {line.batch:>5}"
            f" {line.ms:>9.3f} {line.speedup_vs_bf16:>7.2f}x {share:>9}"
        )


def measure(options: argparse.Namespace) -> tuple[list[Line], list[Extra]]:
    """Returns the rows of the table, and what forms add."""
    bench = Bench(options.rows, options.columns, options.megabytes << 20, options.rounds)
    variants = [variant for variant in selection.variants() if variant.runs]
    if options.variant:
        variants = [variant for variant in variants if variant.name in options.variant]
    lines: list[Line] = []
    extras: list[Extra] = []
    with torch.no_grad():
        for planes in options.planes:
            packed = bench.packed(planes)
            for variant in variants:
                for accuracy in ["fast", "exact"] if variant.fast else ["exact"]:
                    lines.append(bench.batch_one(variant, accuracy, packed))
            extras.append(bench.extra(packed))
            if planes == options.batch_planes:
                lines += [bench.tokens(batch, packed) for batch in options.batches]
    return lines, extras


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=4096, help="of the matrix")
    parser.add_argument("--columns", type=int, default=11008, help="of the matrix")
    planes = list(range(1, 9))
    parser.add_argument("--planes", type=int, nargs="+", default=planes, help="numbers of planes")
    parser.add_argument("--variant", nargs="+", help="only these compiled kernels")
    batches = [4, 8, 16, 32, 128, 512]
    parser.add_argument("--batches", type=int, nargs="*", default=batches, help="tokens of each")
    parser.add_argument("--batch-planes", type=int, default=3, help="planes for the batches")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which the best counts")
    parser.add_argument("--megabytes", type=int, default=384, help="MiB of copies of the matrix")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    lines, extras = measure(options)
    if not options.json:
        choice = kernels.which()
        print(f"kernel {choice.name}: {choice.reason}; {torch.get_num_threads()} threads")
        print_table(lines)
        for e in extras:
            parts = f"rotation {e.rotation:+.1%}, outliers {e.outliers:+.1%}, both {e.both:+.1%}"
            print(f"{e.planes} planes: {parts}")
        return
    rows = {"lines": [asdict(line) for line in lines], "extras": [asdict(e) for e in extras]}
    print(json.dumps({"kernel": kernels.which().name} | rows))


if __name__ == "__main__":
    main()
