"""Several containers on one page, and only losses that compare are set against each other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitstack.cli import app
from bitstack.errors import UserError
from bitstack.metrics.report import Report, compare, write_comparison, write_report
from chromium import Chromium

OPTIONS: dict[str, Any] = {"window": 32, "max_tokens": 300, "metrics": False}


@pytest.fixture(scope="module")
def earlier(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(report, tmp_path_factory.mktemp("earlier") / "first.html")[2]


def test_a_container_and_an_earlier_report(
    earlier: Path, stacked: Callable[..., Path], documents_file: Path, tmp_path: Path
) -> None:
    other = stacked("llama-gqa")
    made = compare([earlier, other], text=str(documents_file), **OPTIONS)
    assert made.strangers == []
    first, second = made.lines
    assert first.name != second.name, "two folders of one name are told apart"
    assert made.sizes
    for size in made.sizes:
        assert made.at(size)[0] == next(p.loss for p in first.points if p.bytes == size)
    page, notes, numbers = write_comparison(made, tmp_path / "both.html")
    assert "At equal bytes" in page.read_text()
    for text in (page.read_text(), notes.read_text()):
        for line in made.lines:
            for point in line.points:
                assert f"{point.loss:.4f}" in text
    again = compare([numbers])
    assert [line.points for line in again.lines] == [line.points for line in made.lines]
    assert json.loads(numbers.read_text())["reports"][0] == json.loads(earlier.read_text())


def test_losses_on_other_terms_are_not_set_against_one_another(
    earlier: Path, tmp_path: Path
) -> None:
    record = json.loads(earlier.read_text())
    for row in record["rows"]:
        row["scored"]["window"] = 16
    (tmp_path / "other.json").write_text(json.dumps(record))
    made = compare([earlier, tmp_path / "other.json"])
    assert made.strangers == [made.lines[1].name]
    page = write_comparison(made, tmp_path / "p.html")[0].read_text()
    assert "measured on another text" in page
    assert "At equal bytes" not in page


def test_without_a_text_there_is_nothing_to_compare(
    earlier: Path, stacked: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="name a text with --text"):
        compare([earlier, stacked("gpt-2")])
    words = ["report", str(earlier), str(stacked("gpt-2")), "--output", str(tmp_path / "p.html")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_command_compares(earlier: Path, tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    result = CliRunner().invoke(app, ["report", str(earlier), "--output", str(page)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == f"wrote {page}"


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_it_fits_the_screen(earlier: Path, tmp_path: Path, width: int) -> None:
    page = write_comparison(compare([earlier, earlier]), tmp_path / "p.html")[0]
    with Chromium() as browser:
        browser.open(page, width=width)
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.errors == []
        assert browser.requests == [page.resolve().as_uri()]
