"""Pieces of this project's own files, as they were at one commit: code, documents and data.

A commit never changes, so that the script makes the same text again after the project went on.
"""

import io
import subprocess
import tarfile
from fnmatch import fnmatchcase
from pathlib import Path

from bitstack.errors import UserError
from general_text.pieces import SIZES, whole

ROOT = Path(__file__).parents[2]
REVISION = "0904e34d202f81969a157285150763e3dca0b075"
CODE = (
    "bitstack/*.py", "metrics/*.py", "scripts/*.py", "tests/decompose/*.py", "*.cpp", "*.h",
    "*.inl", "*.js", "*.css", "*.j2", "*.sh",
)  # fmt: skip
DOCUMENTS = ("*.md", "*.yaml", "*.yml", "*.toml", "*.jinja")
DATA = ("recipes/[cd]*-*-*.json", "recipes/*/config.json", "scripts/quality/*.jsonl")
SPECIAL = ("<|", "<s>", "</s>", "<unk>", "<pad>")  # a tokenizer may take them for its own marks
CODE_SHARE, CODE_BYTES = 4, 230_000  # one piece in so many is taken, up to so many bytes
DOCUMENT_BYTES, DATA_BYTES = 75_000, 1_500  # of all documents; of each file of data


def code(revision: str) -> list[str]:
    """Returns pieces of Python, C++, JavaScript, CSS and templates, from all over the project."""
    files = _files(revision, CODE)
    pieces = [piece for text in files.values() for piece in whole(text, SIZES[0])]
    mixed = [piece for first in range(CODE_SHARE) for piece in pieces[first::CODE_SHARE]]
    return _up_to(mixed, CODE_BYTES)


def documents(revision: str) -> list[str]:
    """Returns pieces of documents (prose and tables) and of data files (JSON)."""
    texts = list(_files(revision, DOCUMENTS).values())
    pieces = [piece for text in texts for piece in whole(text, SIZES[0])]
    mixed = _up_to([*pieces[::2], *pieces[1::2]], DOCUMENT_BYTES)
    data = [text[:DATA_BYTES].rpartition("\n")[0] for text in _files(revision, DATA).values()]
    return [*mixed, *filter(None, data)]


def _up_to(pieces: list[str], size: int) -> list[str]:
    """Returns the first pieces that have `size` bytes together, without special tokens."""
    taken = []
    for piece in pieces:
        if any(mark in piece for mark in SPECIAL):
            continue
        size -= len(piece.encode())
        if size < 0:
            break
        taken.append(piece)
    return taken


def _files(revision: str, patterns: tuple[str, ...]) -> dict[str, str]:
    """Returns the text files of a commit whose path matches one of the patterns, by path."""
    with tarfile.open(fileobj=io.BytesIO(_archive(revision))) as archive:
        chosen = [
            member for member in archive.getmembers()
            if member.isfile() and any(fnmatchcase(member.name, pattern) for pattern in patterns)
        ]  # fmt: skip
        read = {m.name: archive.extractfile(m).read().decode() for m in chosen}  # type: ignore[union-attr]
    return dict(sorted(read.items()))


def _archive(revision: str) -> bytes:
    command = ["git", "-c", "core.autocrlf=false", "archive", revision]  # line ends as committed
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise UserError(
            f"--revision {revision}: git does not know this commit; fetch it, or give another one, "
            "which makes another text"
        )
    return done.stdout
