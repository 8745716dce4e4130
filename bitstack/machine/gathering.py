"""Joins the results of the processes that `accelerate launch` or `torchrun` started.

They are small Python objects, sent over gloo whatever devices the processes compute on:
accelerate's own gathering silently gives every process its own part where there is no accelerator.
"""

from datetime import timedelta
from functools import cache
from typing import Any

from bitstack.errors import UserError
from bitstack.machine.workers import processes

# Long, since a process may work for days; one that dies is noticed by its broken connections.
_TIMEOUT = timedelta(days=7)


@cache
def process_group() -> Any:
    """Returns a gloo process group of all processes; None for a process alone.

    Raises:
        UserError: The processes cannot connect to one another.
    """
    if processes()[1] == 1:
        return None
    from torch import distributed

    try:
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"processes: they cannot meet ({' '.join(str(error).split())[:200]}); start them with "
            "torchrun --nproc-per-node N or accelerate launch --multi_gpu --num_processes N"
        ) from None


def gathered(own: list[Any]) -> list[Any]:
    """Returns the lists of all processes, joined in the order of their ranks.

    Raises:
        UserError: The processes cannot connect, or one of them has died.
    """
    group = process_group()
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
