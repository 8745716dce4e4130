"""What the processes of `accelerate launch` or `torchrun` hand each other to share a measurement.

Small Python objects over gloo, on whatever devices the processes compute: accelerate's own
gathering silently gives every process its own part where there is no accelerator.
"""

from datetime import timedelta
from functools import cache
from typing import Any

from bitstack.errors import UserError
from bitstack.machine.workers import processes

_PATIENCE = timedelta(days=7)  # one that dies breaks its connections, which is noticed at once


@cache
def meet() -> Any:
    """A gloo process group of all; None for a process alone. UserError if they cannot meet."""
    if processes()[1] == 1:
        return None
    from torch import distributed

    try:
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return distributed.new_group(backend="gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"processes: they cannot meet ({' '.join(str(error).split())[:200]}); start them with "
            "torchrun --nproc-per-node N or accelerate launch --multi_gpu --num_processes N"
        ) from None


def gathered(own: list[Any]) -> list[Any]:
    """The lists of all processes, one behind the other. UserError if one of them has died."""
    group = meet()
    if group is None:
        return own
    from torch import distributed

    parts: list[Any] = [None] * processes()[1]
    try:
        distributed.all_gather_object(parts, own, group=group)
    except RuntimeError as error:
        raise UserError(
            f"processes: one of them has died ({' '.join(str(error).split())[:200]}); start them "
            "again"
        ) from None
    return [item for part in parts for item in part]
