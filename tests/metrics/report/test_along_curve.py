"""Every figure of a point is that of the metric alone; what is not defined says why."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

import pico
from bitstack.live.opening import open_model
from bitstack.machine.files import write_json
from bitstack.metrics.capacity.information_capacity import by_bytes, faithful
from bitstack.metrics.density.law import Protocol
from bitstack.metrics.density.law_file import classics_law
from bitstack.metrics.density.measured import law_density
from bitstack.metrics.gap.capacity_gap import capacity_gap
from bitstack.metrics.loss.documents import fingerprint, read_texts
from bitstack.metrics.report.along_curve import (
    ORIGINAL,
    PASSAGE,
    STEPS,
    Metrics,
    MetricsCurve,
    first_texts,
)

NAME = "llama-gqa"
BUDGETS = ["2.5bpw", "100%"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("curve") / "text.jsonl"
    pieces = [pico.TEXT, pico.TEXT[30:], pico.TEXT[60:] + pico.TEXT]
    file.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    return file


@pytest.fixture(scope="module")
def metrics(text: Path) -> Metrics:
    protocol = Protocol("text", "pairs", window=32, tokenizer=fingerprint(pico.tokenizer()))
    return Metrics(first_texts(str(text)), replace(classics_law(), protocol=protocol))


@pytest.fixture(scope="module")
def curve(
    pico_model: Callable[..., Path], stacked: Callable[..., Path], text: Path, metrics: Metrics
) -> MetricsCurve:
    teacher = open_model(pico_model(NAME))
    points = [metrics.point(ORIGINAL, teacher, teacher)]
    for budget in BUDGETS:
        points.append(metrics.point(budget, open_model(stacked(NAME), budget=budget), teacher))
    return metrics.curve(str(text), points)


def test_points_are_the_metrics_alone(
    curve: MetricsCurve,
    pico_model: Callable[..., Path],
    stacked: Callable[..., Path],
    text: Path,
    metrics: Metrics,
) -> None:
    texts = read_texts(str(text))
    teacher = open_model(pico_model(NAME))
    assert [point.budget for point in curve.points] == ["original", *BUDGETS]
    for point, budget in zip(curve.points, [None, *BUDGETS], strict=True):
        opened = teacher if budget is None else open_model(stacked(NAME), budget=budget)
        pair = opened.model, opened.tokenizer
        assert point.resident_bytes == opened.resident_bytes
        assert point.faithful == faithful(*pair, texts)
        assert point.by_bytes == by_bytes(*pair, texts, denominator="bytes")
        assert point.density == law_density(opened, metrics.law, texts)
        if budget is not None:
            gap = capacity_gap(teacher.model, opened.model, teacher.tokenizer, texts)
            assert point.gap == gap.whole


def test_compression_costs_loss_and_earns_bytes(curve: MetricsCurve) -> None:
    original, small, large = curve.points
    assert small.resident_bytes < large.resident_bytes < original.resident_bytes
    assert small.gap is not None
    assert large.gap is not None
    assert small.gap.kl > large.gap.kl > 0
    assert small.faithful is not None
    assert original.faithful is not None
    assert small.faithful.flops_per_token == original.faithful.flops_per_token
    assert small.by_bytes is not None
    assert original.by_bytes is not None
    assert small.by_bytes.cost < original.by_bytes.cost


def test_json_is_whole(curve: MetricsCurve, tmp_path: Path) -> None:
    file = tmp_path / "curve.json"
    write_json(file, curve.to_json())
    data = json.loads(file.read_text())
    assert data["documents"] == 3
    assert len(data["points"]) == 3
    point = data["points"][1]
    assert set(point["gap"]["intervals"]["kl"]) == {"low", "high", "level"}
    assert point["undefined"] == {}


def test_what_is_not_defined_says_why(stacked: Callable[..., Path], text: Path) -> None:
    entered: list[str] = []

    def step(words: str) -> AbstractContextManager[None]:
        entered.append(words)
        return nullcontext()

    metrics = Metrics(first_texts(str(text)))
    point = metrics.point("100%", open_model(stacked("gpt-2")), None, step)
    assert entered == list(STEPS)
    assert point.faithful is point.density is point.gap is None
    assert set(point.undefined) == {"faithful", "density", "gap"}
    assert "no original" in point.undefined["gap"]
    assert "another tokenizer" in point.undefined["density"]
    assert point.by_bytes is not None


def test_a_reason_does_not_say_twice_that_nothing_is_defined(
    stacked: Callable[..., Path], metrics: Metrics
) -> None:
    untrained = replace(metrics.law, reference_tokens=1.0)  # no size of its models is as good
    point = replace(metrics, law=untrained).point("100%", open_model(stacked(NAME)), None)
    assert point.undefined["density"]
    assert not point.undefined["density"].startswith("not defined")


@pytest.mark.parametrize("most", [None, 4, 100, PASSAGE, PASSAGE + 5, 3 * PASSAGE + 17])
def test_the_first_texts_hold_what_is_asked_for(tmp_path: Path, most: int | None) -> None:
    words = pico.TEXT * 20
    (tmp_path / "t.txt").write_text(words)
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"text": words[i : i + 900]}) + "\n" for i in range(0, len(words), 900))
    )
    for name, size in (("t.txt", PASSAGE), ("t.jsonl", 900)):
        texts = first_texts(str(tmp_path / name), most)
        assert "".join(texts) == words[:most]
        assert {len(text) for text in texts[:-1]} <= {size}
