"""A benchmark whose questions have choices, in the form of its published files."""

import json
from pathlib import Path

import pico

WORDS = pico.TEXT.replace(",", "").replace(".", "").split()


def write_piqa(folder: Path, count: int = 24) -> Path:
    """Writes `count` questions of PIQA, all different, into `folder`, and returns it."""
    rows = [
        {"goal": " ".join(WORDS[i : i + 3]), "sol1": WORDS[i + 3], "sol2": WORDS[i + 7]}
        for i in range(count)
    ]
    (folder / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "valid-labels.lst").write_text("".join(f"{i % 2}\n" for i in range(count)))
    return folder
