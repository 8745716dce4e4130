"""Takes the rows of a model card from a report that was measured before.

So a model is measured once, tasks too. Does not measure; see `metrics.report` and `hub.measured`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bitstack.container.manifest import Manifest
from bitstack.container.planning import PlanRow
from bitstack.errors import UserError
from bitstack.hub.measured import Row, download_bytes, recovery_of
from bitstack.machine.json_file import read_json
from bitstack.metrics.loss.evaluation import Evaluation

_MOST_BYTES = 256 << 20
_SAME = ("floor_bytes", "total_bytes", "checksum")  # of a report and its container


def rows_of_report(
    folder: Path, manifest: Manifest, file: str | Path
) -> tuple[list[Row], Evaluation | None]:
    """Returns one row for every budget of the report, and the evaluation of the original.

    Args:
        folder: The container.
        manifest: Its manifest.
        file: The .json that `compress-model report` wrote.

    Raises:
        UserError: It is no report, or one of another container.
    """
    record = read_json(Path(file), _MOST_BYTES)
    if not isinstance(record, dict) or [record.get(key) for key in _SAME] != [
        manifest.budgets.floor_bytes, manifest.budgets.total_bytes, manifest.checksum,
    ]:  # fmt: skip
        raise UserError(
            f"--report {file}: not the report of {folder}; make it with `compress-model report "
            f"{folder}`"
        )
    try:
        original = record["original"] and _evaluation(record["original"]["scored"])
        return [_row(folder, manifest, row, original) for row in record["rows"]], original
    except (KeyError, TypeError):
        raise UserError(
            f"--report {file}: of another version of bitstack; make it again with `compress-model "
            "report`"
        ) from None


def _row(folder: Path, manifest: Manifest, row: dict[str, Any], original: Evaluation | None) -> Row:
    planned = replace(PlanRow(**row["plan"]), budget=row["name"])
    scored = _evaluation(row["scored"])
    return Row(
        planned, download_bytes(folder, manifest, planned), scored,
        recovery_of(scored, original), row["tasks"],
    )  # fmt: skip


def _evaluation(fields: dict[str, Any] | None) -> Evaluation | None:
    """Reads an evaluation; the card is public, so it names files, not their paths."""
    if fields is None:
        return None
    one = Evaluation(**fields)
    text = one.text if one.text.startswith("hf:") else Path(one.text).name
    return replace(one, text=text, model=Path(one.model).name)
