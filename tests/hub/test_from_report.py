"""A card whose figures are those of a finished report."""

import json
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import ModelCard

from bitstack.hub.card import CARD, PICTURE
from hub_push import NAME, call, fails, push, table
from hub_server import HubServer


def test_a_report_gives_the_card_its_figures(
    hub: HubServer, container: Path, text: Path, tasks_folder: Path,
    pico_model: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    page = tmp_path / "r.html"
    made = call(
        "report", container, "--text", text, "--window", 32, "--original", pico_model("llama-gqa"),
        "--tasks", "boats", "--tasks-folder", tasks_folder, "--no-metrics", "--output", page,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    report = page.with_suffix(".json")
    pushed = push(container, NAME, "--dry-run", "--license", "mit", "--report", report)
    record = json.loads(report.read_text())
    assert [row["planned"]["budget"] for row in pushed["rows"]] == [
        r["name"] for r in record["rows"]
    ]
    card = (container / CARD).read_text()
    scores = table(card.split("## Benchmark tasks")[1])
    assert scores[0] == ["original", f"{record['original']['tasks'][0]['value']:.4g}"]
    for cells, row in zip(scores[1:], record["rows"], strict=True):
        score = row["tasks"][0]
        assert cells == [row["name"], f"{score['value']:.4g} ({100 * score['recovery']:.1f}%)"]
    assert PICTURE in pushed["files"]
    thumbnail = ModelCard(card).data.to_dict()["thumbnail"]
    assert thumbnail == f"https://huggingface.co/{NAME}/resolve/main/{PICTURE}"
    (container / CARD).unlink()
    command = ["push", container, NAME, "--dry-run", "--report", report]
    assert "leave --text and --budget out" in fails(*command, "--text", text)
    record["total_bytes"] += 1
    report.write_text(json.dumps(record))
    assert "not the report of" in fails(*command, "--license", "mit", "--base-model", "a/b")
    assert not (container / CARD).exists()
