"""What a command names as a model, made live: a container at a budget, or an original model.

The two are told apart by their files. What is then done with the model is left to the callers.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from bitstack.container.budget import Budget
from bitstack.container.journal import FOLDER
from bitstack.container.levels import budget_bytes
from bitstack.container.manifest import MANIFEST
from bitstack.errors import UserError
from bitstack.live.loading import load
from bitstack.machine.device import pick_device
from bitstack.nn import resident_bytes
from bitstack.original.hub_cache import Located, locate
from bitstack.original.source import load_tokenizer, open_source


@dataclass(frozen=True)
class Opened:
    """A live model and its sizes."""

    model: Any  # a transformers model in eval mode
    tokenizer: Any
    budget_bytes: int | None  # None where no budget in bytes was asked for
    resident_bytes: int  # of all tensors the live model holds
    original_bytes: int
    bits_per_weight: float  # of a decomposed weight; of every weight in an original model
    parameters: int  # of the original model, tied ones once


def is_container(path: str | Path) -> bool:
    """Whether a folder is a container, finished or not."""
    folder = Path(path)
    return (folder / MANIFEST).is_file() or (folder / FOLDER).is_dir() or _says_bitstack(folder)


def open_model(
    path: str | Path,
    *,
    budget: str | int | Budget | None = None,
    level: int | None = None,
    device: str = "auto",
) -> Opened:
    """Load a container at a budget or level (all of it without either), or an original model.

    UserError for what `load` and `open_source` refuse, a budget or level for an original model,
    and a folder without a usable tokenizer.
    """
    where = pick_device(device)
    place = locate(path)
    if is_container(place.folder):
        return _container(place, budget, level, where)
    if budget is not None or level is not None:
        _refuse_budget(path, place)
    return _original(place, where)


def _container(
    place: Located, budget: str | int | Budget | None, level: int | None, device: str
) -> Opened:
    model = load(place, budget, level=level, device=device)
    resident = model.bitstack
    return Opened(
        model=model,
        tokenizer=load_tokenizer(place.folder),
        budget_bytes=None if budget is None else budget_bytes(resident.manifest, budget),
        resident_bytes=resident.resident_bytes,
        original_bytes=resident.manifest.original_bytes,
        bits_per_weight=resident.bits_per_weight,
        parameters=resident.manifest.parameters,
    )


def _original(place: Located, device: str) -> Opened:
    source = open_source(place)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(source.path, dtype=source.dtype)
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source.path}: cannot be loaded: {reason}") from None
    size = resident_bytes(model)
    return Opened(
        model=model.to(device).eval(),
        tokenizer=source.tokenizer(),
        budget_bytes=None,
        resident_bytes=size,
        original_bytes=size,
        bits_per_weight=8 * source.dtype.itemsize,
        parameters=model.num_parameters(),
    )


def _refuse_budget(path: str | Path, place: Located) -> None:
    open_source(place)  # a folder that is no model at all is the first thing to say
    raise UserError(
        f"{path}: an original model takes no budget or level; compress it first with "
        f"`compress-model run {path} --output DIR` and name that folder"
    )


def _says_bitstack(folder: Path) -> bool:
    """A container that lost its manifest still has its config."""
    try:
        config = json.loads((folder / "config.json").read_text())
        return config["quantization_config"]["quant_method"] == "bitstack"
    except (OSError, ValueError, KeyError, TypeError):
        return False
