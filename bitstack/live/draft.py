"""Self-speculation: the first levels of a model's own blocks draft, the whole model verifies.

A draft is a second model of the same config that shares every dense tensor with the loaded one, and
the planes of every stack whose levels of both nest; other planes and the small scale sets of its
lower levels come on top. The rest is transformers' assisted generation (speculative decoding:
arXiv 2211.17192).

It saves forwards of the whole model, and time only where a few tokens together cost little more
than one and a draft step much less. On CPU cores, where the products of a few tokens already take
their time in arithmetic, it does not: measured on one AVX-512 core (Llama of 0.8 billion weights,
4 planes drafted by 1, every draft right) it took 1.2 times as long as plain decoding.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor

from bitstack.container.budget import Budget
from bitstack.container.levels import choose_levels
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.live.guard import guard_forward
from bitstack.live.resident import Resident, View, resident_of
from bitstack.live.verify import verifying
from bitstack.machine.sizes import format_bytes
from bitstack.nn import stacks
from bitstack.nn.assemble import assemble, fill
from bitstack.nn.steps import threads_of_generate
from bitstack.original.source import skeleton

DRAFT_TOKENS = 5  # at most; with one more they must stay below what kernels take as a few tokens
DRAFT_CONFIDENCE = 0.4  # a draft ends before a token it gives a lower probability


def add_drafts(model: Any) -> None:
    """Let `model.generate` take a `draft_budget`."""
    model.generate = update_wrapper(partial(generate, model), model.generate)


def generate(
    model: Any, *args: Any, draft_budget: str | int | Budget | None = None, **kwargs: Any
) -> Any:
    """transformers' `generate`; with `draft_budget`, drafted by the same model at that budget.

    Greedy text is that of the whole model, on the CPU kernels bit for bit (see `verify`; with
    another attention than sdpa, dense matrices or CUDA up to rounding); sampled text has its
    distribution. Scale sets of the draft, and planes that the model does not hold, count as
    resident meanwhile. For one sequence at a time. UserError for more, for beams, and for a draft
    that is not smaller than the model.
    """
    whole = partial(type(model).generate, model, *args)
    with threads_of_generate(model):
        if draft_budget is None:
            return whole(**kwargs)
        length = _check(model, args, kwargs)
        with draft(model, draft_budget) as small, verifying(model, length):
            return whole(assistant_model=small, **kwargs)


@contextmanager
def draft(model: Any, budget: str | int | Budget) -> Iterator[Any]:
    """A transformers model of the blocks that `budget` buys, for use as `assistant_model`.

    It follows resizes of the whole model, and lives until the context ends. UserError for a
    budget below the floor or not below what the model holds now.
    """
    resident = resident_of(model)
    with resident.guard.turn():
        wanted = _levels(resident, budget)
        small = _share(resident, model, wanted)
        found = stacks(small)
        view = View([found[entry.name] for entry in resident.manifest.stacks], wanted)
        resident.views = [*resident.views, view]
    guard_forward(small, resident.guard)
    try:
        yield small
    finally:
        resident.views = [other for other in resident.views if other is not view]


def _levels(resident: Resident, budget: str | int | Budget) -> list[int]:
    wanted = choose_levels(resident.manifest, budget)
    levels = [min(pair) for pair in zip(wanted, resident.levels, strict=True)]
    if levels == resident.levels:
        size = format_bytes(resident.manifest.budgets.resident_bytes(levels))
        text = budget.text if isinstance(budget, Budget) else budget
        raise UserError(
            f"draft budget {text}: is not below the {size} that the model holds now, so its draft "
            "would be the model itself; give a smaller one, or none"
        )
    return levels


def _share(resident: Resident, model: Any, levels: Sequence[int]) -> Any:
    """A model at `levels` of the tensors that `model` holds; what it lacks is read."""
    where = {stack.device for stack in resident.stacks}
    if len(where) > 1:
        raise UserError(f"draft: the model is on {len(where)} devices; put it on one")
    manifest = resident.manifest
    reader = resident.reader(levels)
    try:
        shared = _Shared(resident, model, reader)
        empty = skeleton(copy.deepcopy(model.config), model.dtype)
        small = assemble(empty, manifest.stacks, manifest.dense, shared, levels, device=where.pop())
        for name, _ in list(small.named_buffers()):  # those a model makes itself, too
            if name in shared.live:
                fill(small, name, shared.live[name])
    finally:
        reader.close()
    small.generation_config = copy.deepcopy(model.generation_config)
    small.generation_config.num_assistant_tokens = DRAFT_TOKENS
    small.generation_config.num_assistant_tokens_schedule = "constant"
    small.generation_config.assistant_confidence_threshold = DRAFT_CONFIDENCE
    return small


class _Shared:
    """A reader that gives the live model's own tensors where it has them."""

    def __init__(self, resident: Resident, model: Any, reader: BlockReader) -> None:
        self.reader = reader
        self.live: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        for entry, stack in zip(resident.manifest.stacks, resident.stacks, strict=True):
            self.live |= {f"{entry.name}.{part}": t for part, t in stack.named_buffers()}

    def get(self, name: str) -> Tensor:
        return self.live[name] if name in self.live else self.reader.get(name)


def _check(model: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """The tokens of the prompt."""
    given = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs"))
    if isinstance(given, torch.Tensor) and given.shape[0] > 1:
        raise UserError(
            f"draft budget: {given.shape[0]} sequences were given, drafts are for one at a time; "
            "generate them one by one, or without a draft budget"
        )
    config = kwargs.get("generation_config") or model.generation_config
    beams = kwargs.get("num_beams") or config.num_beams or 1
    if beams > 1:
        raise UserError(f"draft budget: num_beams is {beams}, drafts need 1; leave one of them out")
    if kwargs.get("assistant_model") is not None:
        raise UserError("draft budget: an assistant_model was given too; leave one of them out")
    return given.shape[1] if isinstance(given, torch.Tensor) else 0
