"""Pieces of books in the public domain: prose, plays, and Chinese poems.

All were published before 1930, and their authors and translators died before 1951, so that they are
free in the United States and where copyright ends 70 years after death. Not those that the demo
measures with (`recipes/text/held-out.txt`).
"""

import gzip
import json
from pathlib import Path

from bitstack.errors import UserError
from general_text.pieces import spread, whole

CLASSICS, BOOKS = "text/classics/train.txt.gz", "text/books"
PLAYS, POEMS = "text/shakespeare/tinyshakespeare.txt", "text/chinese/poet.{}.json"
BETWEEN = "<|endoftext|>"  # books of one file

IN_CLASSICS = (
    "From the Earth to the Moon", "A Lost Lady", "Kim", "Anne of Avonlea", "Hamlet",
    "The Gods of Mars", "The Pathfinder", "The Inside of the Cup", "Little Dorrit",
    "Five Children and It", "With the Night Mail", "The Shadowy Third", "Emma",
    "The Man Who Was Thursday", "The Republic", "The Autobiography of Benjamin Franklin",
    "Herland", "Sister Carrie", "Old Christmas", "My Disillusionment in Russia",
    "Why Is the Negro Lynched?", "The Secret Garden", "The Diamond Lens",
    "A Strange Manuscript Found in a Copper Cylinder", "The Return of the Native", "She",
    "Uncle Tom's Cabin", "Mizora: A Prophecy", "A Princess of Mars", "Green Mansions",
    "Tales of the Jazz Age", "Agnes Grey", "The Jungle Book", "Ghost Stories of an Antiquary",
    "Carmilla", "Nature", "The House on the Borderland", "The Prince", "Anna Karenina",
    "The Heart of Princess Osra", "The Beetle",
)  # fmt: skip
IN_BOOKS = (
    "Alices_Adventures_in_Wonderland", "Pride_and_Prejudice", "The_Adventures_of_Tom_Sawyer",
    "The_Wonderful_Wizard_of_Oz", "War_and_Peace",
)  # fmt: skip
OF_A_BOOK = 4  # pieces
OF_PLAYS, OF_POEMS = 24, 40
POEM_BYTES = 1200  # of a piece with several poems


def prose(shared: Path) -> list[str]:
    """Returns pieces of all books: the first of each, then the second of each, and so on."""
    by_title = {_title(book): book for book in _read(shared / CLASSICS).split(BETWEEN)}
    books = [by_title[title] for title in IN_CLASSICS]
    books += [_read(shared / BOOKS / f"{name}.md") for name in IN_BOOKS]
    pieces = [spread(_body(book), OF_A_BOOK) for book in books]
    return [piece for turn in zip(*pieces, strict=True) for piece in turn]


def plays(shared: Path) -> list[str]:
    """Returns scenes of Shakespeare's plays, as speakers and their lines."""
    return spread(_read(shared / PLAYS), OF_PLAYS)


def poems(shared: Path) -> list[str]:
    """Returns poems of the Tang and Song, several in a piece."""
    pieces = []
    for name in ("tang.10000", "song.42000"):
        rows = json.loads(_read(shared / POEMS.format(name)))
        every = [_poem(row) for row in rows if "□" not in "".join(row["paragraphs"])]
        some = every[:: max(1, len(every) // 400)]
        pieces += whole("\n\n".join(some), POEM_BYTES // 3)[: OF_POEMS // 2]
    return pieces


def _poem(row: dict) -> str:
    return "\n".join([row["title"], row["author"], *row["paragraphs"]])


def _title(book: str) -> str:
    return book.partition("# Title: ")[2].partition("\n")[0].strip()


def _body(book: str) -> str:
    """Returns a book without its head of title, author and year."""
    return book.partition("-------")[2]


def _read(file: Path) -> str:
    if not file.is_file():
        raise UserError(f"--shared: {file} is not there; name the folder that holds text/classics")
    data = file.read_bytes()
    data = gzip.decompress(data) if file.suffix == ".gz" else data
    return data.decode().replace("\r\n", "\n")
