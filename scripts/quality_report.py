"""Prints the rows of `bench_quality.py` as tables, and the comparisons that have targets.

The model whose targets are in KL at equal bytes has tables of its own; see `quality_equal`.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import quality_equal
from peers.bench import KL_TOKENS, Row, Task
from quality_curves import Curves, interpolate

from bitstack.commands.tables import console, table

OURS, BEST = "bitstack default", "bitstack best"
PAPER_BITS = (2.2, 3.2, 4.2)
PAPER_TARGETS = {
    "babyllama105": (1 / 15, 1 / 25, 1 / 35),
    "classics-5m": (1 / 7, 1 / 9, 1 / 14),
}
GPTQ_SETTINGS = ("2 bits", "3 bits", "4 bits")  # 2.28, 3.30 and 4.31 with groups of 64
GPTQ_TARGETS = {"babyllama105": (0.2, 0.5, 1.0), "classics-5m": (0.3, 0.6, 1.5)}
TIME_TARGETS = {OURS: 3.0, "bitstack fast": 0.2}


def line(row: Row) -> str:
    """Returns the line that is printed when a row is finished."""
    return (
        f"{row.method:<34} {row.setting:<10} {row.bits_per_weight:6.3f} bits "
        f"{row.resident_bytes:>9} bytes  {row.nll_per_token:.5f} nats  {row.seconds:.1f} s"
    )


def report(
    task: Task,
    rows: Sequence[Row],
    missing: dict[str, str],
    made_by: dict[str, list[str]] | None = None,
) -> None:
    """Prints all tables and comparisons.

    Args:
        task: What the rows measured.
        rows: Those of the original and of all methods.
        missing: Reason why a method has no new rows, by method.
        made_by: Methods that each commit measured, by commit.
    """
    curves, to = Curves(rows), console()
    to.print(rows_table(curves))
    to.print(
        f"{task.model}, {task.tokens} tokens, window and stride {task.window}, fp32; peers are "
        "evaluated with dequantised weights in the original model. View: whole, bytes of "
        "everything resident; linear, embeddings and head dense; both, tools that leave them "
        f"dense in 16 bits anyway. KL from the original over the first "
        f"{min(KL_TOKENS, task.tokens)} tokens.",
        soft_wrap=True,
    )
    if task.model in quality_equal.TARGETS:
        quality_equal.report(curves, task.model)
    else:
        _tiny(curves, task.model)
    for commit, names in (made_by or {}).items():
        to.print(f"measured by {commit}: {'; '.join(names)}", soft_wrap=True)
    for name, reason in missing.items():
        to.print(f"missing: {name}: {reason}", soft_wrap=True)


def _tiny(curves: Curves, model: str) -> None:
    """Prints the comparisons of the tiny models, in increases of the loss."""
    to = console()
    to.print(peers_table(curves))
    lines = [
        f"{OURS}, increase over that of",
        *against_paper(curves, model),
        *against_gptq(curves, model),
        *against_all(curves),
        *(against_all(curves, BEST) if curves.points(BEST, "whole") else []),
    ]
    to.print("\n".join(lines), soft_wrap=True)
    to.print("\n".join(times(curves)), soft_wrap=True)


def rows_table(curves: Curves) -> Any:
    """Returns the table of all rows, by size."""
    columns = [
        "method",
        "setting",
        "view",
        "bits per\nweight",
        "resident\nbytes",
        "nats per\ntoken",
    ]
    grid = table([*columns, "increase", "KL", "seconds"], left=columns[:3])
    for row in sorted([curves.original, *curves.rows], key=lambda r: r.resident_bytes):
        grid.add_row(
            row.method, row.setting, row.view, f"{row.bits_per_weight:.3f}",
            str(row.resident_bytes), f"{row.nll_per_token:.4f}", f"{curves.increase(row):.4f}",
            _number(row.kl_per_token), f"{row.seconds:.1f}",
        )  # fmt: skip
    return grid


def peers_table(curves: Curves) -> Any:
    """Returns the table of the peers beside ours at the same bytes of the whole model."""
    own, own_kl = curves.points(OURS, "whole"), curves.divergences(OURS)
    columns = ["method", "setting", "resident\nbytes", "increase", "ours", "ratio"]
    grid = table([*columns, "KL", "ours"], left=columns[:2])
    peers = [r for r in curves.rows if r.view != "linear" and not r.method.startswith("bitstack")]
    for row in sorted(peers, key=lambda r: r.resident_bytes):
        ours, theirs = interpolate(own, row.resident_bytes), curves.increase(row)
        ratio = _ratio(ours, theirs)
        grid.add_row(
            row.method, row.setting, str(row.resident_bytes), f"{theirs:.4f}",
            _number(ours), "-" if ratio is None else f"{ratio:.2f}", _number(row.kl_per_token),
            _number(interpolate(own_kl, row.resident_bytes)),
        )  # fmt: skip
    return grid


def against_paper(curves: Curves, model: str) -> list[str]:
    """Returns our increase over that of the published algorithm at its best rank, at equal bits."""
    own = curves.points(f"{OURS}, linear only", "linear")
    lines = []
    targets = PAPER_TARGETS.get(model, (None,) * len(PAPER_BITS))
    for bits, target in zip(PAPER_BITS, targets, strict=True):
        papers = [m for m in curves.methods("linear") if m.startswith("paper")]
        theirs = [interpolate(curves.points(m, "linear"), bits) for m in papers]
        known = [t for t in theirs if t is not None]
        ratio = _ratio(interpolate(own, bits), min(known) if known else None)
        lines.append(_compared(f"paper, its best rank, at {bits} bits", ratio, target))
    return lines


def against_gptq(curves: Curves, model: str) -> list[str]:
    """Returns our increase over that of GPTQ in groups of 64, at its bits.

    Likewise over that of AutoRound, the nearest peer, for which no target is set.
    """
    own = curves.points(f"{OURS}, linear only", "linear")
    none = (None,) * len(GPTQ_SETTINGS)
    targets = dict.fromkeys(("gptq g64", "gptqmodel g64"), GPTQ_TARGETS.get(model, none))
    targets |= dict.fromkeys(("auto-round g64", "auto-round g128"), none)
    lines = []
    for method, wanted in targets.items():
        for setting, target in zip(GPTQ_SETTINGS, wanted, strict=True):
            rows = [r for r in curves.rows if (r.method, r.setting) == (method, setting)]
            bits = rows[0].bits_per_weight if rows else None
            ours = interpolate(own, bits) if bits else None
            ratio = _ratio(ours, curves.increase(rows[0]) if rows else None)
            at = f" ({bits:.2f} bits)" if bits else ""
            lines.append(_compared(f"{method}, {setting}{at}", ratio, target))
    return lines


def against_all(curves: Curves, ours: str = OURS) -> list[str]:
    """Returns the peers' points that are as good as ours at equal bytes of the whole model.

    Adds how many points take more bytes than our container with everything loaded.
    """
    own, own_kl = curves.points(ours, "whole"), curves.divergences(ours)
    peers = [r for r in curves.rows if r.view != "linear" and not r.method.startswith("bitstack")]
    better, larger, met = [], [], 0
    top = max(own, default=(0, 0.0))
    for row in peers:
        if own and row.resident_bytes > top[0]:
            larger.append(curves.increase(row))
        increase = interpolate(own, row.resident_bytes)
        if increase is None:
            continue
        if increase < curves.increase(row):
            met += 1
        else:
            kls = row.kl_per_token, interpolate(own_kl, row.resident_bytes)
            better.append(
                f"  {row.method} {row.setting} at {row.resident_bytes} bytes: "
                f"{curves.increase(row):.5f}, ours {increase:.5f}; "
                f"KL {_number(kls[0], 5)}, ours {_number(kls[1], 5)}"
            )
    total = met + len(better)
    lines = [f"whole model, equal bytes: {ours} is below {met} of {total} points of peers", *better]
    if larger:
        lines.append(
            f"  {len(larger)} points of peers are larger than all of it, at {top[0]} bytes "
            f"{top[1]:.5f}; the nearest of them to the original {min(larger):.5f}"
        )
    return lines


def times(curves: Curves) -> list[str]:
    """Returns our time to compress over that of the published algorithm."""
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
