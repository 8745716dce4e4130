"""Measures the speed of a packed model on the CPU, beside its dense bf16 twin.

    python scripts/bench_runtime.py [--json [FILE]]

Makes a container of random signs with the shape of Llama-3.2-1B in a temporary folder, and the
dense model that computes the same. Times decoding with `generate`, a long prompt, and one matrix
product, which reads so many copies that they exceed the caches. The two sides take turns and a
figure is the median of the ratios of all rounds, so that other work on the machine slows both. The
share of the bandwidth is the best time of reading the same bytes by all threads, over the best
time of the product.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from bench_kernels import Bench
from random_container import random_container
from torch import Tensor
from tqdm import trange
from transformers import LlamaConfig, PretrainedConfig
from transformers.generation.streamers import BaseStreamer

from bitstack import kernels, load
from bitstack.commands.shared import write_result
from bitstack.kernels import native
from bitstack.machine.sizes import format_bytes
from bitstack.nn.assemble import fill
from bitstack.original.skeleton import skeleton, tie

PROMPT = 64  # tokens before the timed ones


@dataclass(frozen=True)
class Result:
    """What `--json` holds. Speed-ups are above 1 where the packed model is faster."""

    gemv_speedup_vs_bf16: float  # 3 planes, one token, against torch's bf16 F.linear
    bandwidth_fraction: float  # of the bytes per second that reading alone reaches
    decode_speedup_3bpw: float  # tokens per second over those of the dense model
    decode_speedup_2bpw: float
    prefill_ratio: float  # seconds over those of the dense model; below 1 is faster
    kernel: str


@dataclass(frozen=True)
class Line:
    """One comparison."""

    what: str
    packed: float  # seconds, the median of the rounds
    dense: float  # likewise
    ratio: float  # median over the rounds of dense / packed
    floor: float  # seconds that reading the packed bytes alone would take


def in_turn(rounds: int, *actions: Callable[[], Any]) -> list[list[float]]:
    """Runs the actions in turn, `rounds` times after one round that warms up.

    Returns:
        For each action and round what it returned, or its seconds where that is None.
    """
    results: list[list[float]] = [[] for _ in actions]
    for _ in trange(rounds + 1, disable=None, leave=False):
        for values, action in zip(results, actions, strict=True):
            start = time.perf_counter()
            result = action()
            values.append(time.perf_counter() - start if result is None else result)
    return [values[1:] for values in results]


def compared(what: str, packed: list[float], dense: list[float], floor: float) -> Line:
    """Returns the medians of seconds by round."""
    ratios = [theirs / ours for ours, theirs in zip(packed, dense, strict=True)]
    middle = statistics.median
    return Line(what, middle(packed), middle(dense), middle(ratios), floor)


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

    def read() -> None:
        if native.variants():
            native.read(memory)
        else:
            memory.view(torch.int64).sum()

    packed, dense, reading = in_turn(rounds, ours, lambda: bench.multiply_dense(x), read)
    each, bandwidth = memory.nbytes / len(stacks), memory.nbytes / min(reading)
    line = compared(
        f"{bench.rows}x{bench.columns}, 3 planes, batch 1",
        [t / len(stacks) for t in packed],
        [t / len(bench.dense) for t in dense],
        each / bandwidth,
    )
    return line, min(reading) / min(packed), bandwidth


def dense_twin(model: Any) -> Any:
    """Returns the dense model that computes the same as `model` at its present levels."""
    config = type(model.config).from_dict(
        {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    )
    twin = skeleton(config, model.dtype)
    manifest = model.bitstack.manifest
    for entry, stack in zip(manifest.stacks, model.bitstack.stacks, strict=True):
        fill(twin, entry.parameter, stack.dequantize().to(stack.dtype))
    for entry in manifest.dense:
        if entry.persistent:
            fill(twin, entry.name, model.get_parameter(entry.name))
    tie(twin)
    return twin


def prompt(model: Any, tokens: int) -> Tensor:
    """Returns token ids [1, tokens] that differ from one another."""
    return torch.arange(tokens)[None] * 37 % model.config.vocab_size


class Clock(BaseStreamer):
    """Notes the time of every token of `generate`."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def seconds_per_token(model: Any, tokens: int) -> float:
    """Returns the median over the tokens of `generate` after the first."""
    clock = Clock()
    model.generate(
        prompt(model, PROMPT), do_sample=False, min_new_tokens=tokens + 1,
        max_new_tokens=tokens + 1, streamer=clock,
    )  # fmt: skip
    times = clock.times[1:]  # the first call brings the prompt
    return statistics.median(b - a for a, b in pairwise(times))


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


@torch.inference_mode()
def check_twin(model: Any, twin: Any) -> None:
    """Checks that both compute the same, or their times would not compare."""
    ids = prompt(model, 8)
    ours, theirs = model(ids).logits.float(), twin(ids).logits.float()
    error = float((ours - theirs).norm() / theirs.norm())
    assert error < 0.05, f"the dense model computes something else: {error}"


def models(config: PretrainedConfig, folder: Path, bandwidth: float, options: Any) -> list[Line]:
    """Times decoding at 3 planes, a prompt, and decoding at 2 planes."""
    model = load(random_container(folder, config, planes=3))
    twin = dense_twin(model)
    check_twin(model, twin)
    both = model, twin, options.rounds
    lines = []
    for level in (3, 2):
        budgets = model.bitstack.manifest.budgets
        model.bitstack.resize(budgets.resident_bytes([level] * len(model.bitstack.stacks)))
        size = format_bytes(model.bitstack.resident_bytes)
        what = f"decode, {model.bitstack.bits_per_weight:.2f} bits a weight, {size}"
        lines.append(decode(what, *both, options.tokens, bandwidth))
        if level == 3:
            lines.append(prefill(*both, options.prompt, bandwidth))
    return lines


def llama_1b() -> LlamaConfig:
    """Returns the config of a model with the shape of Llama-3.2-1B."""
    return LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
        max_position_embeddings=131_072, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def measure(config: PretrainedConfig, options: Any) -> tuple[Result, list[Line], float]:
    """Returns the ratios, the comparisons, and the bandwidth in bytes per second."""
    bench = Bench(options.rows, options.columns, options.megabytes << 20, options.rounds)
    gemv, share, bandwidth = product(bench, options.rounds)
    del bench
    with tempfile.TemporaryDirectory(prefix="bitstack-bench-") as folder:
        three, many, two = models(config, Path(folder), bandwidth, options)
    result = Result(gemv.ratio, share, three.ratio, two.ratio, 1 / many.ratio, kernels.which().name)
    return result, [gemv, three, two, many], bandwidth


def print_table(result: Result, lines: list[Line], bandwidth: float) -> None:
    choice = kernels.which()
    print(f"kernel {choice.name}: {choice.reason}; {torch.get_num_threads()} threads")
    print(f"reading alone: {bandwidth / 1e9:.1f} GB/s; the product reaches "
          f"{result.bandwidth_fraction:.0%} of it")  # fmt: skip
    print(f"{'':<44} {'packed ms':>10} {'dense ms':>10} {'dense/packed':>12} {'reading ms':>10}")
    for line in lines:
        times = f"{1e3 * line.packed:>10.2f} {1e3 * line.dense:>10.2f}"
        print(f"{line.what:<44} {times} {line.ratio:>12.2f} {1e3 * line.floor:>10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=4096, help="of the single matrix")
    parser.add_argument("--columns", type=int, default=11008, help="of the single matrix")
    parser.add_argument("--megabytes", type=int, default=1024, help="MiB of copies of the matrix")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which the median counts")
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
