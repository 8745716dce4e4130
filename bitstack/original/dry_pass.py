"""Runs a model's own forward without its weights: shows how it uses them and what it caches.

A parameter is one zero, spread over its shape without memory, and whatever is computed from a large
one is only given its shape. So a pass takes the memory of its activations, and the model's own code
decides everything: no config is read. Does not judge what it sees; see `original.matrices` and
`container.kv_cache`.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map_only

_LARGE = 1 << 14  # numbers of a parameter with which nothing is computed


class Use(NamedTuple):
    """A torch function that took a parameter, or one entry of it: which, and as which argument."""

    function: str
    argument: int | str  # place or name
    entry: bool


@dataclass
class DryPass:
    """What a pass showed."""

    cache: Any = None  # what the model returns as `past_key_values`, None where it has none
    uses: dict[str, set[Use]] = field(default_factory=lambda: defaultdict(set))  # by parameter
    error: Exception | None = None  # where the model's code needs real values: it stopped there

    def reached(self, parameter: str) -> bool:
        """Returns whether a text reaches the parameter, as far as is known."""
        return self.error is not None or bool(self.uses.get(parameter))


def dry_pass(model: nn.Module, *, tokens: int = 3) -> DryPass:
    """Runs `model` on a text of the ids 1, 2, ... up to `tokens`.

    Its parameters may be on the meta device, its buffers must hold values. The model is as before
    afterwards.
    """
    hollow = {
        name: torch.zeros((), dtype=p.dtype).expand(p.shape) for name, p in model.named_parameters()
    }
    seen = DryPass()
    mode = _Hollow({id(t): name for name, t in hollow.items()}, seen.uses)
    ids = torch.arange(1, 1 + tokens)[None]
    try:
        with torch.no_grad(), _one_expert_at_a_time(model), mode:
            output = functional_call(model, hollow, (ids,), {"use_cache": True})
    except Exception as error:  # whatever a model's code raises without values
        seen.error = error
        return seen
    seen.cache = output.get("past_key_values")
    return seen


@contextmanager
def _one_expert_at_a_time(model: Any) -> Iterator[None]:
    """Within this context transformers' experts are computed by their plain loop."""
    before = getattr(model.config, "_experts_implementation", None)
    try:
        model.set_experts_implementation("eager")
        yield
    finally:
        model.set_experts_implementation(before)


class _Hollow(TorchFunctionMode):
    """Computes only the shape of what is made of a large hollow tensor, and notes uses."""

    def __init__(self, names: dict[int, str], uses: dict[str, set[Use]]) -> None:
        super().__init__()
        self.names, self.uses = names, uses
        self.entries: dict[int, tuple[Tensor, str]] = {}  # kept, so that no id is used again

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        result = _shaped(func, args, kwargs) if any(map(_is_large, tensors)) else None
        if result is None:
            result = func(*args, **kwargs)
        self._note(func, [*enumerate(args), *kwargs.items()], result)
        return result

    def _note(self, func: Any, args: list[tuple[int | str, Any]], result: Any) -> None:
        if not isinstance(result, Tensor):
            return  # sizes, dtypes and the like tell nothing
        for at, arg in args:
            entry = self.entries.get(id(arg))
            name = entry[1] if entry else self.names.get(id(arg))
            if name is None:
                continue
            if func is Tensor.__getitem__ and not entry and arg.ndim == result.ndim + 1:
                self.entries[id(result)] = (result, name)  # what becomes of it is what counts
            else:
                self.uses[name].add(Use(resolve_name(func) or str(func), at, bool(entry)))


def _is_large(tensor: Tensor) -> bool:
    """Whether all of many numbers are one in memory."""
    return tensor.numel() > _LARGE and tensor.untyped_storage().nbytes() <= tensor.itemsize


def _shaped(func: Any, args: Any, kwargs: Any) -> Any:
    """Zeros of the shape that `func` gives; None for a view, and where it cannot be told."""
    metas: set[int] = set()

    def meta(tensor: Tensor) -> Tensor:
        new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        metas.add(new.untyped_storage()._cdata)
        return new

    with torch._C.DisableTorchFunction():
        try:
            shaped = func(*tree_map_only(Tensor, meta, args), **tree_map_only(Tensor, meta, kwargs))
        except Exception:  # needs values, or names a device
            return None
        outputs = [x for x in tree_flatten(shaped)[0] if isinstance(x, Tensor)]
        if not outputs or any(x.untyped_storage()._cdata in metas for x in outputs):
            return None
        return tree_map_only(
            Tensor, lambda x: torch.zeros((), dtype=x.dtype).expand(x.shape).clone(), shaped
        )
