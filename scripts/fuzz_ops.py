"""Calls the kernels wrongly in every way known, each in a process of its own; says how it ended.

    python scripts/fuzz_ops.py [--rounds 3] [--seed 0] [--json FILE]

A case is one function of `bitstack.kernels` or operator of `torch.ops.bitstack`, with one argument
made wrong (`scripts/wrong_arguments.py`); sizes are drawn anew in each round. It may end in four
ways: `raise` (an exception of one line), `right` (the result is the reference's), `wrong` (another
result, or one where the reference finds none; an unclear exception counts here too), or `crash`.
The last two are listed, and the exit code is then 1. BITSTACK_KERNEL chooses the kernel. Unix only.
"""

import argparse
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from wrong_arguments import WRONG, right_arguments

from bitstack import kernels
from bitstack.kernels import (
    codes,
    dispatch,
    learning,
    native,
    outliers,
    reference,
    rotation,
    selection,
)  # fmt: skip

_RAISE, _RIGHT, _WRONG = 10, 11, 12
_OUTCOMES = {_RAISE: "raise", _RIGHT: "right", _WRONG: "wrong"}
# AttributeError: what is no tensor at all has not what a tensor has.
_CLEAR = (
    ValueError, TypeError, IndexError, MemoryError, RuntimeError, AttributeError, OverflowError,
)  # fmt: skip
Arguments = dict[str, Any]
Call = Callable[[Arguments], Tensor]


def _dense(a: Arguments) -> Tensor:
    return reference.dequantize(list(a["planes"]), a["scale"], a["rows"], a["columns"])


def _product(a: Arguments) -> Tensor:
    """What a product must be: by the reference, in fp32."""
    planes, x = list(a["planes"]), a["x"].float()
    y = rotation.rotate(x, a["seed"]) if a["seed"] else x
    y = reference.coded_linear(y, planes, a["scale"], a["rows"])
    y = y if a["bias"] is None else y + a["bias"].float()
    return outliers.add_products(y, x, *a["kept"])


def _plain(a: Arguments) -> Tensor:
    y = reference.coded_linear(a["x"].float(), list(a["planes"]), a["scale"], a["rows"])
    return y if a["bias"] is None else y + a["bias"].float()


def _eager(a: Arguments) -> Tensor:
    return kernels.coded_linear(
        a["x"], a["planes"], a["scale"], a["rows"], a["bias"], seed=a["seed"], kept=a["kept"]
    )


def _many(a: Arguments) -> Arguments:
    """The same for 32 tokens, which another path multiplies."""
    x = a["x"]
    return a | {"x": x.repeat(16, *[1] * (x.dim() - 1)) if _repeats(x) else x}


def _repeats(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dim() > 1 and x.layout is torch.strided


def _native(a: Arguments) -> Tensor:
    variant = dispatch.cpu_variant() or selection.variants()[-1]
    signs = rotation.signs(a["x"].shape[-1], a["seed"]) if a["seed"] else None
    parts = a["planes"], a["scale"], a["rows"], a["bias"], signs, a["kept"]
    return native.linear(variant, True, a["x"], *parts)


def _rows_of_outliers(a: Arguments) -> Tensor:
    """By the definition; the operator knows no number of rows, and other rows have no outliers."""
    (positions, values), columns, ids = a["kept"], a["columns"], a["ids"].reshape(-1)
    rows = torch.zeros(len(ids), columns)
    for i, k in (positions // columns == ids.unsqueeze(1)).nonzero().tolist():
        rows[i, positions[k] % columns] += values[k]
    return rows.view(*a["ids"].shape, columns)


def _searched(a: Arguments) -> Tensor:
    levels = codes.Searched(
        a["levels"], a["tables"], [a["u"]] * 2, [a["v"]] * 2, a["products"], a["weights"]
    )
    return codes.descend(levels, a["hessians"], a["code"], a["start"], a["held"])


def _by_weight(a: Arguments) -> Tensor:
    return torch.ones(a["code"].shape)


_op = torch.ops.bitstack
_LINEAR = "x planes scale rows bias"
# name -> (arguments it takes, the call, what it must give; None: only that it does not crash)
TARGETS: dict[str, tuple[str, Call, Call | None]] = {
    "coded_linear": (f"{_LINEAR} seed kept", _eager, _product),
    "coded_linear, 32 tokens": (
        f"{_LINEAR} seed kept", lambda a: _eager(_many(a)), lambda a: _product(_many(a)),
    ),
    "op coded_linear": (
        _LINEAR,
        lambda a: _op.coded_linear(a["x"], a["planes"], a["scale"], a["rows"], a["bias"]),
        _plain,
    ),
    "op input_gradient": (
        "planes scale rows columns grad",
        lambda a: _op.coded_linear_input_gradient(
            a["grad"], a["planes"], a["scale"], a["rows"], a["columns"]),
        lambda a: a["grad"].float() @ _dense(a),
    ),
    "native.linear": (f"{_LINEAR} seed kept", _native, _product),
    "coded_rows": (
        "ids planes scale rows columns",
        lambda a: kernels.coded_rows(a["ids"], a["planes"], a["scale"], a["rows"], a["columns"]),
        lambda a: _dense(a)[a["ids"].long()],
    ),
    "op coded_rows": (
        "ids planes scale rows columns",
        lambda a: _op.coded_rows(a["ids"], a["planes"], a["scale"], a["rows"], a["columns"]),
        lambda a: _dense(a)[a["ids"].long()],
    ),
    "dequantize": (
        "planes scale rows columns",
        lambda a: kernels.dequantize(a["planes"], a["scale"], a["rows"], a["columns"]),
        _dense,
    ),
    "op dequantize": (
        "planes scale rows columns",
        lambda a: _op.dequantize(a["planes"], a["scale"], a["rows"], a["columns"]),
        _dense,
    ),
    "rotate": (
        "x seed",
        lambda a: kernels.rotate(a["x"], a["seed"]),
        lambda a: rotation.rotate(a["x"].float(), a["seed"]) if a["seed"] else a["x"],
    ),
    "op rotate": (
        "x seed",
        lambda a: _op.rotate(a["x"], a["seed"], False),
        lambda a: rotation.rotate(a["x"].float(), a["seed"]) if a["seed"] else a["x"],
    ),
    "op outlier_rows": (
        "ids kept columns",
        lambda a: _op.outlier_rows(a["ids"], *a["kept"], a["columns"]),
        _rows_of_outliers,
    ),
    "codes.values": (
        "code u v table bits",
        lambda a: codes.values(a["code"], a["bits"], a["table"], a["u"], a["v"]),
        lambda a: a["table"][a["code"].int() & (2 ** a["bits"] - 1)]
        * a["u"].unsqueeze(1) * a["v"],
    ),
    "codes.sum_by_code": (
        "code u v bits",
        lambda a: codes.sum_by_code(a["code"], a["bits"], a["u"], a["v"]).sum().view(1),
        lambda a: (a["u"].sum() * a["v"].sum()).view(1),
    ),
    "learning.spread": (
        "code u v table",
        lambda a: learning.spread(a["code"], a["table"], a["u"], a["v"], _by_weight(a)).cells,
        lambda a: _by_weight(a) * a["u"].unsqueeze(1) * a["v"],
    ),
    "learning.move": (
        "code u v table held",
        lambda a: learning.move(
            a["code"], a["table"], torch.zeros(a["code"].shape), a["u"], a["v"],
            torch.zeros(a["code"].shape, dtype=torch.float16), a["held"], 8),
        None,
    ),
    "codes.descend": (
        "code u v levels tables products weights hessians start held", _searched, None,
    ),
}  # fmt: skip


def outcome(target: str, kind: str, seed: int) -> tuple[int, str]:
    """Makes one wrong call here; returns how it ended, and in words."""
    _, call, expected = TARGETS[target]
    torch.manual_seed(seed)
    arguments = right_arguments(random.Random(seed))
    WRONG[kind][1](arguments)
    try:
        result = call(arguments)
    except _CLEAR as error:
        text = str(error).strip()
        clear = "\n" not in text or isinstance(error, RuntimeError)
        return (_RAISE if clear and text else _WRONG), f"{type(error).__name__}: {text[:150]}"
    except BaseException as error:
        return _WRONG, f"unclear {type(error).__name__}: {str(error)[:150]}"
    return (_RIGHT, "") if expected is None else _compared(result, expected, arguments)


def _compared(result: Tensor, expected: Call, arguments: Arguments) -> tuple[int, str]:
    try:
        right = expected(arguments)
    except Exception as error:
        return _WRONG, f"a result, where the reference says {type(error).__name__}: {error}"
    if result.device.type == "meta" or right.device.type == "meta":
        return (_RIGHT if result.shape == right.shape else _WRONG), "shape on meta"
    if result.shape != right.shape:
        return _WRONG, f"shape {list(result.shape)}, not {list(right.shape)}"
    error = float((result.double() - right.double()).norm() / (right.double().norm() + 1e-6))
    close = 0.1 if result.element_size() == 1 else 3e-2  # of a float8; of `fast` with AVX2
    return (_RIGHT if error < close else _WRONG), f"relative error {error:.3f}"


def in_child(target: str, kind: str, seed: int) -> tuple[str, str]:
    """Makes one wrong call in a forked child; returns one of the four ways, and words."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # whoever hangs has crashed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code, text = outcome(target, kind, seed)
        os.write(writer, text.encode()[:1000])
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return _OUTCOMES.get(code, "crash"), text or f"exit code {code}"


def cases() -> list[tuple[str, str]]:
    """All pairs of a function and a way to call it wrongly."""
    return [
        (target, kind)
        for target, (names, _, _) in TARGETS.items()
        for kind, (argument, _) in WRONG.items()
        if argument in names.split()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="sizes to call each case with")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--json", type=Path, help="write outcomes to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has one thread
    for _, call, _ in TARGETS.values():  # torch makes its operators ready once, for all children
        call(right_arguments(random.Random(options.seed)))
    table: dict[str, Counter[str]] = {target: Counter() for target in TARGETS}
    bad: list[str] = []
    for seed in range(options.seed, options.seed + options.rounds):
        for target, kind in cases():
            way, text = in_child(target, kind, seed)
            table[target][way] += 1
            if way in ("wrong", "crash"):
                bad.append(f"{way}: {target}, {kind}, seed {seed}: {text}")
    ways = ["raise", "right", "wrong", "crash"]
    print(f"kernel {kernels.which().name}; {len(WRONG)} kinds of wrong arguments")
    print(f"{'function':<26}" + "".join(f"{way:>8}" for way in ways))
    for target, counts in table.items():
        print(f"{target:<26}" + "".join(f"{counts[way]:>8}" for way in ways))
    total = sum(table.values(), Counter())
    print(f"{'all':<26}" + "".join(f"{total[way]:>8}" for way in ways))
    print("\n".join(bad))
    if options.json:
        options.json.write_text(json.dumps({"outcomes": table, "bad": bad}, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
