"""Measures the tokens per second of every evaluator, and of its forward passes alone.

    python scripts/bench_evaluators.py --model ../shared/models/stories260K --text FILE

Every evaluator reads a megabyte of text. The batches that it gives the model are recorded and run
again with nothing around them. The time of an evaluator includes tokenising, losses and bootstrap.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitstack.commands.shared import write_result
from bitstack.live.opening import Opened, open_model
from bitstack.metrics.capacity.information_capacity import by_bytes, faithful
from bitstack.metrics.density.measured import windowed_loss
from bitstack.metrics.gap.capacity_gap import capacity_gap
from bitstack.metrics.loss.documents import read_texts
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.text import token_ids

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Result:
    """One evaluator."""

    evaluator: str
    tokens: int  # given to the model, with padding
    passes: int  # forward passes
    tokens_per_second: float
    bare_tokens_per_second: float  # of the forward passes alone
    ratio: float  # tokens_per_second / bare_tokens_per_second


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(SHARED / "models/stories260K"), help="folder")
    text = SHARED / "text/tinystories/tinystories_val.txt"
    parser.add_argument("--text", default=str(text), help="text file")
    parser.add_argument("--bytes", type=int, default=1_000_000, help="bytes of the text to read")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    clock = "wall time, or processor time, which other work on the machine changes less"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=clock)
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE; - is stdout")
    return parser.parse_args()


def evaluators(opened: Opened, options: argparse.Namespace, folder: Path) -> dict[str, Callable]:
    """Returns the evaluators by name, each with all of its work from the text on."""
    model, tokenizer = opened.model, opened.tokenizer
    texts = read_texts(options.text, max_bytes=options.bytes)
    file = folder / "text.txt"
    file.write_text("".join(texts))
    window = model.config.max_position_embeddings // 2
    return {
        "perplexity": lambda: perplexity(model, token_ids(str(file), tokenizer)),
        "information capacity, faithful": lambda: faithful(model, tokenizer, texts),
        "information capacity, bytes": lambda: by_bytes(model, tokenizer, texts),
        "windowed loss": lambda: windowed_loss(model, tokenizer, texts, window),
        "capacity gap": lambda: capacity_gap(model, model, tokenizer, texts),
    }


@contextmanager
def recorded(model: Any) -> Iterator[list[Tensor]]:
    """Yields a list that collects the token ids of every forward pass."""
    batches: list[Tensor] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, words: batches.append(words["input_ids"]), with_kwargs=True
    )
    try:
        yield batches
    finally:
        handle.remove()


@torch.inference_mode()
def bare(model: Any, batches: list[Tensor]) -> None:
    """Runs the forward passes alone."""
    for ids in batches:
        model(input_ids=ids, use_cache=False)


def compare(name: str, run: Callable, model: Any, options: argparse.Namespace) -> Result:
    """Times both in turn, so that other work on the machine slows both."""
    clock = CLOCKS[options.clock]
    with recorded(model) as batches:
        run()
    times: list[list[float]] = [[], []]
    for _ in range(options.repeats):
        for part, work in zip(times, (run, lambda: bare(model, batches)), strict=True):
            start = clock()
            work()
            part.append(clock() - start)
    whole, loop = map(min, times)
    tokens = sum(ids.numel() for ids in batches)
    return Result(name, tokens, len(batches), tokens / whole, tokens / loop, loop / whole)


def main() -> None:
    options = arguments()
    opened = open_model(options.model)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, run in evaluators(opened, options, Path(folder)).items():
            results.append(one := compare(name, run, opened.model, options))
            print(
                f"{name:<32}{one.tokens:>9} tokens{one.tokens_per_second:>10.0f} tokens/s, bare "
                f"{one.bare_tokens_per_second:.0f}: {one.ratio:.1%}",
                flush=True,
            )
    if options.json:
        write_result(options.json, [asdict(one) for one in results])


if __name__ == "__main__":
    main()
