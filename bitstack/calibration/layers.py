"""Runs a model one decoder layer at a time, forward and backward, over batches of windows.

Only the outer parts (embeddings, final norm, head) and one layer hold weights at once. Does not
observe anything on the way; see `calibration.observers`. Does not store hidden states; see
`calibration.spill`.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bitstack.errors import UserError
from bitstack.machine.allocator import give_back
from bitstack.original.config_facts import text_config
from bitstack.original.matrices import find_layers
from bitstack.original.source import Source

LOGITS_AT_ONCE = 1 << 24  # numbers of one piece of logits, positions x vocabulary: 64 MiB in fp32

_READ_MORE = "read more of the text than their hidden state"

Output = Any  # what a decoder layer returns: a tensor, or a tuple that starts with one


@dataclass
class _Call:
    """Everything but the hidden state that the model passes to one layer (masks, positions)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def stores(self) -> list[MutableMapping[Any, Any]]:
        """Mappings that layers could hand something on in (Gemma 4: keys and values), if empty."""
        given = (*self.args, *self.kwargs.values())
        return [x for x in given if isinstance(x, MutableMapping) and type(x) is not dict]


@dataclass
class LayerRunner:
    """Runs `source` layer by layer over `windows`, a list of int64 id batches [b, length].

    How a model calls its layers differs from model to model. So one pass of the model's own forward
    with stubs for layers records the calls, and `run_layer` repeats them on any hidden state.
    """

    source: Source
    windows: list[Tensor]
    device: str = "cpu"
    dtype: torch.dtype = torch.float32  # of products; hidden states are in fp32
    calls: dict[torch.Size, list[_Call]] = field(default_factory=dict)  # by shape of hidden state
    # What a layer returns beside its hidden state, tensors as marks; None where it returns that
    # alone. A mark that reaches another layer shows that layers hand more on.
    rest: tuple[Tensor | None, ...] | None = None
    form: type[Any] = tuple  # of what a layer returns, where it is more

    def __post_init__(self) -> None:
        name, self.layers = find_layers(self.source.model)
        # Layers that share their weights (Zamba) have each of them.
        names = [n for n, _ in self.source.model.named_parameters(remove_duplicate=False)]
        self.layer_parameters = [
            [n for n in names if n.startswith(f"{name}.{i}.")] for i in range(len(self))
        ]
        taken = {n for inside in self.layer_parameters for n in inside}
        self.outer_parameters = [n for n in names if n not in taken]

    def __len__(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @contextmanager
    def outer_loaded(self) -> Iterator[None]:
        """Within this context the parts outside the decoder layers hold weights."""
        self._load(self.outer_parameters)
        try:
            yield
        finally:
            self.source.release(self.outer_parameters)

    @contextmanager
    def layer_loaded(self, index: int) -> Iterator[nn.Module]:
        """Within this context decoder layer `index` holds weights."""
        self._load(self.layer_parameters[index])
        try:
            yield self.layers[index]
        finally:
            self.source.release(self.layer_parameters[index])
            give_back()  # or the heap grows with every layer: freed pieces lie between held ones

    def _load(self, names: list[str]) -> None:
        self.source.load(names, device=self.device)
        for name in names:
            self.source.check(name)  # before anything is computed from a broken weight

    def embed_all(self) -> list[Tensor]:
        """Returns the hidden states that enter layer 0, one [b, length, width] tensor a batch."""
        self._find_output_form()
        return [self._run_outer(ids)[0] for ids in self.windows]

    def record_calls(self) -> None:
        """Records how the model calls its layers, by one batch of every shape."""
        self._find_output_form()
        for ids in {ids.shape: ids for ids in self.windows}.values():
            self._run_outer(ids)

    def embed_batch(self, batch: int) -> Tensor:
        """Returns the hidden states [b, length, width] of one batch that enter layer 0."""
        return self._run_outer(self.windows[batch])[0]

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        """Returns what layer `index`, which must be loaded, makes of `hidden` [b, length, width].

        Needs the calls that `record_calls` or `embed_all` recorded for this shape.
        """
        call = self.calls[hidden.shape][index]
        with self._products():
            output = self.layers[index](hidden, *call.args, **call.kwargs)
        if any(map(len, call.stores())):
            raise self._not_alone()
        return output[0] if isinstance(output, tuple | list) else output

    def logits(self, batch: int, hidden: Tensor) -> Tensor:
        """Returns the logits of a batch [b, length, V] if the last layer gives `hidden`."""
        return self._run_outer(self.windows[batch], last=hidden)[1]

    def logits_by_part(self, batch: int, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields `logits` a few positions at a time: (positions, logits [b, positions, V]).

        V is the size of the vocabulary. All logits of a batch may not fit into memory; the final
        norm and the head work on each position by itself, so the parts are those of the whole.
        """
        ids = self.windows[batch]
        wide = text_config(self.source.config).vocab_size * len(ids)
        step = max(1, LOGITS_AT_ONCE // wide)
        for start in range(0, ids.shape[1], step):
            part = slice(start, start + step)
            yield part, self._run_outer(ids[:, part], last=hidden[:, part])[1]

    def _find_output_form(self) -> None:
        """Finds out by one real call of layer 0 whether a layer returns a tensor or a tuple."""

        def look(layer: nn.Module, args: Any, output: Output) -> None:
            if isinstance(output, tuple | list):
                self.form = type(output)
                marks = (torch.zeros(()) if isinstance(x, Tensor) else None for x in output[1:])
                self.rest = tuple(marks)
            raise _Stop

        with self.layer_loaded(0) as layer, torch.no_grad():
            handle = layer.register_forward_hook(look)
            self._call_model(self.windows[0][:1, :2])
            handle.remove()

    def _run_outer(self, ids: Tensor, *, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the model with layers that pass their input on; returns (first hidden, logits).

        `last` is what the last layer gives instead. Without it the pass ends there, and the calls
        of the layers are kept for `run_layer`.
        """
        marks = [mark for mark in self.rest or () if mark is not None]
        first: list[Tensor] = []
        calls: list[_Call] = []

        def stub(index: int) -> Callable[..., Output]:
            def forward(hidden: Tensor | None = None, *args: Any, **kwargs: Any) -> Output:
                if hidden is None:
                    raise self._not_alone("take no hidden state as their first argument")
                if any(mark is x for mark in marks for x in (*args, *kwargs.values())):
                    raise self._not_alone()
                first.append(hidden)
                calls.append(_Call(args, kwargs))
                at_end = index == len(self) - 1
                if at_end and last is None:
                    raise _Stop
                result = last if at_end else hidden
                return result if self.rest is None else self.form((result, *self.rest))

            return forward

        with _forwards_replaced(self.layers, stub):
            logits = self._call_model(ids)
        if last is None:
            if not first or first[0].shape[:2] != ids.shape:
                raise self._not_alone("do not work on one hidden state for each token")
            known = self.calls.setdefault(first[0].shape, calls)
            for one, other in zip(known, calls, strict=True):
                if not _equal(one.args, other.args) or not _equal(one.kwargs, other.kwargs):
                    raise self._not_alone()
        return first[0], logits

    def _not_alone(self, what: str = _READ_MORE) -> UserError:
        return UserError(
            f"{self.source.path}: layers of this model {what}, so they cannot be run one by one "
            "over a text; use --calibration none"
        )

    def _products(self) -> torch.autocast:
        """Within it products are computed in `dtype`."""
        reduced = self.dtype != torch.float32
        return torch.autocast(self.device, torch.bfloat16, enabled=reduced)

    def _call_model(self, ids: Tensor) -> Tensor:
        """The model's logits, or `ids` where a hook or a stub has ended the pass early."""
        try:
            with self._products():
                return self.source.model(ids.to(self.device), use_cache=False).logits
        except _Stop:
            return ids


class _Stop(Exception):
    """Ends a forward pass early."""


def _equal(a: Any, b: Any) -> bool:
    """Whether two calls have equal arguments; never, where one could carry a state (a cache)."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping) and type(a) is type(b):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if type(a) in (tuple, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a is b or (isinstance(a, bool | int | float | str) and a == b)


@contextmanager
def _forwards_replaced(
    layers: nn.ModuleList, stub: Callable[[int], Callable[..., Output]]
) -> Iterator[None]:
    """Within this context the `forward` of each layer is `stub(index)`."""
    try:
        for index, layer in enumerate(layers):
            layer.forward = stub(index)
        yield
    finally:
        for layer in layers:
            del layer.forward
