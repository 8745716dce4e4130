"""Runs a model one decoder layer at a time, forward and backward, over batches of windows.

Only the outer parts (embeddings, final norm, head) and one layer hold weights at once. Does not
observe anything on the way; see `calibration.observers`. Does not store hidden states; see
`calibration.spill`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bitstack.calibration.layer_calls import (
    MORE_INPUTS,
    NOT_BY_TOKEN,
    NOT_IN_ORDER,
    Call,
    Form,
    NotAlone,
    Output,
    Recorder,
    Stop,
)
from bitstack.errors import UserError
from bitstack.machine.allocator import give_back
from bitstack.original.config_facts import text_config
from bitstack.original.decoder_layers import find_layers
from bitstack.original.source import Source

T = TypeVar("T")
LOGITS_AT_ONCE = 1 << 23  # numbers of one piece of logits, positions x vocabulary: 32 MiB in fp32


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
    calls: dict[torch.Size, list[Call]] = field(default_factory=dict)  # by shape of hidden state
    form: Form | None = None  # of what a layer returns, once it is known

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
        before = call.sizes()
        output = self._in_dtype(lambda: self.layers[index](hidden, *call.args, **call.kwargs))
        if call.sizes() != before:
            raise self._refusal(MORE_INPUTS)
        state: Tensor = output[0] if isinstance(output, tuple | list) else output
        return state.float()

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
        """Finds out by one real call of layer 0 what a layer returns, the first time."""
        if self.form is not None:
            return

        def look(layer: nn.Module, args: Any, output: Output) -> None:
            self.form = Form.of(output)
            raise Stop

        with self.layer_loaded(0) as layer, torch.no_grad():
            handle = layer.register_forward_hook(look)
            self._in_dtype(lambda: self._call_model(self.windows[0][:1, :2]))
            handle.remove()

    def _run_outer(self, ids: Tensor, *, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the model with layers that pass their input on; returns (first hidden, logits).

        `last` is what the last layer gives instead. Without it the pass ends there, and the calls
        of the layers are kept for `run_layer`.
        """

        def run() -> tuple[Recorder, Tensor]:
            recorder = Recorder(len(self), self.form or Form(), last)
            with _forwards_replaced(self.layers, recorder.stub):
                return recorder, self._call_model(ids)

        try:
            recorder, logits = self._in_dtype(run)
        except NotAlone as reason:
            raise self._refusal(str(reason)) from None
        if last is not None and logits is ids:  # an observer has seen all it wanted
            return last, logits
        if len(recorder.calls) != len(self) or recorder.first is None:
            raise self._refusal(NOT_IN_ORDER)
        if last is None:
            self._keep(recorder.first, recorder.calls, ids)
        return recorder.first.float(), logits

    def _keep(self, first: Tensor, calls: list[Call], ids: Tensor) -> None:
        """Keeps the calls of one batch for all batches of its shape, which must have the same."""
        if first.shape[:2] != ids.shape:
            raise self._refusal(NOT_BY_TOKEN)
        known = self.calls.setdefault(first.shape, calls)
        if not all(one.equals(other) for one, other in zip(known, calls, strict=True)):
            raise self._refusal(MORE_INPUTS)

    def _refusal(self, reason: str) -> UserError:
        return UserError(
            f"{self.source.path}: the layers of this model {reason}, so they cannot be calibrated "
            "one at a time; use --calibration none"
        )

    def _in_dtype(self, compute: Callable[[], T]) -> T:
        """Returns what `compute` does, with its products in `dtype`.

        Code of some models wants two tensors of one dtype, which is not so where only products are
        in bf16: they compute in fp32 from then on.
        """
        if self.dtype != torch.float32:
            try:
                with torch.autocast(self.device, torch.bfloat16):
                    return compute()
            except RuntimeError as error:
                if "dtype" not in str(error):
                    raise
            self.dtype = torch.float32
        return compute()

    def _call_model(self, ids: Tensor) -> Tensor:
        """The model's logits, or `ids` where a hook or a stub has ended the pass early."""
        try:
            return self.source.model(ids.to(self.device), use_cache=False).logits
        except Stop:
            return ids


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
