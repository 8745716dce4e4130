"""Measures BLiMP at 3 bits per weight against the original: `bench_quality.py --blimp`.

Both models see the same pairs, so the standard error of the difference comes only from the pairs
in which they differ. It is far below that of either accuracy.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fit_reference_law import read_pairs
from numpy.typing import NDArray
from peers.bench import Bench

from bitstack import load
from bitstack.live.opening import open_model
from bitstack.metrics.loss.documents import encode, start_token
from bitstack.metrics.loss.sequence_loss import sequence_losses

BITS = "3bpw"


@dataclass(frozen=True)
class Difference:
    """Accuracies of two models on the same pairs, and their difference."""

    pairs: int
    before: float  # share of pairs that the original gets right
    after: float  # likewise, of the compressed model
    points: float  # after - before, in percentage points
    error: float  # standard error of `points`


def compare(bench: Bench, archive: Path, items: int) -> list[Difference]:
    """Compares every container made so far with the original, and prints the differences."""
    pairs = [pair for _, pair in read_pairs(archive, items)]
    original = won(open_model(bench.folder, device="cpu").model, bench.tokenizer, pairs)
    differences = []
    for folder in sorted((bench.work / "containers").glob(f"{bench.task.model}-*")):
        if "-paper" in folder.name:
            continue
        one = difference(original, won(load(folder, BITS), bench.tokenizer, pairs))
        differences.append(one)
        print(
            f"BLiMP {folder.name} at {BITS}: {one.after:.2%} of {one.pairs} pairs, original "
            f"{one.before:.2%}: {one.points:+.2f} ± {one.error:.2f} points (at most 1 lost: "
            f"{'met' if one.points >= -1 else 'MISSED'})"
        )
    return differences


def won(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> NDArray[np.float64]:
    """Returns 1 for each pair whose first, acceptable sentence is the likelier, 0.5 for a tie."""
    start = [start_token(tokenizer)]
    ids = encode(tokenizer, [sentence for pair in pairs for sentence in pair], special=False)
    nats = sequence_losses(model, [start + one for one in ids], progress=True).nats.reshape(-1, 2)
    return np.sign(nats[:, 1] - nats[:, 0]) / 2 + 0.5


def difference(before: NDArray[np.float64], after: NDArray[np.float64]) -> Difference:
    """Returns the paired comparison of what `won` gives for two models."""
    gained = after - before
    error = 100 * float(gained.std()) / math.sqrt(max(1, len(gained) - 1))
    means = float(before.mean()), float(after.mean())
    return Difference(len(gained), *means, 100 * float(gained.mean()), error)
