"""A recorder passes hidden states on as layers do, and refuses layers that cannot run alone."""

from collections import UserDict
from typing import Any

import pytest
import torch

from bitstack.calibration import layer_calls
from bitstack.calibration.layer_calls import Call, Form, NotAlone, Recorder, Stop

HIDDEN = torch.zeros(2, 3, 4)


def test_the_calls_of_a_pass_are_recorded() -> None:
    recorder = Recorder(2, Form.of((HIDDEN, HIDDEN, None)))
    first, second = recorder.stub(0), recorder.stub(1)
    output = first(HIDDEN, 1, mask=None)
    assert output[0] is HIDDEN
    assert len(output) == 3
    with pytest.raises(Stop):
        second(output[0], 2)
    assert recorder.first is HIDDEN
    assert [(call.args, call.kwargs) for call in recorder.calls] == [
        ((1,), {"mask": None}),
        ((2,), {}),
    ]


@pytest.mark.parametrize(("output", "kind"), [(HIDDEN, None), ((HIDDEN,), tuple), ([HIDDEN], list)])
def test_the_last_layer_gives_what_it_is_told(output: Any, kind: type | None) -> None:
    last = torch.ones(2, 3, 4)
    recorder = Recorder(1, Form.of(output), last)
    given = recorder.stub(0)(HIDDEN)
    assert (type(given) if kind else None) is kind
    assert (given if kind is None else given[0]) is last


def refused(reason: str, run: Any) -> None:
    with pytest.raises(NotAlone) as caught:
        run()
    assert str(caught.value) == reason


def test_layers_that_cannot_run_alone_are_refused() -> None:
    recorder = Recorder(3, Form.of((HIDDEN, HIDDEN)))
    refused(layer_calls.NO_HIDDEN_STATE, lambda: recorder.stub(0)(hidden_states=HIDDEN))
    refused(layer_calls.NOT_IN_ORDER, lambda: recorder.stub(1)(HIDDEN))
    output = recorder.stub(0)(HIDDEN)
    refused(layer_calls.NOT_IN_ORDER, lambda: recorder.stub(1)(2 * HIDDEN))
    refused(layer_calls.MORE_INPUTS, lambda: recorder.stub(1)(output[0], other=output[1]))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (HIDDEN, HIDDEN.clone(), True),
        (HIDDEN, HIDDEN + 1, False),
        ((1, [HIDDEN]), (1, [HIDDEN.clone()]), True),
        ({"a": 1.5}, {"a": 1.5}, True),
        ({"a": 1}, {"b": 1}, False),
        (UserDict(a=1), UserDict(a=1), True),
        (UserDict(a=1), {"a": 1}, False),
        (object(), object(), False),
        (None, None, True),
    ],
)
def test_equal_calls(one: Any, other: Any, equal: bool) -> None:
    assert Call((one,), {}).equals(Call((other,), {})) is equal
    assert Call((), {"x": one}).equals(Call((), {"x": other})) is equal


def test_data_for_a_later_layer_is_seen_by_its_size() -> None:
    store: UserDict[str, int] = UserDict()
    call = Call((store,), {"by_kind": {"a": 1}})
    before = call.sizes()
    store["keys"] = 1
    assert (before, call.sizes()) == ([0, 1], [1, 1])
