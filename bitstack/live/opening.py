"""Opens what a command names as its model: a container at a budget, or an original model.

Tells the two apart by their files. Does not run the model; see `live.generation` and `metrics`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from bitstack.container.budget import Budget
from bitstack.container.levels import budget_bytes
from bitstack.container.recognition import is_container
from bitstack.container.small_files import check_sums, tokenizer_files
from bitstack.errors import UserError
from bitstack.live.loading import load_located
from bitstack.machine.device import pick_device
from bitstack.nn import resident_bytes
from bitstack.original.hub_cache import Located, locate
from bitstack.original.source import load_tokenizer, open_source


@dataclass(frozen=True)
class Opened:
    """A loaded model, its tokenizer and its sizes."""

    model: Any  # a transformers model in eval mode
    tokenizer: Any
    budget_bytes: int | None  # None: no budget was given
    resident_bytes: int  # of all tensors of the loaded model
    original_bytes: int
    bits_per_weight: float  # of a decomposed weight; of every weight in an original model
    parameters: int  # of the original model, tied ones once


def open_model(
    path: str | Path,
    *,
    budget: str | int | Budget | None = None,
    level: int | None = None,
    device: str = "auto",
) -> Opened:
    """Loads a container or an original model, with its tokenizer.

    Args:
        path: Folder, GGUF, or `owner/name` on the Hub.
        budget: Budget of a container, as in `bitstack.load`; None loads all blocks.
        level: Level of every stack of a container, instead of a budget.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: The model cannot be loaded, it is an original model and a budget or level is
            given, or there is no usable tokenizer.
    """
    place_on = pick_device(device)
    place = locate(path)
    if place.gguf is None and is_container(place.folder):
        return _open_container(place, budget, level, place_on)
    if budget is not None or level is not None:
        _refuse_budget(path, place)
    return _open_original(place, place_on)


def _open_container(
    place: Located, budget: str | int | Budget | None, level: int | None, device: str
) -> Opened:
    model: Any = load_located(place, budget, level=level, device=device)
    resident = model.bitstack
    check_sums(place.folder, resident.manifest, tokenizer_files(resident.manifest))
    return Opened(
        model=model,
        tokenizer=load_tokenizer(place.folder),
        budget_bytes=None if budget is None else budget_bytes(resident.manifest, budget),
        resident_bytes=resident.resident_bytes,
        original_bytes=resident.manifest.original_bytes,
        bits_per_weight=resident.bits_per_weight,
        parameters=resident.manifest.parameters,
    )


def _open_original(place: Located, device: str) -> Opened:
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
    open_source(place)  # a folder that holds no model at all gets that error instead
    raise UserError(
        f"{path}: an original model takes no budget or level; compress it first with "
        f"`compress-model run {path} --output DIR` and name that folder"
    )
