"""Identifies a run by one hash of what it is made from: model files, recipe, text and version."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bitstack.recipe import Recipe


def fingerprint(files: Sequence[Path], recipe: Recipe, text_sha256: str | None) -> str:
    """Returns the SHA-256 of a model's files, a recipe and a text's own hash.

    Two runs with the same fingerprint write the same container, so one can go on where the other
    stopped. Where the files and the text lie does not matter.

    Args:
        files: Config and weights, those that are read and no others.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    fields = recipe.model_dump_json(exclude={"calibration"})
    for part in (fields, str(text_sha256), version("bitstack")):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()
