"""Which device work is done on: the one asked for, or the best there is."""

import torch

from bitstack.errors import UserError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`. UserError for a device that is not there."""
    if name not in DEVICES:
        raise UserError(f"device {name!r} is unknown; allowed: {', '.join(DEVICES)}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("device cuda: no CUDA device was found; use --device cpu or auto")
    return "cuda" if there and name != "cpu" else "cpu"
