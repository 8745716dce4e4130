"""A web page about a container: size, quality and speed at every budget, and how it was made.

`collect` measures with the same code as the commands; `write_report` writes the page, and the same
numbers as Markdown and JSON beside it. Does not define a metric; see the other folders of
`metrics`.
"""

from bitstack.metrics.report.data import Measured, Report, Row
from bitstack.metrics.report.figures import collect
from bitstack.metrics.report.render import html, markdown, output_files, write_report

__all__ = [
    "Measured", "Report", "Row", "collect", "html", "markdown", "output_files", "write_report",
]  # fmt: skip
