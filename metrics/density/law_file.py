"""Reads and writes density laws, and reads series of reference models, as JSON files.

Does not fit a law; see `metrics.density.fit`.
"""

import json
import math
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from bitstack.errors import UserError
from bitstack.machine.json_file import reason_of
from bitstack.metrics.density.law import DensityLaw, LossLaw, Protocol, Reference, ScoreLaw
from bitstack.metrics.statistics.least_squares import Fit

FORMAT = 1
SHIPPED = ("classics", "pythia")  # names of the laws in `recipes`


def read_references(path: str | Path) -> list[Reference]:
    """Reads a reference series: a JSON list of objects with parameters, tokens, loss and score.

    A `name` is optional.

    Raises:
        UserError: the file cannot be read, or a row cannot be used; the message names the field.
    """
    rows = _read(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: not a list of objects with parameters, tokens, loss and score")
    names = [str(row.get("name", f"{index}")) for index, row in enumerate(rows, start=1)]
    return [Reference.from_row(row, name) for row, name in zip(rows, names, strict=True)]


def to_json(law: DensityLaw) -> dict[str, Any]:
    """Returns a law as JSON values: the fit, and beside it readable constants with intervals."""
    readable = {
        part.__class__.__name__: {
            name: {"value": value, "interval": _interval(part.intervals[name])}
            for name, value in part.parameters.items()
        }
        for part in (law.loss, law.score)
    }
    return {"format": FORMAT, "constants": readable, **asdict(law)}


def save_law(law: DensityLaw, path: str | Path, **extra: Any) -> None:
    """Writes a law, and beside it the JSON values `extra`, for example how it was measured.

    Raises:
        UserError: the file cannot be written.
    """
    text = json.dumps(to_json(law) | extra, indent=1, allow_nan=False)
    try:
        Path(path).write_text(text + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); name another file"
        ) from None


def load_law(path: str | Path) -> DensityLaw:
    """Reads a law.

    Raises:
        UserError: the file cannot be read or holds no law.
    """
    data = _read(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{path}: not a density law of format {FORMAT}; make one with density fit")
    try:
        loss, score = data["loss"], data["score"]
        law = DensityLaw(
            loss=LossLaw(Fit(**loss["fit"]), tuple(loss["middle"])),
            score=ScoreLaw(Fit(**score["fit"])),
            reference_tokens=float(data["reference_tokens"]),
            references=tuple(Reference(**row) for row in data["references"]),
            protocol=Protocol(**data["protocol"]) if data.get("protocol") else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a broken density law ({error}); make it again") from None
    numbers = [*law.loss.fit.estimates, *law.score.fit.estimates, law.reference_tokens]
    if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
        raise UserError(f"{path}: a broken density law (constants not finite); make it again")
    return law


def named_law(law: str | Path | None) -> DensityLaw:
    """Returns a shipped law by its name, "classics" or "pythia", or that of a file.

    Args:
        law: Name or file; None takes "classics".

    Raises:
        UserError: as in `load_law`.
    """
    name = "classics" if law is None else str(law)
    return _shipped(name) if name in SHIPPED else load_law(name)


def pythia_law() -> DensityLaw:
    """Returns the law of public models, made by `scripts/fit_public_law.py`.

    It was fitted on the published results of 112 checkpoints of Pythia, 70M to 12B parameters
    (arXiv 2304.01373), on LAMBADA. The file says where they come from.
    """
    return _shipped("pythia")


def classics_law() -> DensityLaw:
    """Returns the law of the models made here, by `scripts/fit_reference_law.py`.

    It was fitted on five models of 0.46M to 5.5M parameters (with embeddings), by their loss on
    held-out old books and their score on BLiMP. Its constants are poorly known: five losses, of
    models trained on only two different numbers of tokens, leave one degree of freedom.
    """
    return _shipped("classics")


def _shipped(name: str) -> DensityLaw:
    with as_file(files("bitstack.recipes") / f"density-law-{name}.json") as path:
        return load_law(path)


def _interval(interval: Any) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def _read(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise UserError(f"{path}: cannot be read as JSON ({reason}); check the file") from None
