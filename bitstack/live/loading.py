"""A container and a budget in, a transformers model that runs from the packed blocks out.

Only the blocks of the chosen prefix are read. Which levels a budget buys is `budget`'s business,
how the blocks multiply the kernels'.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from bitstack.container.budget import Budget
from bitstack.container.reading import open_container
from bitstack.errors import UserError
from bitstack.live.attach import attach
from bitstack.live.quantizer import mark
from bitstack.machine.pages import give_back
from bitstack.nn.assemble import assemble, check_config
from bitstack.original.hub_cache import Located, locate
from bitstack.original.source import load_config, skeleton


def load(
    path: str | Path | Located,
    budget: str | int | Budget | None = None,
    *,
    level: int | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | bool | None = None,
) -> Any:
    """Load a container into `budget` (`800MB`, `50%`, `2.5bpw`, bytes; None: all there is).

    Returns the transformers model of the container's config; `model.bitstack` tells its levels,
    bytes and bits per weight, and resizes the model while it runs. Its `generate` takes a
    `draft_budget` (see `speculate`). With `level` every stack is at that level instead.

    `path` is a folder or `owner/name` on the Hub, at a `revision` if one is given, with `token` as
    huggingface_hub takes it. From there only the shards come that hold these blocks; a later
    larger budget, here or of `resize`, downloads the rest. UserError for a broken container, a
    budget below the floor, a device that cannot be used, and what the Hub does not give.
    """
    check_device(device)
    place = locate(path, revision=revision, token=token)
    folder = place.folder
    manifest, levels, reader = open_container(place, budget, level)
    dtype = getattr(torch, manifest.dtype)
    model: Any = skeleton(load_config(folder), dtype)
    check_config(folder, model, manifest)
    assemble(model, manifest.stacks, manifest.dense, reader, levels, device=device)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    reader.close()
    give_back()
    return mark(attach(model, place, manifest, levels))


def check_device(device: str | torch.device) -> None:
    """UserError for a device that is unknown, not there, or holds no data."""
    try:
        holds = not torch.empty(1, device=device).is_meta
        reason = "it holds no data"
    except (RuntimeError, AssertionError) as error:
        holds, reason = False, str(error).splitlines()[0]
    if not holds:
        raise UserError(f"device {device}: cannot be used ({reason}); use cpu, or cuda if present")
