"""Runs a model's own forward without its weights: shows how it uses them and what it caches.

In the place of each parameter is a stand-in: one zero, spread over its shape without memory. What
is computed from a large one is zeros of the right shape. So a pass takes the memory of its
activations alone, and the model's own code decides everything: no config is read. Does not judge
what it sees; see `original.matrices` and `container.kv_cache`.
"""

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map_only

_LARGE = 1 << 14  # of stand-ins with more numbers only the shape of a result is computed


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
    rewritten: set[str] = field(default_factory=set)  # parameters that the model itself changes
    error: Exception | None = None  # where the model's code needs real values: it stopped there

    def reached(self, parameter: str) -> bool:
        """Returns whether a text reaches the parameter, as far as is known."""
        return self.error is not None or bool(self.uses.get(parameter))


def dry_pass(model: nn.Module, *, tokens: int = 3) -> DryPass:
    """Runs `model` on a text of the ids 1, 2, ... up to `tokens`.

    Its parameters may be on the meta device, its buffers must hold values. The model is as before
    afterwards.
    """
    stand_ins = {
        name: torch.zeros((), dtype=p.dtype).expand(p.shape) for name, p in model.named_parameters()
    }
    buffers = {name: b.detach().cpu().clone() for name, b in model.named_buffers()}
    seen = DryPass()
    mode = _StandIns({id(t): name for name, t in stand_ins.items()}, seen)
    inputs = (torch.arange(1, 1 + tokens)[None],)
    options = {"use_cache": True, "return_dict": True}
    try:
        other = _copied(model)
        other.set_experts_implementation("eager")  # the plain loop over experts
        with torch.no_grad(), mode:
            output: Any = functional_call(other, {**stand_ins, **buffers}, inputs, options)
        seen.cache = output.get("past_key_values")
    except Exception as error:  # whatever a model's code raises without values
        seen.error = error
    return seen


def _copied(model: Any) -> Any:
    """A copy that shares the tensors: a forward may change attributes of its modules."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class _StandIns(TorchFunctionMode):
    """Computes only the shape of what is made of a large stand-in, and notes uses."""

    def __init__(self, names: dict[int, str], seen: DryPass) -> None:
        super().__init__()
        self.names, self.seen = names, seen
        self.entries: dict[int, tuple[Tensor, str]] = {}  # kept, so that no id is used again

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and _in_place(func) and (name := self.names.get(id(args[0]))):
            self.seen.rewritten.add(name)
            return args[0]
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        result = _shaped(func, args, kwargs) if any(map(_is_large, tensors)) else None
        if result is None:
            result = func(*args, **kwargs)
        if any(isinstance(x, Tensor) for x in tree_flatten(result)[0]):  # no size, dtype, ...
            self._note(func, args, kwargs, result)
        return result

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for at, x in ((at, x) for at, arg in given for x in tree_flatten(arg)[0]):
            entry = self.entries.get(id(x))
            name = entry[1] if entry else self.names.get(id(x))
            if name is None:
                continue
            if not entry and func is Tensor.__getitem__ and _is_one(args[1]):
                self.entries[id(result)] = (result, name)  # what becomes of it is what counts
            else:
                self.seen.uses[name].add(Use(resolve_name(func) or str(func), at, bool(entry)))


def _in_place(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def _is_one(index: Any) -> bool:
    """Whether an index names one entry of the first dimension."""
    return isinstance(index, int) or (isinstance(index, Tensor) and index.ndim == 0)


def _is_large(tensor: Tensor) -> bool:
    """Whether it stands for a large parameter: many numbers that are one in memory."""
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
