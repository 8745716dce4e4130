"""Page, Markdown and JSON hold the same numbers; the page needs no other file."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bitstack.errors import UserError
from bitstack.machine.sizes import format_bytes
from bitstack.metrics.report import Report, html, markdown, write_report

VOID = {"meta", "link", "input", "br"}
HOSTILE = "</script><img src=x onerror=alert(1)>|`{{ 7*7 }}`"


class Tags(HTMLParser):
    """Checks that every tag is closed, and collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_the_page_is_whole_and_needs_nothing_else(report: Report) -> None:
    page = html(report)
    tags = parsed(page)
    assert tags.addresses == ["data:,"]
    assert {"svg", "table", "input", "button"} <= tags.names
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_page_and_markdown_say_the_same_numbers(report: Report) -> None:
    page, notes = html(report), markdown(report)
    assert report.original is not None
    for scored in [one.scored for one in (report.original, *report.rows)]:
        assert scored is not None
        for word in (f"{scored.bits_per_byte:.4f}", f"{scored.resident_bytes:,}"):
            assert word in page
            assert word in notes
    assert report.metrics is not None
    for point in report.metrics.points[1:]:
        assert point.gap is not None
        ends = point.gap.intervals["kl"]
        assert ends is not None
        word = f"{point.gap.kl:.4f} ({ends.low:.4f} to {ends.high:.4f})"
        assert word in page
        assert word in notes
    for text in (page, notes):
        assert point.undefined["density"] in text.replace("&#39;", "'")
        assert str(report.manifest.recipe["seed"]) in text
        assert format_bytes(report.manifest.fixed_bytes) in text


def test_task_scores_stand_in_every_file(report: Report, tmp_path: Path) -> None:
    page, notes, numbers = write_report(report, tmp_path / "r.html")
    table = page.read_text().split('id="h-tasks"')[1].split("</table>")[0]
    lines = notes.read_text().split("## Benchmark tasks")[1].split("## ")[0]
    record = json.loads(numbers.read_text())
    assert report.original is not None
    first = report.original.tasks[0]
    assert f"<td>{first.value:.4f} ± {first.standard_error:.4f}</td>" in table
    assert f"| original | {first.value:.4f} ± {first.standard_error:.4f} |" in lines
    for row in report.rows:
        acc, ends = row.tasks[0], row.tasks[0].recovery_interval
        assert ends is not None
        score = f"{acc.value:.4f} ± {acc.standard_error:.4f}"
        kept = f"{acc.recovery:.1%} ({ends.low:.1%} to {ends.high:.1%})"
        assert f"<td>{score}<small>{kept}</small></td>" in table
        assert f"| {row.name} | {score}; {kept} |" in lines
    assert [r["tasks"] for r in record["rows"]] == [
        json.loads(json.dumps([one.to_json() for one in row.tasks])) for row in report.rows
    ]
    assert record["tasks"]["names"] == ["boats", "lambada"]
    assert "perplexity, better ↓<br>24 documents, 0-shot" in table
    assert "perplexity (lower is better), 24 documents" in lines


def test_tasks_without_a_text(report: Report) -> None:
    assert report.original is not None
    unmeasured = {"scored": None, "tokens_per_second": None}
    rows = [replace(row, **unmeasured) for row in report.rows]
    original = replace(report.original, **unmeasured)
    bare = replace(report, original=original, rows=rows, metrics=None)
    page, notes = html(bare), markdown(bare)
    parsed(page)
    assert "Loss was not measured" in page
    assert "Loss and speed were not measured" in notes
    for text in (page, notes):
        assert "Benchmark tasks" in text
        assert "bits per byte" not in text.split("<script")[0].lower()


def test_tables_of_the_markdown_are_whole(report: Report) -> None:
    tables = [part.splitlines() for part in markdown(report).split("\n\n") if part[0] == "|"]
    assert len(tables) >= 4
    for table in tables:
        assert len({line.count("|") for line in table}) == 1, table


def test_names_from_outside_stay_text(report: Report) -> None:
    manifest = report.manifest.model_copy(update={"base_model": HOSTILE})
    rows = [replace(row, name=HOSTILE) for row in report.rows]
    tags = parsed(html(replace(report, manifest=manifest, rows=rows)))
    assert "img" not in tags.names


def test_a_model_without_measurements(experts: Report) -> None:
    page = html(experts)
    parsed(page)
    assert "Quality was not measured" in page
    assert "mean of 4 experts" in page
    assert "Nothing was measured" in markdown(experts)
    assert "Benchmark tasks" not in page + markdown(experts)


def test_files(report: Report, tmp_path: Path) -> None:
    files = write_report(report, tmp_path / "my.report.html")
    assert [file.name for file in files] == ["my.report.html", "my.report.md", "my.report.json"]
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files}
    record = json.loads(files[2].read_text())
    assert record["floor_bytes"] == report.sizes[0]
    assert record["order"][-1]["resident_bytes"] == record["total_bytes"] == report.sizes[-1]
    assert len(record["rows"]) == len(report.rows)
    assert record["metrics"]["points"][0]["budget"] == "original"
    assert record["recipe"] == report.manifest.recipe


@pytest.mark.parametrize("name", ["report", "report.json", "none/report.html"])
def test_a_name_that_cannot_be_written(report: Report, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--output"):
        write_report(report, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
