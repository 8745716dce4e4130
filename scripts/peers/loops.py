"""Loops that several peers share: over their settings, and over the matrices of a model.

Does not measure anything; see `peers.bench`.
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor
from tqdm import tqdm

from bitstack.original.matrix import Matrix
from peers.bench import Bench

Done = Callable[[str, str], bool]


def unmeasured(
    bench: Bench, method: str, bits: Sequence[int], groups: Sequence[int], done: Done, *,
    same: bool = False,
) -> Iterator[tuple[str, str, int, int]]:  # fmt: skip
    """Yields (method, setting, bits, group) of every combination that lacks a row.

    Args:
        bench: The opened model, with the limits.
        method: Name with {} where the group size goes, for example "gptq g{}".
        bits: Bits of a code.
        groups: Group sizes, in weights.
        done: `done(method, setting)` says whether there is a row.
        same: Whether there are rows with the embedding quantised like the linear matrices.
    """
    for group in bench.limits.groups_of(groups):
        for width in bench.limits.bits_of(method.split()[0], bits):
            name, setting = method.format(group), f"{width} bits"
            endings = bench.limits.endings(width, same=same)
            if not all(done(name + ending, setting) for ending in endings):
                yield name, setting, width, group


def quantise_each(
    bench: Bench,
    label: str,
    quantise: Callable[[Tensor], tuple[Tensor, int]],
    matrices: Sequence[Matrix] | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Quantises matrices one by one, without text.

    Args:
        bench: The opened model.
        label: Name of the progress bar.
        quantise: From a weight [rows, columns] to its dequantised value and the bytes stored.
        matrices: Which ones; None: the linear matrices.

    Returns:
        Dequantised weights by parameter, and the bytes of all of them.
    """
    weights, total = {}, 0
    for matrix in tqdm(matrices or bench.linear, desc=label, disable=None):
        value, size = quantise(matrix.of(bench.model.get_parameter(matrix.parameter)))
        weights[matrix.parameter] = value.T if matrix.transposed else value
        total += size
    return weights, total
