"""Models by name: containers at every budget, options of each variant, and another size."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

import pico
from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.metrics.capacity.flops import published_flops
from bitstack.metrics.capacity.information_capacity import faithful
from bitstack.metrics.capacity.measured import measure_capacity, opened_models, predict
from bitstack.metrics.loss.documents import read_texts
from bitstack.original.source import load_config

NAME = "llama-gqa"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    pieces = [pico.TEXT, pico.TEXT[30:], pico.TEXT[60:]]
    file.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    return str(file)


@pytest.fixture(scope="module")
def model(pico_model: Callable[..., Path]) -> str:
    return str(pico_model(NAME))


@pytest.fixture(scope="module")
def container(stacked: Callable[..., Path]) -> str:
    return str(stacked(NAME))


def test_a_model_is_measured_as_by_hand(model: str, text: str) -> None:
    (one,) = measure_capacity([model], text, bias=-24.0, max_length=40, seed=2)
    opened = open_model(model)
    texts = read_texts(text)
    expected = faithful(opened.model, opened.tokenizer, texts, bias=-24.0, max_length=40, seed=2)
    assert one.capacity == expected
    assert (one.model, one.budget_bytes) == (model, None)
    record = json.loads(json.dumps(one.to_json(), allow_nan=False))
    assert record["information_capacity"] == expected.information_capacity
    assert record["resident_bytes"] == opened.resident_bytes


def test_containers_at_every_budget_and_originals_once(
    model: str, container: str, text: str
) -> None:
    names = [
        (name, opened.budget_bytes)
        for name, opened in opened_models([model, container], ["2bpw", "100%"], "cpu")
    ]
    assert [name for name, _ in names] == [model, container, container]
    assert names[0][1] is None
    assert names[1][1] < names[2][1]  # type: ignore[operator]
    small, large = measure_capacity(
        [container], text, budgets=["2bpw", "100%"], variant="bytes", denominator="bytes"
    )
    assert small.resident_bytes < large.resident_bytes
    assert small.capacity.cost < large.capacity.cost
    assert small.text_sha256 == large.text_sha256


def test_without_a_budget_everything_is_loaded(container: str) -> None:
    ((_, opened),) = opened_models([container], [], "cpu")
    assert opened.budget_bytes is None
    assert opened.resident_bytes == opened.model.bitstack.manifest.budgets.total_bytes


def test_time_is_measured_for_nanoseconds(model: str, text: str) -> None:
    (one,) = measure_capacity([model], text, variant="bytes", denominator="nanoseconds")
    assert one.capacity.cost > 1000  # ns a byte; a step of any model takes far longer than 1 µs
    assert one.capacity.information_capacity == pytest.approx(
        (8 - one.capacity.nll) / math.log2(one.capacity.cost)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "bytes", "bias": -27.0}, "--bias: belongs to --variant faithful"),
        ({"denominator": "bytes"}, "--denominator: belongs to --variant bytes"),
        ({"variant": "best"}, "neither 'faithful' nor 'bytes'"),
        ({"budgets": ["50%"]}, "takes no budget"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    model: str, text: str, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        measure_capacity([model], text, **options)


def test_another_size_is_predicted_from_its_config(
    model: str, pico_model: Callable[..., Path], text: str
) -> None:
    other = pico_model("llama-untied")
    series = measure_capacity([model], text, max_length=64)
    prediction = predict(series, str(other))
    capacity, flops = series[0].capacity, published_flops(load_config(other), 64)
    expected = capacity.text_size - 27 - capacity.information_capacity * math.log2(flops)
    assert prediction.nll == pytest.approx(expected)
    with pytest.raises(UserError, match="'faithful' only"):
        predict(measure_capacity([model], text, variant="bytes"), str(other))
    with pytest.raises(UserError, match="2 lengths"):
        predict([*series, *measure_capacity([model], text, max_length=32)], str(other))
