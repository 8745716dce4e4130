"""Right arguments of every kernel, and the ways to make one of them wrong, for `fuzz_ops.py`.

A way changes the arguments in place. Some are unusual but right, such as no tokens at all.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Arguments = dict[str, Any]
Change = Callable[[Any], Any]
WRONG: dict[str, tuple[str, Callable[[Arguments], None]]] = {}


def right_arguments(chance: random.Random) -> Arguments:
    """Arguments of random sizes by name; every kernel takes some of them."""
    rows, columns = chance.choice([3, 8, 33, 70]), chance.choice([5, 16, 64, 129])
    planes = chance.randint(1, 8)
    count = min(20, rows * columns)
    shape = (rows, (columns + 7) // 8)
    table = torch.randn(2**planes)
    return {
        "rows": rows,
        "columns": columns,
        "x": torch.randn(2, columns),
        "grad": torch.randn(2, rows),
        "planes": [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(planes)],
        "scale": torch.cat([torch.rand(rows) + 0.5, torch.rand(columns) + 0.5, table]).half(),
        "bias": torch.randn(rows),
        "seed": 3,
        "kept": (
            torch.randperm(rows * columns)[:count].sort().values.int(),
            torch.randn(count).half(),
        ),
        "ids": torch.randint(0, rows, (4,)),
        "code": torch.randint(0, 256, (rows, columns), dtype=torch.uint8),
        "u": torch.rand(rows) + 0.5,
        "v": torch.rand(columns) + 0.5,
        "table": table,
        "bits": planes,
        "levels": [2, 4],
        "tables": [torch.randn(4), torch.randn(16)],
        "products": [torch.randn(rows, columns), torch.randn(rows, columns)],
        "weights": torch.ones(2),
        "hessians": torch.eye(min(columns, 64)).repeat(2, 1, 1),
        "start": 0,
        "held": 0,
    }


def _wrong(argument: str, **changes: Change) -> None:
    for name, change in changes.items():

        def apply(arguments: Arguments, change: Change = change) -> None:
            arguments[argument] = change(arguments[argument])

        WRONG[f"{argument}: {name.replace('_', ' ')}"] = argument, apply


def _without_memory(t: Tensor) -> Tensor:
    t.untyped_storage().resize_(0)
    return t


def _moved(index: int, change: Change) -> Change:
    """Changes one of a list of tensors."""
    return lambda ts: [change(t) if i == index % len(ts) else t for i, t in enumerate(ts)]


_OTHER: dict[str, Change] = {
    "on_meta": lambda t: t.to("meta"),
    "complex": lambda t: t.to(torch.complex64),
    "bool": lambda t: t.bool(),
    "a_list": lambda t: t.tolist(),
    "none": lambda t: None,
    "numpy": lambda t: np.asarray(t),
    "sparse": lambda t: t.to_sparse(),
    "without_memory": _without_memory,
    "shorter": lambda t: t[..., :-1],
    "longer": lambda t: torch.cat([t, t[..., -1:]], -1),
    "one_dimension_more": lambda t: t.unsqueeze(0),
    "gaps": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[..., :1].expand(t.shape),
    "empty": lambda t: t[..., :0],
    "a_number": lambda t: t.flatten()[0],
}
_COUNT: dict[str, Change] = {
    "negative": lambda n: -n,
    "zero": lambda n: 0,
    "one_more": lambda n: n + 1,
    "one_less": lambda n: n - 1,
    "eight_more": lambda n: n + 8,
    "2_to_40": lambda n: 2**40,
    "2_to_62": lambda n: 2**62,
    "2_to_70": lambda n: 2**70,
    "a_float": lambda n: float(n),
    "nan": lambda n: float("nan"),
    "none": lambda n: None,
    "text": lambda n: str(n),
    "true": lambda n: True,
}
for _name in (
    "x",
    "scale",
    "bias",
    "ids",
    "grad",
    "code",
    "u",
    "v",
    "table",
    "weights",
    "hessians",
):
    _wrong(_name, **_OTHER)
for _name in ("rows", "columns", "bits", "start", "held"):
    _wrong(_name, **_COUNT)
for _name in ("x", "grad"):
    _wrong(
        _name,
        int64=lambda t: t.long(), float64=lambda t: t.double(), bfloat16=lambda t: t.bfloat16(),
        float8=lambda t: t.to(torch.float8_e4m3fn), no_tokens=lambda t: t[:0],
        negated_view=torch._neg_view, transposed=lambda t: t.T.contiguous().T,
    )  # fmt: skip
_wrong(
    "scale",
    float32=lambda t: t.float(), bfloat16=lambda t: t.bfloat16(), int16=lambda t: t.short(),
    twice=lambda t: torch.cat([t, t]), negated_view=torch._neg_view,
)  # fmt: skip
_wrong("bias", float64=lambda t: t.double(), int32=lambda t: t.int(), half=lambda t: t.half())
_wrong(
    "ids",
    outside=lambda t: t + 1000, negative=lambda t: t - 1000, last_and_one=lambda t: t * 0 + 70,
    int32=lambda t: t.int(), int8=lambda t: t.to(torch.int8), float=lambda t: t.float(),
    smallest=lambda t: t * 0 - 2**63, no_ids=lambda t: t[:0], a_square=lambda t: t.view(2, 2),
)  # fmt: skip
_wrong(
    "seed",
    negative=lambda s: -1, smallest=lambda s: -(2**63), largest=lambda s: 2**63 - 1,
    too_large=lambda s: 2**63, a_float=lambda s: 1.5, nan=lambda s: float("nan"),
    infinite=lambda s: float("inf"), text=lambda s: "3", none=lambda s: None, true=lambda s: True,
)  # fmt: skip
_wrong(
    "planes",
    none=lambda ps: [], nine=lambda ps: (ps * 9)[:9], no_list=lambda ps: ps[0],
    tuple=lambda ps: tuple(ps), one_none=lambda ps: [*ps[:-1], None],
    **{
        f"one_{name}": _moved(-1, change)
        for name, change in {
            **{k: v for k, v in _OTHER.items() if k not in ("none", "a_number")},
            "int8": lambda t: t.view(torch.int8), "float": lambda t: t.float(),
            "int64": lambda t: t.long(), "transposed": lambda t: t.T.contiguous(),
            "flat": lambda t: t.flatten(), "row_less": lambda t: t[:-1],
            "row_more": lambda t: torch.cat([t, t[:1]]),
            "other_order": lambda t: t.T.contiguous().T,
            "every_second_row": lambda t: torch.cat([t, t])[::2],
        }.items()
    },
)  # fmt: skip
for _name, _index in (("positions", 0), ("values", 1)):
    _wrong("kept", **{f"{_name}_{k}": _moved(_index, v) for k, v in _OTHER.items()})
_wrong(
    "kept",
    falling=_moved(0, lambda t: t.flip(0)), negative=_moved(0, lambda t: t - 10_000),
    outside=_moved(0, lambda t: t + 10_000), all_the_same=_moved(0, lambda t: t * 0 + 3),
    least=_moved(0, lambda t: t * 0 - 2**31), most=_moved(0, lambda t: t * 0 + 2**31 - 1),
    one_outside=_moved(0, lambda t: torch.cat([t[:-1], t[-1:] + 10_000])),
    one_negative=_moved(0, lambda t: torch.cat([t[:1] * 0 - 1, t[1:]])),
    one_falls=_moved(0, lambda t: torch.cat([t[-1:], t[:-1]])),
    int64=_moved(0, lambda t: t.long()), int16=_moved(0, lambda t: t.short()),
    float=_moved(0, lambda t: t.float()), values_float32=_moved(1, lambda t: t.float()),
    none_at_all=lambda k: [t[:0] for t in k], one_alone=lambda k: (k[0],),
)  # fmt: skip
_wrong(
    "levels",
    falling=lambda p: p[::-1], nine=lambda p: [2, 9], zero=lambda p: [0, 4], none=lambda p: [],
    many=lambda p: [1, 2, 3, 4, 5, 6, 7, 8, 8], the_same=lambda p: [4, 4], nan=lambda p: [2, None],
)  # fmt: skip
_wrong("tables", short=_moved(1, lambda t: t[:-1]), fewer=lambda ts: ts[:1])
_wrong("products", short=_moved(1, lambda t: t[:-1]), gaps=_moved(1, lambda t: t.T.contiguous().T))
_wrong("hessians", wide=lambda t: torch.zeros(2, 65, 65), narrow=lambda t: t[:, :, :1])
