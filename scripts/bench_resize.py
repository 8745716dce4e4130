"""Measures how fast a live model grows and shrinks, and whether its memory follows.

    python scripts/bench_resize.py [--json [FILE]]

Makes containers of random signs with the shape of a Llama in a temporary folder. Ratios compare
with reading the same bytes from the page cache into new memory, and, which is harder, into memory
whose pages were touched before. The resident set is measured in processes of their own.
"""

import argparse
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from random_container import random_container
from transformers import LlamaConfig

from bitstack import load, resize
from bitstack.commands.shared import write_result
from bitstack.container.kv_cache import kv_cache_bytes
from bitstack.machine.allocator import give_back
from bitstack.machine.pages import process_bytes
from bitstack.original.skeleton import skeleton

MIB = 1 << 20
CONTEXT = 128  # tokens in the KV cache of the measured process


@dataclass(frozen=True)
class Result:
    """What `--json` holds."""

    grow_ratio: float  # seconds to grow / seconds to read the same bytes into new memory
    shrink_ratio: float  # seconds to shrink / the same
    grow_ratio_warm: float  # seconds to grow / seconds to read them into touched memory
    step_bytes: int  # by which the model grows
    read_ms: float
    grow_ms: float
    shrink_ms: float
    rss_error: float  # largest |resident set / (model + empty process + KV cache) - 1|
    resizes: int  # during generation
    leaked_bytes: int  # resident set after all resizes, less that before
    equal_logits: bool  # bit for bit, at equal budgets


def shape(large: bool) -> LlamaConfig:
    """Returns the config of the model that is timed, or of the small one resized often."""
    sizes: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 8192, "head_dim": 64}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 12}
    if not large:
        sizes = {"hidden_size": 128, "intermediate_size": 352, "head_dim": 32}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
    vocabulary = 32_000 if large else 1024
    return LlamaConfig(
        **sizes, **heads, vocab_size=vocabulary, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=None, max_position_embeddings=8192,
    )  # fmt: skip


def timed(action: Callable[[], object]) -> float:
    """Returns the seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def read_bytes(folder: Path, size: int, into: bytearray | None = None) -> None:
    """Reads the first `size` bytes of the shards, into new memory or into `into`."""
    left = size
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            if into is None:
                left -= len(file.read(left))
            else:
                left -= file.readinto(memoryview(into)[:left])  # type: ignore[operator]
        if not left:
            return
    raise ValueError(f"{folder} holds fewer than {size} bytes")


def speed(folder: Path, step: int, rounds: int) -> dict[str, float]:
    """Times reading, growing and shrinking by about `step` bytes, in turn.

    Returns:
        Median seconds by name, and `size`, the exact bytes.
    """
    model = load(folder, level=1)
    low = model.bitstack.resident_bytes
    size = resize(model, low + step) - low
    warm = bytearray(size)
    names = ("fresh", "warm", "grow", "shrink")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        times["shrink"].append(timed(lambda: resize(model, low)))
        give_back()
        times["fresh"].append(timed(lambda: read_bytes(folder, size)))
        times["warm"].append(timed(lambda: read_bytes(folder, size, warm)))
        times["grow"].append(timed(lambda: resize(model, low + size)))
    return {name: statistics.median(values) for name, values in times.items()} | {"size": size}


def ids(model: Any, tokens: int) -> torch.Tensor:
    """Returns token ids [1, tokens] that differ from one another."""
    return torch.arange(tokens)[None] * 37 % model.config.vocab_size


def empty_process() -> int:
    """Returns the resident bytes of a process that imported torch and the class of the model.

    It made no model and imported nothing of bitstack.
    """
    script = (
        "import os, torch, transformers; transformers.LlamaForCausalLM;"
        "pages = int(open('/proc/self/statm').read().split()[1]);"
        "print(pages * os.sysconf('SC_PAGE_SIZE'))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    return int(done.stdout)


@torch.inference_mode()
def rss_errors(folder: Path, empty: int) -> list[float]:
    """Returns `rss_error` at several budgets of one process, with a KV cache of CONTEXT tokens."""
    model = load(folder, level=1)
    budgets = model.bitstack.manifest.budgets
    low, high = budgets.floor_bytes, budgets.total_bytes
    cache = model(ids(model, CONTEXT), use_cache=True, logits_to_keep=1).past_key_values
    kept = kv_cache_bytes(skeleton(model.config, model.dtype), CONTEXT) or 0
    errors = []
    for part in (0.5, 0.0, 1.0, 0.25, 0.0, 1.0):
        held = resize(model, low + int(part * (high - low)))
        errors.append(abs(process_bytes() / (held + empty + kept) - 1))
    assert cache.get_seq_length() == CONTEXT
    return errors


def during_generation(folder: Path, count: int) -> tuple[int, int, bool]:
    """Resizes a model `count` times while another thread generates.

    Returns:
        Resizes made, bytes leaked, and whether logits are equal at equal budgets.
    """
    rng, model = random.Random(0), load(folder)
    low, high = (getattr(model.bitstack.manifest.budgets, f"{n}_bytes") for n in ("floor", "total"))
    checked = [low, high, *[rng.randint(low, high) for _ in range(6)]]
    expected = {budget: logits(load(folder, budget)) for budget in checked}
    over, failures = threading.Event(), list[BaseException]()

    def generate() -> None:
        while not over.is_set():
            try:
                model.generate(ids(model, 16), max_new_tokens=24, do_sample=False)
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=generate)
    thread.start()
    made, equal, before = 0, True, 0
    for made in range(1, count + 1):
        budget = rng.choice(checked) if made % 10 == 0 else rng.randint(low, high)
        resize(model, budget)
        if made % 10 == 0:
            equal &= torch.equal(logits(model), expected[budget])
        if made == count // 5:  # memory that threads and caches take at first is no leak
            before = settled(model)
    leaked = settled(model) - before
    over.set()
    thread.join()
    if failures:
        raise failures[0]
    return made, leaked, equal


def settled(model: Any) -> int:
    """Returns the resident bytes beyond the model: the least of ten, as the other thread works."""
    excess = []
    for _ in range(10):
        time.sleep(0.02)
        give_back()
        excess.append(process_bytes() - model.bitstack.resident_bytes)
    return min(excess)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    """Returns the logits [1, 16, vocabulary] of a fixed prompt."""
    return model(ids(model, 16)).logits.clone()


def alone(action: Callable[..., Any], *args: Any) -> Any:
    """Returns the result of `action` in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(action, args)


def measure(folder: Path, step: int, rounds: int, resizes: int) -> Result:
    """Makes the containers in `folder` and measures; `step` is in bytes."""
    large = random_container(folder / "large", shape(True), planes=4)
    small = random_container(folder / "small", shape(False), planes=8)
    times = alone(speed, large, step, rounds)
    errors = alone(rss_errors, large, empty_process())
    made, leaked, equal = alone(during_generation, small, resizes)
    return Result(
        grow_ratio=times["grow"] / times["fresh"],
        shrink_ratio=times["shrink"] / times["fresh"],
        grow_ratio_warm=times["grow"] / times["warm"],
        step_bytes=times["size"],
        read_ms=1e3 * times["fresh"],
        grow_ms=1e3 * times["grow"],
        shrink_ms=1e3 * times["shrink"],
        rss_error=max(errors),
        resizes=made,
        leaked_bytes=leaked,
        equal_logits=equal,
    )


def print_table(result: Result) -> None:
    size = f"{result.step_bytes / MIB:.0f} MiB"
    lines = [
        (f"read {size} from the page cache", f"{result.read_ms:.1f} ms", ""),
        (f"grow by {size}", f"{result.grow_ms:.1f} ms", f"{result.grow_ratio:.2f} x reading"),
        ("", "", f"{result.grow_ratio_warm:.2f} x reading into touched memory"),
        (f"shrink by {size}", f"{result.shrink_ms:.1f} ms", f"{result.shrink_ratio:.2f} x reading"),
        ("resident set against the budget", f"{result.rss_error:.1%}", "worst of 6 budgets"),
        ("resizes during generation", str(result.resizes), f"{result.leaked_bytes} bytes leaked"),
        ("equal logits at equal budget", "yes" if result.equal_logits else "NO", ""),
    ]
    for name, value, note in lines:
        print(f"{name:<38} {value:>10}  {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--step", type=int, default=100, help="MiB to grow and shrink by")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which the median counts")
    parser.add_argument("--resizes", type=int, default=1000, help="resizes during generation")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the result to FILE; - is stdout"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitstack-bench-") as folder:
        result = measure(Path(folder), options.step * MIB, options.rounds, options.resizes)
    if options.json != "-":
        print_table(result)
    if options.json:
        write_result(options.json, asdict(result))


if __name__ == "__main__":
    main()
