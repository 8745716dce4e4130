"""Measures the loss that the 8-bit activations of accuracy "fast" cost, at every level.

    python scripts/loss_of_fast.py CONTAINER TEXT [--tokens 4096] [--dtype float32] [--json FILE]

The cost is the nats per token with "fast" less those with "exact", on the same windows, with all
stacks at the same level. The fast products normally run only in steps of few tokens, as in
generation; here they run on whole windows, so that a text can measure them. "fast" is the default
because the cost stays below 0.001.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack import kernels, load
from bitstack.commands.shared import write_result
from bitstack.container.manifest import read_manifest
from bitstack.kernels import eager
from bitstack.original.source import load_tokenizer

eager.MATMUL_FROM = 1 << 60  # tokens from which another product takes over: never


@torch.inference_mode()
def loss(model: Any, windows: Tensor) -> float:
    """Returns the nats per token of `windows` [n, w], without the first token of each window."""
    total = 0.0
    for ids in windows.split(4):
        scores = model(ids).logits[:, :-1].flatten(0, 1).double()
        total += float(F.cross_entropy(scores, ids[:, 1:].flatten(), reduction="sum"))
    return total / windows[:, 1:].numel()


def measure(folder: Path, text: str, tokens: int, window: int, dtype: torch.dtype) -> list[dict]:
    """Returns the losses and their difference at every level, and prints them."""
    ids = load_tokenizer(folder)(text)["input_ids"][:tokens]
    windows = torch.tensor(ids[: len(ids) // window * window]).view(-1, window)
    rows = []
    for level in range(1, max(s.spec.levels for s in read_manifest(folder).stacks) + 1):
        model = load(folder, level=level).to(dtype)
        losses = {}
        for accuracy in ("exact", "fast"):
            before = kernels.set_accuracy(accuracy)
            losses[accuracy] = loss(model, windows)
            kernels.set_accuracy(before)
        cost = losses["fast"] - losses["exact"]
        rows.append({"level": level, "tokens": windows.numel(), **losses, "cost": cost})
        print(f"level {level}: exact {losses['exact']:.5f}, fast {cost:+.6f} nats", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("container", type=Path, help="folder of the container")
    parser.add_argument("text", type=Path, help="text file")
    parser.add_argument("--tokens", type=int, default=4096, help="use only the first tokens")
    parser.add_argument("--window", type=int, default=256, help="tokens of a window")
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", choices=dtypes, default="float32", help="of the activations")
    parser.add_argument("--json", metavar="FILE", help="write the result to FILE; - is stdout")
    options = parser.parse_args()
    print(f"kernel {kernels.which().name}")
    text, dtype = options.text.read_text(), getattr(torch, options.dtype)
    rows = measure(options.container, text, options.tokens, options.window, dtype)
    if options.json:
        write_result(options.json, rows)


if __name__ == "__main__":
    main()
