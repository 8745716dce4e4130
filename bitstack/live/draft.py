"""Speculative decoding with one container: the lower levels draft, the whole model verifies.

The draft model is a second model of the same config. It shares all dense tensors with the whole
model, and the planes of every stack whose two levels lie in one chain. What it needs besides, the
scale sets of its lower levels and other planes, is read. Generation itself is transformers'
assisted generation (arXiv 2211.17192); see `live.verify` for the exact text.

Drafts save forwards of the whole model. They save time only where a few tokens together cost
little more than one, and the smaller model little beside the whole one: `scripts/bench_drafts.py`
measures both on a container.
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
from bitstack.live.resident import Resident, resident_of
from bitstack.live.swap import View
from bitstack.live.verify import verifying
from bitstack.machine.sizes import format_bytes
from bitstack.nn import stacks
from bitstack.nn.assemble import assemble, fill
from bitstack.nn.steps import threads_of_generate
from bitstack.original.skeleton import skeleton

# Most tokens of a draft. With one more they must be few enough for the kernels of single tokens.
DRAFT_TOKENS = 5
DRAFT_CONFIDENCE = 0.4  # a draft ends before a token to which it gives a lower probability


def add_drafts(model: Any) -> None:
    """Lets `model.generate` take a `draft_budget`."""
    model.generate = update_wrapper(partial(generate, model), model.generate)


def generate(
    model: Any, *args: Any, draft_budget: str | int | Budget | None = None, **kwargs: Any
) -> Any:
    """Is `model.generate`: transformers' own, with `draft_budget` drafted by the same model.

    Greedy text is that of the whole model: bit for bit on the CPU kernels, up to rounding with
    dense matrices, on CUDA, with another attention than sdpa, or in fp32 where the feed-forward
    width is no multiple of 32 (torch's activation functions round the rest in another way).
    Sampled text has the distribution of the whole model. Tensors of the draft model alone count as
    resident meanwhile.

    Args:
        model: A loaded model.
        args: As in transformers' `generate`; one sequence.
        draft_budget: Budget of the draft model, below what the model holds; None for no drafts.
        kwargs: As in transformers' `generate`.

    Raises:
        UserError: With a draft budget, several sequences, beams or an `assistant_model` are given,
            or the draft model is not smaller than the model.
    """
    plain = partial(type(model).generate, model, *args)
    with threads_of_generate(model):
        if draft_budget is None:
            return plain(**kwargs)
        prompt_tokens = _prompt_tokens(model, args, kwargs)
        with draft(model, draft_budget) as draft_model, verifying(model, prompt_tokens):
            return plain(assistant_model=draft_model, **kwargs)


@contextmanager
def draft(model: Any, budget: str | int | Budget) -> Iterator[Any]:
    """Makes a transformers model at `budget`, to be used as `assistant_model`.

    It follows resizes of the whole model, and lives until the context ends.

    Raises:
        UserError: The budget is below the smallest model, or not below what `model` holds now.
    """
    resident = resident_of(model)
    with resident.guard.levels_lock():
        levels = _draft_levels(resident, budget)
        draft_model = _draft_model(resident, model, levels)
        stacks_by_name = stacks(draft_model)
        view = View([stacks_by_name[entry.name] for entry in resident.manifest.stacks], levels)
        resident.views = [*resident.views, view]
    guard_forward(draft_model, resident.guard)
    try:
        yield draft_model
    finally:
        resident.views = [other for other in resident.views if other is not view]


def _draft_levels(resident: Resident, budget: str | int | Budget) -> list[int]:
    chosen = choose_levels(resident.manifest, budget)
    levels = [min(pair) for pair in zip(chosen, resident.levels, strict=True)]
    if levels == resident.levels:
        size = format_bytes(resident.manifest.budgets.resident_bytes(levels))
        text = budget.text if isinstance(budget, Budget) else budget
        raise UserError(
            f"draft budget {text}: is not below the {size} that the model holds now, so its draft "
            "would be the model itself; give a smaller one, or none"
        )
    return levels


def _draft_model(resident: Resident, model: Any, levels: Sequence[int]) -> Any:
    """Makes a model at `levels` from the tensors of `model`; reads those it lacks."""
    devices = {stack.device for stack in resident.stacks}
    if len(devices) > 1:
        raise UserError(f"draft: the model is on {len(devices)} devices; put it on one")
    manifest = resident.manifest
    reader = resident.reader(levels)
    try:
        shared = _SharedReader(resident, model, reader)
        empty = skeleton(copy.deepcopy(model.config), model.dtype)
        draft_model = assemble(
            empty, manifest.stacks, manifest.dense, shared, levels, device=devices.pop()
        )
        for name, _ in list(draft_model.named_buffers()):  # a constructor's own buffers, too
            if name in shared.own:
                fill(draft_model, name, shared.own[name])
    finally:
        reader.close()
    draft_model.generation_config = copy.deepcopy(model.generation_config)
    draft_model.generation_config.num_assistant_tokens = DRAFT_TOKENS
    draft_model.generation_config.num_assistant_tokens_schedule = "constant"
    draft_model.generation_config.assistant_confidence_threshold = DRAFT_CONFIDENCE
    return draft_model


class _SharedReader:
    """A reader that gives the model's own tensors where it has them, and reads the others."""

    def __init__(self, resident: Resident, model: Any, reader: BlockReader) -> None:
        self.reader = reader
        self.own: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        for entry, stack in zip(resident.manifest.stacks, resident.stacks, strict=True):
            self.own |= {f"{entry.name}.{part}": t for part, t in stack.named_buffers()}

    def get(self, name: str) -> Tensor:
        return self.own[name] if name in self.own else self.reader.get(name)


def _prompt_tokens(model: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Returns the tokens of the prompt. Raises UserError for what cannot be drafted."""
    ids = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs"))
    if isinstance(ids, torch.Tensor) and ids.shape[0] > 1:
        raise UserError(
            f"draft budget: {ids.shape[0]} sequences were given, drafts are for one at a time; "
            "generate them one by one, or without a draft budget"
        )
    config = kwargs.get("generation_config") or model.generation_config
    beams = kwargs.get("num_beams") or config.num_beams or 1
    if beams > 1:
        raise UserError(f"draft budget: num_beams is {beams}, drafts need 1; leave one of them out")
    if kwargs.get("assistant_model") is not None:
        raise UserError("draft budget: an assistant_model was given too; leave one of them out")
    return ids.shape[1] if isinstance(ids, torch.Tensor) else 0
