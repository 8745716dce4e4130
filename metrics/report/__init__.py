"""One page about a container: what every budget costs and gives, and how it was made.

`collect` measures, with the code that the commands run; `write_report` writes the page, and the
same numbers as Markdown and JSON beside it.
"""

from bitstack.metrics.report.data import Measured, Report, Row
from bitstack.metrics.report.figures import collect
from bitstack.metrics.report.render import html, markdown, output_files, write_report

__all__ = [
    "Measured", "Report", "Row", "collect", "html", "markdown", "output_files", "write_report",
]  # fmt: skip
