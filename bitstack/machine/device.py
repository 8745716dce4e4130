"""Chooses the device of the work: the one that was named, or the best one there is."""

import os

import torch

from bitstack.errors import UserError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> str:
    """Returns `cpu` or `cuda` for `auto`, `cpu` or `cuda`.

    Where torchrun or accelerate started several processes on one machine, each process gets the
    GPU of its LOCAL_RANK, and `cuda` means that GPU from then on.

    Raises:
        UserError: The name is unknown, or `cuda` is named and there is no CUDA device.
    """
    if name not in DEVICES:
        raise UserError(f"device {name!r} is unknown; allowed: {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device cuda: no CUDA device was found; use --device cpu or auto")
    if not available or name == "cpu":
        return "cpu"
    if "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return "cuda"


def product_dtype(device: str) -> torch.dtype:
    """Returns the dtype in which products are fastest on `device`, where all digits do not matter.

    That is bf16 where the GPU or CPU has instructions for it; without them torch computes bf16 more
    slowly than fp32.
    """
    if device == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        able = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return torch.bfloat16 if able else torch.float32
