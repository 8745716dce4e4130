"""Identifies a run by one hash of what it is made from: model files, recipe, text and version."""

import hashlib
from importlib.metadata import version
from pathlib import Path

from bitstack.recipe import Recipe


def fingerprint(model: Path, recipe: Recipe, text_sha256: str | None) -> str:
    """Returns the SHA-256 of a model folder's config and weights, a recipe and a text's own hash.

    Two runs with the same fingerprint write the same container, so one can go on where the other
    stopped. Where the text lies does not matter.
    """
    digest = hashlib.sha256()
    for file in (model / "config.json", *sorted(model.glob("model*.safetensors"))):
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    fields = recipe.model_dump_json(exclude={"calibration"})
    for part in (fields, str(text_sha256), version("bitstack")):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()
