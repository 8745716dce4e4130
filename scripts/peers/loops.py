"""Loops that several peers share: over their settings, and over the matrices of a model.

Does not measure anything; see `peers.bench`.
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor
from tqdm import tqdm

from peers.bench import Bench

Done = Callable[[str, str], bool]


def unmeasured(
    method: str, bits: Sequence[int], groups: Sequence[int], done: Done
) -> Iterator[tuple[str, str, int, int]]:
    """Yields (method, setting, bits, group) of every combination that has no row yet.

    Args:
        method: Name with {} where the group size goes, for example "gptq g{}".
        bits: Bits of a code.
        groups: Group sizes, in weights.
        done: `done(method, setting)` says whether there is a row.
    """
    for group in groups:
        for width in bits:
            name, setting = method.format(group), f"{width} bits"
            if not done(name, setting):
                yield name, setting, width, group


def quantise_each(
    bench: Bench, label: str, quantise: Callable[[Tensor], tuple[Tensor, int]]
) -> tuple[dict[str, Tensor], int]:
    """Quantises the linear matrices one by one, without text.

    Args:
        bench: The opened model.
        label: Name of the progress bar.
        quantise: From a weight [rows, columns] to its dequantised value and the bytes stored.

    Returns:
        Dequantised weights by parameter, and the bytes of all of them.
    """
    weights, total = {}, 0
    for matrix in tqdm(bench.linear, desc=label, disable=None):
        value, size = quantise(matrix.of(bench.model.get_parameter(matrix.parameter)))
        weights[matrix.parameter] = value.T if matrix.transposed else value
        total += size
    return weights, total
