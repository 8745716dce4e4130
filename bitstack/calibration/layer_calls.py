"""Records how a model calls its decoder layers, and refuses models whose layers cannot run alone.

A recorder stands in for all layers during one pass of the model's own forward. Does not run layers;
see `calibration.layers`.
"""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Output = Any  # what a decoder layer returns: a tensor, or a tuple or list that starts with one

# Why layers cannot be run one by one; each continues "the layers of this model ...".
NO_HIDDEN_STATE = "take no hidden state as their first argument"
NOT_BY_TOKEN = "do not work on one hidden state for each token"
NOT_IN_ORDER = "are not called one after another, each with what the one before returned"
MORE_INPUTS = "need other inputs beside the hidden state for every text, or pass data to each other"


class NotAlone(Exception):
    """The layers of a model cannot be run one by one; the message is one of the reasons."""


class Stop(Exception):
    """Ends a forward pass early."""


@dataclass
class Call:
    """Everything but the hidden state that the model passes to one layer (masks, positions)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def sizes(self) -> list[int]:
        """Lengths of the dictionaries through which a layer could pass data to a later one."""
        given = (*self.args, *self.kwargs.values())
        return [len(x) for x in given if isinstance(x, MutableMapping)]

    def equals(self, other: "Call") -> bool:
        """Whether both calls have equal arguments."""
        return _equal(self.args, other.args) and _equal(self.kwargs, other.kwargs)


@dataclass
class Form:
    """What a layer returns: the hidden state alone, or that and more.

    Each tensor beside it becomes a mark. A mark that reaches another layer shows that layers pass
    more on.
    """

    kind: type[Any] | None = None  # tuple or list; None for the hidden state alone
    marks: list[Tensor | None] = field(default_factory=list)

    @classmethod
    def of(cls, output: Output) -> "Form":
        if not isinstance(output, tuple | list):
            return cls()
        marks = [torch.zeros(()) if isinstance(x, Tensor) else None for x in output[1:]]
        return cls(type(output), marks)

    def filled(self, hidden: Tensor) -> Output:
        """Returns `hidden` as a layer would, with marks for the rest."""
        return hidden if self.kind is None else self.kind((hidden, *self.marks))

    def marked(self, call: Call) -> bool:
        """Whether a mark is among the arguments of a call."""
        given = (*call.args, *call.kwargs.values())
        return any(mark is x for mark in self.marks if mark is not None for x in given)


@dataclass
class Recorder:
    """Stands in for `count` layers of form `form` during a pass.

    `last` is what the last layer gives; without it the pass ends there.
    """

    count: int
    form: Form
    last: Tensor | None = None
    first: Tensor | None = None  # hidden state that enters layer 0
    calls: list[Call] = field(default_factory=list)
    _given: Tensor | None = None  # what the layer before returned

    def stub(self, index: int) -> Callable[..., Output]:
        """Returns the forward that takes the place of layer `index`."""

        def forward(hidden: Tensor | None = None, *args: Any, **kwargs: Any) -> Output:
            if hidden is None:
                raise NotAlone(NO_HIDDEN_STATE)
            return self._passed_on(index, hidden, Call(args, kwargs))

        return forward

    def _passed_on(self, index: int, hidden: Tensor, call: Call) -> Output:
        if index != len(self.calls) or (index and hidden is not self._given):
            raise NotAlone(NOT_IN_ORDER)
        if self.form.marked(call):
            raise NotAlone(MORE_INPUTS)
        self.first = hidden if index == 0 else self.first
        self.calls.append(call)
        at_end = index == self.count - 1
        if at_end and self.last is None:
            raise Stop
        self._given = self.last if at_end and self.last is not None else hidden
        return self.form.filled(self._given)


def _equal(a: Any, b: Any) -> bool:
    """Whether two arguments are equal; never, where one could carry a state (a cache)."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping) and type(a) is type(b):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if type(a) in (tuple, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a is b or (isinstance(a, bool | int | float | str) and a == b)
