"""Pieces written for this project: questions and answers, chats, snippets, other languages.

They lie in the folder `written`, with a line of % between two of them. The poems among them are in
the public domain. Exercises and records are drawn; see `general_text.drawn`.
"""

from itertools import cycle, islice
from pathlib import Path

FOLDER = Path(__file__).parent / "written"
APART = 5
TURNS = (1, 3, 1, 2, 4, 1)  # questions of a conversation, in turn
FORMS = (
    ("User: {}", "Assistant: {}"), ("Question: {}", "Answer: {}"), ("**{}**", "{}"),
    ("### Instruction:\n{}", "### Response:\n{}"), ("Q: {}", "A: {}"), ("- {}", "{}"),
)  # fmt: skip


def read(name: str) -> list[str]:
    """Returns the pieces of one file of the folder."""
    text = (FOLDER / f"{name}.txt").read_text("utf-8")
    return [part.strip("\n") for part in text.split("\n%\n")]


def languages() -> list[str]:
    """Returns the texts in other languages; neighbours in the file, often alike, lie apart."""
    pieces = read("languages")
    return [piece for first in range(APART) for piece in pieces[first::APART]]


def conversations() -> list[str]:
    """Returns every question with its answer once, in conversations of one to four turns."""
    pairs, pieces = iter(read("questions")), []
    for turns, form in zip(cycle(TURNS), cycle(FORMS), strict=False):
        taken = list(islice(pairs, turns))
        if not taken:
            return pieces
        pieces.append("\n\n".join(_turn(pair, form) for pair in taken))
    raise AssertionError


def _turn(pair: str, form: tuple[str, str]) -> str:
    question, _, answer = pair.partition("\n")
    asked, answered = form
    between = "\n" if "\n" not in asked else "\n\n"
    return asked.format(question) + between + answered.format(answer.strip("\n"))
