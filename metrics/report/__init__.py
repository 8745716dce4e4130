"""A web page about a container: size, quality and speed at every budget, and how it was made.

`collect` measures with the code of the commands; `write_report` writes the page, and the same
numbers as Markdown and JSON beside it. `compare` puts several on one page. Does not define a
metric; see the other folders of `metrics`.
"""

from bitstack.metrics.report.compare import Comparison, compare, write_comparison
from bitstack.metrics.report.data import Measured, Report, Row
from bitstack.metrics.report.figures import collect
from bitstack.metrics.report.render import html, markdown, output_files, write_report

__all__ = [
    "Comparison", "Measured", "Report", "Row", "collect", "compare", "html", "markdown",
    "output_files", "write_comparison", "write_report",
]  # fmt: skip
