"""Which device work is done on: the one asked for, or the best there is."""

import os

import torch

from bitstack.errors import UserError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`. UserError for a device that is not there.

    Of several processes on one machine, as torchrun or accelerate start them, each gets the GPU of
    its number; `cuda` means that one from then on.
    """
    if name not in DEVICES:
        raise UserError(f"device {name!r} is unknown; allowed: {', '.join(DEVICES)}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("device cuda: no CUDA device was found; use --device cpu or auto")
    if not there or name == "cpu":
        return "cpu"
    if "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return "cuda"
