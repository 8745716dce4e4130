"""Counts the instructions that the NEON kernels execute for a weight, beside those of AVX2.

    python scripts/count_instructions.py [--planes 2 3 4] [--tokens 1] [--json [FILE]]

It compiles these kernels of `bitstack/kernels/cpu` as setup.py would, and lets qemu's user mode
emulation count what the product of the rows takes that a thread has at a time: what it executes
for two products less what it executes for one. That is exact, and the same on every machine; but
it is not a time. Needs Linux, qemu-user 7.2 or newer, and compilers for both processors (Debian:
g++-aarch64-linux-gnu, qemu-user).
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from emulation import build

from bitstack.commands.shared import write_result

BESIDE = "avx2"  # what the others are compared with
VARIANTS = {BESIDE: build.X86} | dict.fromkeys(("neon", "neon-dotprod", "neon-i8mm"), build.ARM)
SOURCES = {build.X86: "avx2", build.ARM: "neon*"}
ROWS = 32  # a thread takes at a time
WITH_AVX2 = (7, 2)  # the first version of qemu that has it


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    variant: str
    accuracy: str  # fast or exact
    planes: int
    tokens: int
    per_weight: float  # instructions, of one token
    ratio: float  # to those of AVX2


def missing() -> str | None:
    """Returns why it cannot run here; None if it can."""
    reasons = [target.missing() for target in (build.X86, build.ARM)]
    if not any(reasons) and build.X86.version() < WITH_AVX2:
        reasons.append(f"needs qemu {'.'.join(map(str, WITH_AVX2))}, which knows AVX2")
    return "; ".join(reason for reason in reasons if reason) or None


class Counter:
    """Counts for one shape of a matrix, with programs that are built in `folder`."""

    def __init__(self, folder: Path, columns: int, accuracy: str) -> None:
        self._programs = {
            target: build.build(target, "count.cpp", folder, sources)
            for target, sources in SOURCES.items()
        }
        self.columns, self.accuracy = columns, accuracy

    def per_weight(self, variant: str, planes: int, tokens: int) -> float:
        """Returns the instructions for one weight and token."""
        once, twice = (self._executed(variant, planes, tokens, times) for times in (1, 2))
        return (twice - once) / (ROWS * self.columns * tokens)

    def _executed(self, variant: str, planes: int, tokens: int, times: int) -> int:
        target = VARIANTS[variant]
        shape = [planes, ROWS, self.columns, tokens, self.accuracy, times]
        command = target.command(self._programs[target], [variant, *map(str, shape)], trace=True)
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert process.stderr is not None
        count = sum(line.startswith(b"Trace") for line in process.stderr)
        if code := process.wait():
            raise RuntimeError(f"{variant}: the emulated processor cannot run it (code {code})")
        return count


def measure(counter: Counter, planes: list[int], tokens: list[int]) -> list[Line]:
    """Returns the rows of the table."""
    lines: list[Line] = []
    for count in planes:
        for batch in tokens:
            counts = {name: counter.per_weight(name, count, batch) for name in VARIANTS}
            lines += [
                Line(name, counter.accuracy, count, batch, value, value / counts[BESIDE])
                for name, value in counts.items()
            ]
    return lines


def print_table(lines: list[Line]) -> None:
    header = f"{'variant':<12} {'accuracy':<8} {'planes':>6} {'tokens':>6}"
    print(f"{header} {'per weight':>10} {'ratio':>6}")
    for line in lines:
        shape = f"{line.variant:<12} {line.accuracy:<8} {line.planes:>6} {line.tokens:>6}"
        print(f"{shape} {line.per_weight:>10.3f} {line.ratio:>6.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--planes", type=int, nargs="+", default=[2, 3, 4], help="numbers of planes"
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1], help="tokens at once")
    parser.add_argument("--columns", type=int, default=4096, help="of the matrix")
    parser.add_argument("--accuracy", choices=["fast", "exact"], default="fast", help="the product")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the rows to FILE; - is stdout"
    )
    options = parser.parse_args()
    if reason := missing():
        print(f"cannot run here: {reason}")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(Path(folder), options.columns, options.accuracy)
        lines = measure(counter, options.planes, options.tokens)
    if options.json != "-":
        print_table(lines)
    if options.json:
        write_result(options.json, [asdict(line) for line in lines])
    return 0


if __name__ == "__main__":
    sys.exit(main())
