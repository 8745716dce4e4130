"""Makes the general calibration text that is shipped, recipes/text/general.txt.gz.

    python scripts/make_general_text.py --shared ../shared

It is a mixture for models whose use is not known: prose, plays, code, documents, data, questions
and answers, exercises, letters and other languages. Short pieces of all kinds are mixed evenly, so
that every beginning of the text is the same mixture. The same sources give the same bytes.

Licence: every part may be shipped under the project's licence, Apache-2.0. Books, plays and poems
are in the public domain (`general_text/books.py` says which and why). Code, documents and data are
files of this project at one commit. Questions, letters, exercises and texts in other languages were
written for this project (`general_text/written`). Nothing comes from the web, from a data set or
from an evaluation text.
"""

import argparse
import gzip
import io
from pathlib import Path

from general_text import books, drawn, project, written

from bitstack import recipes
from bitstack.commands.shared import errors_in_one_line

SHARED = Path(__file__).resolve().parents[2] / "shared"


def kinds(shared: Path, revision: str) -> dict[str, list[str]]:
    """Returns the pieces of every kind."""
    return {
        "prose": books.prose(shared),
        "plays": books.plays(shared),
        "Chinese poems": books.poems(shared),
        "code": project.code(revision),
        "snippets of code": written.read("snippets"),
        "documents and data": project.documents(revision),
        "questions and answers": written.conversations(),
        "letters": drawn.letters(),
        "exercises and records": drawn.exercises(),
        "other languages": written.languages(),
        "poems": written.read("poems"),
    }


def mixed(kinds: dict[str, list[str]]) -> str:
    """Returns all pieces, those of each kind at equal distances and in their order."""
    placed = [
        ((index + 0.5) / len(pieces), number, piece)
        for number, pieces in enumerate(kinds.values())
        for index, piece in enumerate(pieces)
    ]
    return "\n\n".join(piece for _, _, piece in sorted(placed)) + "\n"


def packed(text: str) -> bytes:
    """Returns the text as a gzip file without name and time, so that its bytes stay the same."""
    file = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as writer:
        writer.write(text.encode())
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("--shared", type=Path, default=SHARED, metavar="FOLDER", help="folder with the books")
    option("--revision", default=project.REVISION, help="commit of the project's own files")
    option("--output", type=Path, default=recipes.general_text(), help="file to write")
    options = parser.parse_args()
    with errors_in_one_line():
        parts = kinds(options.shared, options.revision)
    text = mixed(parts)
    options.output.write_bytes(packed(text))
    for name, pieces in parts.items():
        size = sum(len(piece.encode()) for piece in pieces)
        print(f"{name:22} {len(pieces):4} pieces {size:8,} bytes {size / len(text.encode()):4.0%}")
    print(f"{options.output.name}: {len(text.encode()):,} bytes, {len(packed(text)):,} packed")


if __name__ == "__main__":
    main()
