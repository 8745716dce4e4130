"""Chooses the sizes of memory that a page or card speaks of, and what fits into them.

Does not count a cache; see `container.kv_cache`.
"""

import math

from bitstack.metrics.report.data import Report


def memory_sizes(report: Report) -> list[int]:
    """Returns powers of two of bytes, and 1.5 times them, as memories are sold.

    From the first that holds the floor to the first that holds twice the larger of the original and
    everything.
    """
    low = report.sizes[0]
    high = 2 * max(report.sizes[-1], report.manifest.original_bytes)
    powers = range(math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 1)
    sizes = sorted(size for power in powers for size in (2**power, 3 * 2**power // 2))
    first = next(size for size in sizes if size >= low)
    last = next(size for size in sizes if size >= high)
    return [size for size in sizes if first <= size <= last]
