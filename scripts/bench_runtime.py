"""How fast a packed model runs on this machine's CPU, beside the dense bf16 one of the same shape.

    python scripts/bench_runtime.py [--json [FILE]]

A Llama-3.2-1B-shaped container of random signs is made in a temporary folder in some seconds, and
its dense twin from what its blocks stand for. Everything is compared within one run: what is
compared takes turns, and a figure is the median of the ratios of all rounds, so that other work on
the machine meets both alike. Tokens are those of `generate`. The matrix product goes through copies
beyond the caches; the share of the bandwidth is its best round's over the best reading of the same
memory by all threads.
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
import torch.nn.functional as F
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
from bitstack.original.source import skeleton, tie

PROMPT = 64  # tokens in front of those that are timed


@dataclass(frozen=True)
class Result:
    """What `--json` holds: ratios of times, above 1 where packed is faster but for the prefill."""

    gemv_speedup_vs_bf16: float  # 3 planes, batch 1, over torch's bf16 F.linear
    bandwidth_fraction: float  # of the bytes a second that reading alone reaches
    decode_speedup_3bpw: float  # tokens a second over the dense model's
    decode_speedup_2bpw: float
    prefill_ratio: float  # seconds over the dense model's
    kernel: str


@dataclass(frozen=True)
class Line:
    """One comparison; seconds are medians."""

    what: str
    packed: float
    dense: float
    ratio: float  # median over the rounds of dense / packed
    floor: float  # seconds that reading the packed bytes alone would take


def in_turn(rounds: int, *actions: Callable[[], Any]) -> list[list[float]]:
    """What the actions return, or their seconds where that is None, round after round; the first
    round warms up and is left out."""
    found: list[list[float]] = [[] for _ in actions]
    for _ in trange(rounds + 1, disable=None, leave=False):
        for values, action in zip(found, actions, strict=True):
            start = time.perf_counter()
            given = action()
            values.append(time.perf_counter() - start if given is None else given)
    return [values[1:] for values in found]


def compared(what: str, packed: list[float], dense: list[float], floor: float) -> Line:
    ratios = [theirs / ours for ours, theirs in zip(packed, dense, strict=True)]
    middle = statistics.median
    return Line(what, middle(packed), middle(dense), middle(ratios), floor)


@torch.inference_mode()
def product(bench: Bench, rounds: int) -> tuple[Line, float, float]:
    """Batch 1, 3 planes: (line, share of the bandwidth, bandwidth in bytes a second)."""
    memory, stacks, scale = bench.packed(3)
    x = torch.randn(1, bench.columns).bfloat16()

    def ours() -> None:
        for planes in stacks:
            kernels.coded_linear(x, planes, scale, bench.rows)

    def theirs() -> None:
        for weight in bench.dense:
            F.linear(x, weight)

    def read() -> None:
        if native.variants():
            native.read(memory)
        else:
            memory.view(torch.int64).sum()

    packed, dense, reading = in_turn(rounds, ours, theirs, read)
    each, bandwidth = memory.nbytes / len(stacks), memory.nbytes / min(reading)
    line = compared(
        f"{bench.rows}x{bench.columns}, 3 planes, batch 1",
        [t / len(stacks) for t in packed],
        [t / len(bench.dense) for t in dense],
        each / bandwidth,
    )
    return line, min(reading) / min(packed), bandwidth


def dense_twin(model: Any) -> Any:
    """The dense model that computes what `model` does now."""
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
    return torch.arange(tokens)[None] * 37 % model.config.vocab_size


class Clock(BaseStreamer):
    """Notes when `generate` gives a token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def seconds_per_token(model: Any, tokens: int) -> float:
    """Median over the tokens that `generate` gives after the first."""
    clock = Clock()
    model.generate(
        prompt(model, PROMPT), do_sample=False, min_new_tokens=tokens + 1,
        max_new_tokens=tokens + 1, streamer=clock,
    )  # fmt: skip
    given = clock.times[1:]  # the first is the prompt
    return statistics.median(b - a for a, b in pairwise(given))


@torch.inference_mode()
def decode(what: str, model: Any, twin: Any, rounds: int, tokens: int, bandwidth: float) -> Line:
    packed, dense = in_turn(
        rounds, lambda: seconds_per_token(model, tokens), lambda: seconds_per_token(twin, tokens)
    )
    return compared(what, packed, dense, model.bitstack.resident_bytes / bandwidth)


@torch.inference_mode()
def prefill(model: Any, twin: Any, rounds: int, tokens: int, bandwidth: float) -> Line:
    ids = prompt(model, tokens)

    def run(one: Any) -> None:
        one(ids, use_cache=True, logits_to_keep=1)

    packed, dense = in_turn(rounds, lambda: run(model), lambda: run(twin))
    floor = model.bitstack.resident_bytes / bandwidth
    return compared(f"prefill of {tokens} tokens", packed, dense, floor)


@torch.inference_mode()
def check_twin(model: Any, twin: Any) -> None:
    """They are compared because they compute the same."""
    ids = prompt(model, 8)
    ours, theirs = model(ids).logits.float(), twin(ids).logits.float()
    error = float((ours - theirs).norm() / theirs.norm())
    assert error < 0.05, f"the dense model computes something else: {error}"


def models(config: PretrainedConfig, folder: Path, bandwidth: float, options: Any) -> list[Line]:
    """Decode at 3 planes, prefill, decode at 2 planes."""
    model = load(random_container(folder, config, planes=3))
    twin = dense_twin(model)
    check_twin(model, twin)
    given = model, twin, options.rounds
    lines = []
    for level in (3, 2):
        budgets = model.bitstack.manifest.budgets
        model.bitstack.resize(budgets.resident_bytes([level] * len(model.bitstack.stacks)))
        size = format_bytes(model.bitstack.resident_bytes)
        what = f"decode, {model.bitstack.bits_per_weight:.2f} bits a weight, {size}"
        lines.append(decode(what, *given, options.tokens, bandwidth))
        if level == 3:
            lines.append(prefill(*given, options.prompt, bandwidth))
    return lines


def llama_1b() -> LlamaConfig:
    """The shape of Llama-3.2-1B."""
    return LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
        max_position_embeddings=131_072, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def measure(config: PretrainedConfig, options: Any) -> tuple[Result, list[Line], float]:
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
    parser.add_argument("--columns", type=int, default=11008)
    parser.add_argument("--megabytes", type=int, default=1024, help="copies to go through")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--tokens", type=int, default=16, help="generated in a round")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prefill")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the ratios here; - is stdout"
    )
    options = parser.parse_args()
    result, lines, bandwidth = measure(llama_1b(), options)
    if options.json != "-":
        print_table(result, lines, bandwidth)
    if options.json:
        write_result(options.json, asdict(result))


if __name__ == "__main__":
    main()
