"""A model run one decoder layer at a time, forward and backward, over a batch of windows.

Only the outer parts (embeddings, final norm, head) and one layer hold weights at once; hidden
states of the current layer are in memory, those a backward pass needs lie in a spill folder. What
is observed on the way is the caller's: this module calls hooks it does not understand.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bitstack.errors import UserError
from bitstack.original.matrices import find_layers
from bitstack.original.source import Source

LOGITS = 1 << 24  # numbers of a vocabulary's width made at a time: 64 MiB in fp32

Output = Any  # what a decoder layer returns: a tensor, or a tuple that starts with one


@dataclass
class _Call:
    """How the model calls one layer: everything but the hidden state."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class LayerRunner:
    """Runs `source` layer by layer over `windows`, a list of int64 id batches [b, length]."""

    source: Source
    windows: list[Tensor]
    device: str = "cpu"
    calls: dict[torch.Size, list[_Call]] = field(default_factory=dict)  # by shape of hidden state
    as_tuple: bool = False

    def __post_init__(self) -> None:
        name, self.layers = find_layers(self.source.model)
        names = [n for n, _ in self.source.model.named_parameters()]
        self.inside = [[n for n in names if n.startswith(f"{name}.{i}.")] for i in range(len(self))]
        taken = {n for inside in self.inside for n in inside}
        self.outside = [n for n in names if n not in taken]

    def __len__(self) -> int:
        return len(self.layers)

    @contextmanager
    def outer(self) -> Iterator[None]:
        """The parts outside the layers are loaded within this context."""
        self._load(self.outside)
        try:
            yield
        finally:
            self.source.release(self.outside)

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """Decoder layer `index` is loaded within this context."""
        self._load(self.inside[index])
        try:
            yield self.layers[index]
        finally:
            self.source.release(self.inside[index])

    def _load(self, names: list[str]) -> None:
        self.source.load(names, device=self.device)
        for name in names:
            self.source.check(name)  # before anything is computed from a broken weight

    def embed(self) -> list[Tensor]:
        """The hidden states that enter layer 0, one [b, length, width] tensor a batch."""
        self._learn_output()
        return [self._through(ids)[0] for ids in self.windows]

    def learn(self) -> None:
        """See how the model calls its layers, by one batch of every shape."""
        self._learn_output()
        for ids in {ids.shape: ids for ids in self.windows}.values():
            self._through(ids)

    def enter(self, batch: int) -> Tensor:
        """The hidden states [b, length, width] of one batch that enter layer 0."""
        return self._through(self.windows[batch])[0]

    def step(self, index: int, hidden: Tensor) -> Tensor:
        """Layer `index` (loaded) on `hidden`."""
        call = self.calls[hidden.shape][index]
        output = self.layers[index](hidden, *call.args, **call.kwargs)
        return output[0] if isinstance(output, tuple) else output

    def logits(self, batch: int, hidden: Tensor) -> Tensor:
        """The model's logits for batch `batch` when its last layer gives `hidden`."""
        return self._through(self.windows[batch], last=hidden)[1]

    def logits_by_part(self, batch: int, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """`logits` a few positions at a time: (positions, logits [b, positions, vocabulary]).

        What stands behind the last layer works on each position by itself.
        """
        ids = self.windows[batch]
        wide = self.source.config.get_text_config().vocab_size * len(ids)
        step = max(1, LOGITS // wide)
        for start in range(0, ids.shape[1], step):
            part = slice(start, start + step)
            yield part, self._through(ids[:, part], last=hidden[:, part])[1]

    def _learn_output(self) -> None:
        """Does a layer return a tensor or a tuple? One real call of layer 0 tells."""

        def look(layer: nn.Module, args: Any, output: Output) -> None:
            self.as_tuple = isinstance(output, tuple)
            raise _Stop

        with self.layer(0) as layer, torch.no_grad():
            handle = layer.register_forward_hook(look)
            self._call(self.windows[0][:1, :2])
            handle.remove()

    def _through(self, ids: Tensor, *, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The model's own forward with every layer passing its input on: (first hidden, logits).

        `last` is what the last layer gives instead. Without it the pass ends there, and the calls
        it saw are kept for `step`.
        """
        first: list[Tensor] = []
        calls: list[_Call] = []

        def stub(index: int) -> Callable[..., Output]:
            def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Output:
                first.append(hidden)
                calls.append(_Call(args, kwargs))
                at_end = index == len(self) - 1
                if at_end and last is None:
                    raise _Stop
                result = last if at_end else hidden
                return (result,) if self.as_tuple else result

            return forward

        with _replaced(self.layers, stub):
            logits = self._call(ids)
        if last is None:
            known = self.calls.setdefault(first[0].shape, calls)
            for one, other in zip(known, calls, strict=True):
                if not _same(one.args, other.args) or not _same(one.kwargs, other.kwargs):
                    raise UserError(
                        f"{self.source.path}: layers of this model read more of the text than "
                        "their hidden state, so they cannot be run one by one over it; use "
                        "--calibration none"
                    )
        return first[0], logits

    def _call(self, ids: Tensor) -> Tensor:
        try:
            return self.source.model(ids.to(self.device), use_cache=False).logits
        except _Stop:
            return ids


class _Stop(Exception):
    """Ends a forward pass early."""


def _same(a: Any, b: Any) -> bool:
    """Are the arguments of two calls alike? Never, where they could carry a state (a cache)."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if type(a) is dict:
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if type(a) in (tuple, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or (isinstance(a, bool | int | float | str) and a == b)


@contextmanager
def _replaced(
    layers: nn.ModuleList, stub: Callable[[int], Callable[..., Output]]
) -> Iterator[None]:
    """Each layer's `forward` is `stub(index)` within this context."""
    try:
        for index, layer in enumerate(layers):
            layer.forward = stub(index)
        yield
    finally:
        for layer in layers:
            del layer.forward
