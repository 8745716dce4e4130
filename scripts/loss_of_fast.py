"""What the 8-bit activations of the accuracy "fast" cost in loss, at every level of a container.

    python scripts/loss_of_fast.py CONTAINER TEXT [--tokens 4096] [--dtype float32] [--json FILE]

The fast products run in steps of few tokens only. Here whole windows go through them, so that a
text measures what generation gets: nats per token with "fast" less those with "exact", the same
tokens in the same windows, every stack at the same level. "fast" is the default because this stays
below 0.001 everywhere.
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
from bitstack.kernels import ops
from bitstack.original.source import load_tokenizer

ops.MATMUL_FROM = 1 << 60  # tokens: never


@torch.inference_mode()
def loss(model: Any, windows: Tensor) -> float:
    """Nats per token of `windows` [n, w], every token but the first of a window scored."""
    total = 0.0
    for ids in windows.split(4):
        scores = model(ids).logits[:, :-1].flatten(0, 1).double()
        total += float(F.cross_entropy(scores, ids[:, 1:].flatten(), reduction="sum"))
    return total / windows[:, 1:].numel()


def measure(folder: Path, text: str, tokens: int, window: int, dtype: torch.dtype) -> list[dict]:
    ids = load_tokenizer(folder)(text)["input_ids"][:tokens]
    windows = torch.tensor(ids[: len(ids) // window * window]).view(-1, window)
    found = []
    for level in range(1, max(s.spec.levels for s in read_manifest(folder).stacks) + 1):
        model = load(folder, level=level).to(dtype)
        losses = {}
        for accuracy in ("exact", "fast"):
            before = kernels.set_accuracy(accuracy)
            losses[accuracy] = loss(model, windows)
            kernels.set_accuracy(before)
        cost = losses["fast"] - losses["exact"]
        found.append({"level": level, "tokens": windows.numel(), **losses, "cost": cost})
        print(f"level {level}: exact {losses['exact']:.5f}, fast {cost:+.6f} nats", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("container", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", metavar="FILE", help="write all figures here")
    given = parser.parse_args()
    print(f"kernel {kernels.which().name}")
    dtype = getattr(torch, given.dtype)
    found = measure(given.container, given.text.read_text(), given.tokens, given.window, dtype)
    if given.json:
        write_result(given.json, found)


if __name__ == "__main__":
    main()
