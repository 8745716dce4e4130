"""The memories of a page lie around the sizes of its model."""

from bitstack.metrics.report import Report
from bitstack.metrics.report.memory import memory_sizes


def test_memories_begin_above_the_floor_and_hold_twice_the_original(report: Report) -> None:
    sizes = memory_sizes(report)
    whole = 2 * max(report.sizes[-1], report.manifest.original_bytes)
    assert sizes == sorted(set(sizes))
    assert report.sizes[0] <= sizes[0] < 2 * report.sizes[0]
    assert whole <= sizes[-1] < 2 * whole
    assert all(size & (size - 1) == 0 or (size // 3) & (size // 3 - 1) == 0 for size in sizes)
