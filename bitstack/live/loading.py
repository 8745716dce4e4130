"""Loads a container into a budget: a transformers model that runs from the packed blocks.

Reads only the blocks that fit. Does not choose the levels, see `container.levels`, and does not
multiply with the blocks, see `kernels`.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from bitstack.container.budget import Budget
from bitstack.container.manifest import Manifest
from bitstack.container.reading import open_container
from bitstack.container.skeleton_of import skeleton_of
from bitstack.container.small_files import GENERATION, check_sums, read_config
from bitstack.errors import UserError
from bitstack.live.attach import attach
from bitstack.live.placement import DeviceMap, check_dtype, placement, spread_out
from bitstack.live.quantizer import mark
from bitstack.machine.allocator import give_back
from bitstack.machine.json_file import reason_of
from bitstack.nn.assemble import assemble
from bitstack.original.hub_cache import Located, locate


def load(
    path: str | Path,
    budget: str | int | Budget | None = None,
    *,
    level: int | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    verify: bool = True,
) -> PreTrainedModel:
    """Loads a container into a memory budget, as a transformers model.

    The model runs from the packed blocks. `model.bitstack` holds its levels, resident bytes and
    bits per weight. `model.generate` also takes a `draft_budget`: the blocks of that smaller
    budget then draft tokens, and the whole model verifies them.

    Args:
        path: Folder of a container, or `owner/name` or `owner/name@revision` on the Hub. From the
            Hub only the files that hold blocks of the budget are downloaded.
        budget: Most bytes of the whole resident model: a number of bytes, "800MB" or "1.5GiB";
            "50%" of the original model's bytes; or "2.5bpw", mean bits of a decomposed weight.
            None loads all blocks. Activations and KV cache come on top.
        level: Load every matrix at this level (number of planes, from 1) instead of a budget.
        device: A device of torch, or "auto" for CUDA where there is one and the CPU elsewhere.
        dtype: Of the activations and of what is dense, such as "bfloat16" or torch.float32; None or
            "auto" for the container's own, in which a budget counts.
        device_map: Instead of a device, as in `from_pretrained`: "auto", a device, or a dict of
            modules. Blocks are not offloaded.
        revision: Branch, tag or commit of a container on the Hub.
        token: Access token for the Hub; None for the one of `hf auth login` or HF_TOKEN.
        verify: Whether checksums are compared, of all that is read now and by later resizes.
            Without, loading takes a little less time and damage goes unnoticed.

    Returns:
        The model in eval mode.

    Raises:
        UserError: The container is missing or damaged, the budget is not understood or below the
            smallest model, both budget and level are given, the device, dtype or device map cannot
            be used, or the Hub does not give the files.

    Example:
        >>> import bitstack
        >>> from transformers import AutoTokenizer
        >>> model = bitstack.load("my-container", budget="1.5GiB")
        >>> model.bitstack.resident_bytes <= 1.5 * 2**30
        True
        >>> tokenizer = AutoTokenizer.from_pretrained("my-container")
        >>> ids = tokenizer("The river", return_tensors="pt").input_ids
        >>> text = tokenizer.decode(model.generate(ids, max_new_tokens=5)[0])
    """
    place_on, spread = placement(device, device_map)
    chosen = check_dtype(dtype)
    place = locate(path, revision=revision, token=token)
    return load_located(
        place, budget, level=level, device=place_on, dtype=chosen, device_map=spread, verify=verify
    )


def load_located(
    place: Located,
    budget: str | int | Budget | None = None,
    *,
    level: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    verify: bool = True,
) -> PreTrainedModel:
    """Loads a container whose folder is known already, as `load` does.

    Args:
        device: One that is usable.
        device_map: Spreads the model from `device` over several; None leaves it there.
    """
    manifest, levels, reader = open_container(place, budget, level, verify=verify)
    try:
        model: Any = skeleton_of(place.folder, manifest, dtype=dtype, verify=verify)
        assemble(
            model, manifest.stacks, manifest.dense, reader, levels,
            device=device, cast=dtype is not None,
        )  # fmt: skip
    finally:
        reader.close()
    if device_map is not None:
        spread_out(model, device_map)
    if model.can_generate() and (place.folder / GENERATION).exists():
        model.generation_config = _generation_config(place.folder, manifest, verify)
    give_back()
    return mark(attach(model, place, manifest, levels, verify=verify))


def _generation_config(folder: Path, manifest: Manifest, verify: bool) -> GenerationConfig:
    if verify:
        check_sums(folder, manifest, [GENERATION])
    read_config(folder, GENERATION)
    try:
        return GenerationConfig.from_pretrained(folder)
    except Exception as error:  # whatever it makes of wrong values
        raise UserError(
            f"{folder / GENERATION}: cannot be used ({reason_of(error)}); copy it again"
        ) from None
