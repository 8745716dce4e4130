"""Measures the speed of a packed model on the CPU, beside its dense bf16 twin.

    python scripts/bench_runtime.py [--json [FILE]]

Makes a container of random signs with the shape of Llama-3.2-1B in a temporary folder, and the
dense model that computes the same. Times decoding with `generate`, a long prompt, and one matrix
product, which reads so many copies that they exceed the caches. The two sides take turns and a
figure is the median of the ratios of all rounds, so that other work on the machine slows both. The
share of the bandwidth is the best time of reading the same bytes by all threads, over the best
time of the product.

Where llama-cpp-python is installed (`pip install ".[peers]"`), llama.cpp runs the dense model too,
in three of its types: 2, 3 and 4 planes beside Q2_K, Q3_K_M and Q4_K_M.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from bench_kernels import Bench, read
from random_container import random_container
from runtime.models import check_twin, dense_twin, llama_1b, resize
from runtime.timing import PROMPT, Line, compared, in_turn, prompt, seconds_per_token
from transformers import PretrainedConfig

from bitstack import kernels, load
from bitstack.commands.shared import write_result
from bitstack.machine.sizes import format_bytes

PLANES = 4  # of every matrix
LLAMA_CPP = {2: "Q2_K", 3: "Q3_K_M", 4: "Q4_K_M"}  # type of llama.cpp, by planes
LLAMA_CPP_PROMPT = 256  # tokens, at 3 planes


@dataclass(frozen=True)
class Result:
    """What `--json` holds. Speed-ups are above 1 where the packed model is faster."""

    gemv_speedup_vs_bf16: float  # 3 planes, one token, against torch's bf16 F.linear
    bandwidth_fraction: float  # of the bytes per second that reading alone reaches
    decode_speedup_3bpw: float  # tokens per second over those of the dense model
    decode_speedup_2bpw: float
    prefill_ratio: float  # seconds over those of the dense model; below 1 is faster
    kernel: str
    # Times as fast as llama.cpp: decode_2, decode_3, decode_4 and prefill_256; empty without it.
    vs_llama_cpp: dict[str, float] = field(default_factory=dict)


@torch.inference_mode()
def product(bench: Bench, rounds: int) -> tuple[Line, float, float]:
    """Times one token and 3 planes.

    Returns:
        The comparison, the share of the bandwidth, and the bandwidth in bytes per second.
    """
    memory, stacks, scale = bench.packed(3)
    x = torch.randn(1, bench.columns).bfloat16()

    def ours() -> None:
        for planes in stacks:
            kernels.coded_linear(x, planes, scale, bench.rows)

    packed, dense, reading = in_turn(
        rounds, ours, lambda: bench.multiply_dense(x), lambda: read(memory)
    )
    each, bandwidth = memory.nbytes / len(stacks), memory.nbytes / min(reading)
    line = compared(
        f"{bench.rows}x{bench.columns}, 3 planes, batch 1",
        [t / len(stacks) for t in packed],
        [t / len(bench.dense) for t in dense],
        each / bandwidth,
    )
    return line, min(reading) / min(packed), bandwidth


@torch.inference_mode()
def decode(what: str, model: Any, twin: Any, rounds: int, tokens: int, bandwidth: float) -> Line:
    """Times `tokens` generated tokens."""
    packed, dense = in_turn(
        rounds, lambda: seconds_per_token(model, tokens), lambda: seconds_per_token(twin, tokens)
    )
    return compared(what, packed, dense, model.bitstack.resident_bytes / bandwidth)


@torch.inference_mode()
def prefill(model: Any, twin: Any, rounds: int, tokens: int, bandwidth: float) -> Line:
    """Times a prompt of `tokens` tokens."""
    ids = prompt(model, tokens)

    def run(one: Any) -> None:
        one(ids, use_cache=True, logits_to_keep=1)

    packed, dense = in_turn(rounds, lambda: run(model), lambda: run(twin))
    floor = model.bitstack.resident_bytes / bandwidth
    return compared(f"prefill of {tokens} tokens", packed, dense, floor)


def models(model: Any, bandwidth: float, options: Any) -> tuple[list[Line], Any]:
    """Times decoding at 3 planes, a prompt, and decoding at 2 planes; returns the twin too."""
    resize(model, 3)
    twin = dense_twin(model)
    check_twin(model, twin)
    both = model, twin, options.rounds
    lines = []
    for level in (3, 2):
        what = f"decode, {resize(model, level)}"
        lines.append(decode(what, *both, options.tokens, bandwidth))
        if level == 3:
            lines.append(prefill(*both, options.prompt, bandwidth))
    return lines, twin


@torch.inference_mode()
def beside_llama_cpp(
    model: Any, twin: Any, folder: Path, bandwidth: float, options: Any
) -> Iterator[tuple[str, Line]]:
    """Times what llama.cpp runs too: yields each with its key in the JSON."""
    from peers.llama_cpp_speed import LlamaCpp, dense_file, quantised

    source = dense_file(twin, folder)
    ids, many = prompt(model, PROMPT), prompt(model, LLAMA_CPP_PROMPT)
    for level, name in LLAMA_CPP.items():
        file = quantised(source, name)
        other, own = LlamaCpp(file), resize(model, level)
        what = f"{own}; {name}, {format_bytes(file.stat().st_size)}"
        floor = model.bitstack.resident_bytes / bandwidth
        ours, theirs = in_turn(
            options.rounds,
            lambda: seconds_per_token(model, options.tokens),
            lambda other=other: other.seconds_per_token(ids[0].tolist(), options.tokens),
        )
        yield f"decode_{level}", compared(f"decode, {what}", ours, theirs, floor)
        if level == 3:
            ours, theirs = in_turn(
                options.rounds,
                lambda: model(many, use_cache=True, logits_to_keep=1) and None,
                lambda other=other: other.prompt(many[0].tolist()),
            )
            line = compared(f"prefill of {LLAMA_CPP_PROMPT} tokens, {what}", ours, theirs, floor)
            yield f"prefill_{LLAMA_CPP_PROMPT}", line
        other.close()
        file.unlink()


def measure(config: PretrainedConfig, options: Any) -> tuple[Result, list[Line], float]:
    """Returns the ratios, the comparisons, and the bandwidth in bytes per second."""
    bench = Bench(options.rows, options.columns, options.megabytes << 20, options.rounds)
    gemv, share, bandwidth = product(bench, options.rounds)
    del bench
    others: dict[str, Line] = {}
    with tempfile.TemporaryDirectory(prefix="bitstack-bench-") as folder:
        model = load(random_container(Path(folder) / "packed", config, planes=PLANES))
        (three, many, two), twin = models(model, bandwidth, options)
        if find_spec("llama_cpp"):
            others = dict(beside_llama_cpp(model, twin, Path(folder), bandwidth, options))
    result = Result(
        gemv.ratio, share, three.ratio, two.ratio, 1 / many.ratio, kernels.which().name,
        {key: line.ratio for key, line in others.items()},
    )  # fmt: skip
    return result, [gemv, three, two, many, *others.values()], bandwidth


def print_table(result: Result, lines: list[Line], bandwidth: float) -> None:
    choice = kernels.which()
    print(f"kernel {choice.name}: {choice.reason}; {torch.get_num_threads()} threads")
    print(f"reading alone: {bandwidth / 1e9:.1f} GB/s; the product reaches "
          f"{result.bandwidth_fraction:.0%} of it")  # fmt: skip
    own = len(lines) - len(result.vs_llama_cpp)
    for other, some in (("dense", lines[:own]), ("llama.cpp", lines[own:])):
        if not some:
            continue
        wide = max(len(line.what) for line in some)
        print(f"{'':<{wide}} {'packed ms':>10} {other + ' ms':>12} {'ratio':>6} {'reading ms':>10}")
        for line in some:
            times = f"{1e3 * line.packed:>10.2f} {1e3 * line.dense:>12.2f}"
            print(f"{line.what:<{wide}} {times} {line.ratio:>6.2f} {1e3 * line.floor:>10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=4096, help="of the single matrix")
    parser.add_argument("--columns", type=int, default=11008, help="of the single matrix")
    parser.add_argument("--megabytes", type=int, default=1024, help="MiB of copies of the matrix")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts")
    parser.add_argument("--tokens", type=int, default=16, help="tokens generated in a round")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the long prompt")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the ratios to FILE; - is stdout"
    )
    options = parser.parse_args()
    result, lines, bandwidth = measure(llama_1b(), options)
    if options.json != "-":
        print_table(result, lines, bandwidth)
    if options.json:
        write_result(options.json, asdict(result))


if __name__ == "__main__":
    main()
