"""Counts the bytes and numbers that a coded matrix is stored in, without torch.

Does not read or write them; see `kernels.packing` and `kernels.reference`.
"""


def row_bytes(columns: int) -> int:
    """Returns the bytes of one packed row of `columns` bits."""
    return (columns + 7) // 8


def scale_length(rows: int, columns: int, planes: int) -> int:
    """Returns the numbers in the scale set of a level: m + n + 2^j."""
    return rows + columns + 2**planes
