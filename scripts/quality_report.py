"""What the rows say: tables, and every comparison the project set itself, with its target.

Curves are interpolated in the logarithm of the increase over the original, which falls about
linearly with bits; outside a curve nothing is said.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from peers import METHODS, family
from peers.bench import KL_TOKENS, Row, Task

from bitstack.commands.tables import console, table

OURS, BEST = "bitstack default", "bitstack best"
LEAST = 1e-5  # nats: below this an increase is noise, and its logarithm has no meaning
PAPER_BITS = (2.2, 3.2, 4.2)
PAPER_TARGETS = {
    "babyllama105": (1 / 15, 1 / 25, 1 / 35),
    "classics-5m": (1 / 7, 1 / 9, 1 / 14),
}
GPTQ_SETTINGS = ("2 bits", "3 bits", "4 bits")  # 2.28, 3.30, 4.31 with their groups of 64
GPTQ_TARGETS = {"babyllama105": (0.2, 0.5, 1.0), "classics-5m": (0.3, 0.6, 1.5)}
TIME_TARGETS = {OURS: 3.0, "bitstack fast": 0.2}


def interpolate(points: Sequence[tuple[float, float]], at: float) -> float | None:
    """Increase at `at` on the curve of (size, increase), linear in the logarithm; None outside."""
    curve = sorted(points)
    if not curve or not curve[0][0] <= at <= curve[-1][0]:
        return None
    sizes, increases = zip(*curve, strict=True)
    logs = [math.log(max(increase, LEAST)) for increase in increases]
    return float(math.exp(np.interp(at, sizes, logs)))


class Curves:
    """The rows as curves of increase over the original, by method."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.original = next(r for r in rows if r.method == "original")
        self.rows = [r for r in rows if r is not self.original]

    def increase(self, row: Row) -> float:
        """Nats per token above the original."""
        return row.nll_per_token - self.original.nll_per_token

    def points(self, method: str, view: str) -> list[tuple[float, float]]:
        """(bits of a linear weight, or bytes of the whole model; increase)."""
        return [(_size(r, view), self.increase(r)) for r in self._of(method, view)]

    def divergences(self, method: str, view: str = "whole") -> list[tuple[float, float]]:
        """Likewise (size; KL from the original), where it was measured."""
        found = [(r, r.kl_per_token) for r in self._of(method, view)]
        return [(_size(r, view), kl) for r, kl in found if kl is not None]

    def _of(self, method: str, view: str) -> list[Row]:
        return [r for r in self.rows if r.method == method and r.view in (view, "both")]

    def methods(self, view: str) -> list[str]:
        """Methods with a point in `view`, as `METHODS` has them: whatever was measured first."""
        found = {r.method for r in self.rows if r.view in (view, "both")}
        return sorted(found, key=lambda method: (list(METHODS).index(family(method)), method))


def _size(row: Row, view: str) -> float:
    return row.bits_per_weight if view == "linear" else row.resident_bytes


def line(row: Row) -> str:
    """One row as it is finished."""
    return (
        f"{row.method:<28} {row.setting:<10} {row.bits_per_weight:6.3f} bits "
        f"{row.resident_bytes:>9} bytes  {row.nll_per_token:.5f} nats  {row.seconds:.1f} s"
    )


def report(
    task: Task,
    rows: Sequence[Row],
    missing: dict[str, str],
    made_by: dict[str, list[str]] | None = None,
) -> None:
    """Everything, printed; `made_by`: the methods that each commit measured."""
    curves, to = Curves(rows), console()
    to.print(rows_table(curves))
    to.print(
        f"{task.model}, {task.tokens} tokens, window and stride {task.window}, fp32; peers are "
        "evaluated with dequantised weights in the original model. View: whole, bytes of "
        "everything resident; linear, embeddings and head dense; both, tools that leave them "
        f"dense in 16 bits anyway. KL from the original over the first {KL_TOKENS} tokens.",
        soft_wrap=True,
    )
    to.print(peers_table(curves))
    said = [
        f"{OURS}, increase over that of",
        *against_paper(curves, task.model),
        *against_gptq(curves, task.model),
        *against_all(curves),
        *(against_all(curves, BEST) if curves.points(BEST, "whole") else []),
    ]
    to.print("\n".join(said), soft_wrap=True)
    to.print("\n".join(times(curves)), soft_wrap=True)
    for found, names in (made_by or {}).items():
        to.print(f"measured by {found}: {'; '.join(names)}", soft_wrap=True)
    for name, reason in missing.items():
        to.print(f"missing: {name}: {reason}", soft_wrap=True)


def rows_table(curves: Curves) -> Any:
    """All rows by size."""
    columns = [
        "method",
        "setting",
        "view",
        "bits per\nweight",
        "resident\nbytes",
        "nats per\ntoken",
    ]
    made = table([*columns, "increase", "KL", "seconds"], left=columns[:3])
    for row in sorted([curves.original, *curves.rows], key=lambda r: r.resident_bytes):
        made.add_row(
            row.method, row.setting, row.view, f"{row.bits_per_weight:.3f}",
            str(row.resident_bytes), f"{row.nll_per_token:.4f}", f"{curves.increase(row):.4f}",
            _number(row.kl_per_token), f"{row.seconds:.1f}",
        )  # fmt: skip
    return made


def peers_table(curves: Curves) -> Any:
    """Every peer's point beside ours at the same bytes of the whole model, by size."""
    own, far = curves.points(OURS, "whole"), curves.divergences(OURS)
    columns = ["method", "setting", "resident\nbytes", "increase", "ours", "ratio"]
    made = table([*columns, "KL", "ours"], left=columns[:2])
    peers = [r for r in curves.rows if r.view != "linear" and not r.method.startswith("bitstack")]
    for row in sorted(peers, key=lambda r: r.resident_bytes):
        ours, theirs = interpolate(own, row.resident_bytes), curves.increase(row)
        ratio = _ratio(ours, theirs)
        made.add_row(
            row.method, row.setting, str(row.resident_bytes), f"{theirs:.4f}",
            _number(ours), "-" if ratio is None else f"{ratio:.2f}", _number(row.kl_per_token),
            _number(interpolate(far, row.resident_bytes)),
        )  # fmt: skip
    return made


def against_paper(curves: Curves, model: str) -> list[str]:
    """Our increase over that of the published algorithm at its best rank, at equal bits."""
    own = curves.points(f"{OURS}, linear only", "linear")
    said = []
    targets = PAPER_TARGETS.get(model, (None,) * len(PAPER_BITS))
    for bits, target in zip(PAPER_BITS, targets, strict=True):
        papers = [m for m in curves.methods("linear") if m.startswith("paper")]
        theirs = [interpolate(curves.points(m, "linear"), bits) for m in papers]
        found = [t for t in theirs if t is not None]
        ratio = _ratio(interpolate(own, bits), min(found) if found else None)
        said.append(_compared(f"paper, its best rank, at {bits} bits", ratio, target))
    return said


def against_gptq(curves: Curves, model: str) -> list[str]:
    """Our increase over that of GPTQ in groups of 64 made for each width, at its bits; and over
    AutoRound's, the nearest peer, for which no target is set."""
    own = curves.points(f"{OURS}, linear only", "linear")
    none = (None,) * len(GPTQ_SETTINGS)
    targets = dict.fromkeys(("gptq g64", "gptqmodel g64"), GPTQ_TARGETS.get(model, none))
    targets |= dict.fromkeys(("auto-round g64", "auto-round g128"), none)
    said = []
    for method, wanted in targets.items():
        for setting, target in zip(GPTQ_SETTINGS, wanted, strict=True):
            rows = [r for r in curves.rows if (r.method, r.setting) == (method, setting)]
            bits = rows[0].bits_per_weight if rows else None
            mine = interpolate(own, bits) if bits else None
            ratio = _ratio(mine, curves.increase(rows[0]) if rows else None)
            at = f" ({bits:.2f} bits)" if bits else ""
            said.append(_compared(f"{method}, {setting}{at}", ratio, target))
    return said


def against_all(curves: Curves, ours: str = OURS) -> list[str]:
    """Every peer's point that is not above ours at equal bytes of the whole model, and how many
    take more bytes than all of our planes."""
    own, far = curves.points(ours, "whole"), curves.divergences(ours)
    peers = [r for r in curves.rows if r.view != "linear" and not r.method.startswith("bitstack")]
    better, larger, met = [], [], 0
    top = max(own, default=(0, 0.0))
    for row in peers:
        if own and row.resident_bytes > top[0]:
            larger.append(curves.increase(row))
        mine = interpolate(own, row.resident_bytes)
        if mine is None:
            continue
        if mine < curves.increase(row):
            met += 1
        else:
            better.append(
                f"  {row.method} {row.setting} at {row.resident_bytes} bytes: "
                f"{curves.increase(row):.5f}, ours {mine:.5f}; KL {_number(row.kl_per_token, 5)}, "
                f"ours {_number(interpolate(far, row.resident_bytes), 5)}"
            )
    total = met + len(better)
    said = [f"whole model, equal bytes: {ours} is below {met} of {total} points of peers", *better]
    if larger:
        said.append(
            f"  {len(larger)} points of peers are larger than all of it, at {top[0]} bytes "
            f"{top[1]:.5f}; the nearest of them to the original {min(larger):.5f}"
        )
    return said


def times(curves: Curves) -> list[str]:
    """Time to compress over that of the published algorithm."""
    seconds = defaultdict(float, {r.method: r.seconds for r in curves.rows})
    base = seconds["paper rank 16"]
    return [
        _compared(f"time of {name} over that of paper", _ratio(seconds[name] or None, base), most)
        for name, most in TIME_TARGETS.items()
    ]


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs or theirs <= 0 else ours / theirs


def _compared(what: str, ratio: float | None, target: float | None) -> str:
    if ratio is None:
        return f"{what}: not measured"
    if target is None:
        return f"{what}: {ratio:.4f}"
    verdict = "met" if ratio <= target else f"MISSED by {ratio / target - 1:.0%}"
    return f"{what}: {ratio:.4f}, target at most {target:.4f}, {verdict}"
