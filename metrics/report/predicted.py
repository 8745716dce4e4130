"""Adds predicted task scores to the rows of a report whose tasks were not run.

They come from the KL divergence of every row from the original, and from the questions that the
rows whose tasks were run have answered. Does not predict itself; see `metrics.tasks.prediction`.
"""

from dataclasses import replace

from bitstack.metrics.report.along_curve import ORIGINAL
from bitstack.metrics.report.data import Report, Row
from bitstack.metrics.tasks.predicted import ScoreAt, Size, fill_in


def with_predicted(report: Report) -> Report:
    """Returns the report with `predicted` of every row whose tasks were not run.

    Rows stay as they are where nothing can be predicted from: without an original, without KL
    divergences, or for tasks without choices. It comes after hours of measuring, so it never fails.
    """
    divergences = _divergences(report)
    if report.tasks is None or report.original is None or not divergences:
        return report
    sizes = [Size(ORIGINAL, None, report.manifest.original_bytes, 0.0, report.original.tasks)]
    for row in report.rows:
        kl = divergences.get(row.name)
        # Rounding may leave no KL, or one below 0: such a size is the original once more.
        if kl is not None and not (row.tasks and kl <= 0):
            size = (row.plan.budget_bytes, row.plan.resident_bytes)
            sizes.append(Size(row.name, *size, max(kl, 0.0), row.tasks))
    if not any(size.scores for size in sizes[1:]):
        return report
    scores: dict[str, list[ScoreAt]] = {size.budget: at for size, at in fill_in(sizes)}
    return replace(report, rows=[_filled(row, scores.get(row.name, [])) for row in report.rows])


def _filled(row: Row, scores: list[ScoreAt]) -> Row:
    return row if row.tasks else replace(row, predicted=tuple(scores))


def _divergences(report: Report) -> dict[str, float]:
    """KL from the original by the names of the rows, nats per token."""
    points = [] if report.metrics is None else report.metrics.points
    return {point.budget: point.gap.kl for point in points if point.gap is not None}
