"""What a run was made from, as one hash: model files, recipe, text, and this program's version."""

import hashlib
from importlib.metadata import version
from pathlib import Path

from bitstack.recipe import Recipe


def fingerprint(model: Path, recipe: Recipe, text_sha256: str | None) -> str:
    """SHA-256 over the model's config and weight files, the recipe and the text's own hash.

    Where the text lies does not matter.
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
