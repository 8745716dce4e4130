"""The first line of every `compress-model metric`: how much, which way is better, against what."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import command_line
import pytest

import pico
from bitstack.commands.density_lines import density_lines, law_lines, trend_lines
from bitstack.commands.gap_lines import WORDS, gap_fit_lines, gap_lines, teacher_lines
from bitstack.commands.metric_lines import capacities_lines, counted, order_lines
from bitstack.metrics.capacity.measured import measure_capacity
from bitstack.metrics.density.capacity_density import density
from bitstack.metrics.density.law_file import classics_law, pythia_law
from bitstack.metrics.density.scoring import Scored
from bitstack.metrics.density.trend import forecast
from bitstack.metrics.gap.fit import Run, fit_gap
from bitstack.metrics.gap.law import best_teacher
from bitstack.metrics.gap.measured import measure_gap
from bitstack.metrics.loss.order_check import OrderCheck, Stop

NAME = "llama-gqa"
call = partial(command_line.call, "metric")


@pytest.mark.parametrize(
    ("number", "words"),
    [(7, "7"), (463_424, "463K"), (5.48e6, "5.48M"), (1.5e9, "1.5B"), (999.6e6, "1e+03M"),
     (2e12, "2T"), (3e22, "3e+22")],
)  # fmt: skip
def test_sizes_as_people_say_them(number: float, words: str) -> None:
    assert counted(number) == words


def test_capacities_name_the_best_first(
    pico_model: Callable[..., Path], stacked: Callable[..., Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(pico.TEXT * 20)
    models, options = [str(pico_model(NAME)), str(stacked(NAME))], {"variant": "bytes"}
    measured = measure_capacity(models, str(text), budgets=["floor"], **options)
    first, second, *_ = capacities_lines(measured)
    best = max(measured, key=lambda one: one.capacity.information_capacity)
    assert first.startswith(f"Highest of 2: {best.model}")
    assert "Higher is better" in second
    assert "of the 8.00 bits" in second
    assert capacities_lines(measured[:1])[0] == second


def test_the_order_says_how_much_it_rises() -> None:
    stops = [Stop(10, 4.0), Stop(20, 2.0), Stop(30, 2.25), Stop(40, 2.0)]
    first = order_lines(OrderCheck(stops, 0.1, 100, 32, "t.txt"))[0]
    assert "rises at 1 of 3 steps" in first
    assert "0.25 nats" in first
    assert "12%" in first
    good = order_lines(OrderCheck(stops[:2], 0.1, 100, 32, "t.txt"))[0]
    assert "falls at each" in good


def scored(score: float, parameters: float = 1e9) -> list[str]:
    law = pythia_law()
    return density_lines(Scored("m", None, density(law, score=score, parameters=parameters)), law)


def test_a_density_is_said_beside_the_own_size() -> None:
    first = scored(0.45)[0]
    assert "as good as a reference model of 245M parameters" in first
    assert "its own 1B" in first
    assert "Higher is better" in first
    assert "better than any of the series" not in first


def test_a_model_better_than_the_series_is_said_to_be_so() -> None:
    assert "better than any of the series" in scored(0.683)[0]
    for score in (0.9, 1.0):
        lines = scored(score)
        assert "better than a reference model of any size" in lines[0]
        assert not any("not defined" in line for line in lines)
    assert "no better than a model that guesses" in scored(0.0)[0]


def test_a_law_says_what_size_and_training_buy() -> None:
    first = law_lines(pythia_law())[0]
    assert f"{1 - 2**-0.57577:.0%}" in first
    assert "does not show" not in first
    assert "does not show that more parameters help" in law_lines(classics_law())[0]


def test_the_gap_leads_with_the_whole_in_words(
    pico_model: Callable[..., Path], stacked: Callable[..., Path], text_file: Path
) -> None:
    measured = measure_gap(str(pico_model(NAME)), str(stacked(NAME)), str(text_file), window=32)
    lines, whole = gap_lines(measured), measured.gap.whole
    word = next(words for most, words in WORDS if whole.kl < most)
    for part in (word, f"{whole.kl:.3g}", f"{whole.agreement:.1%}", "lower is better"):
        assert part in lines[0]
    parts = [i for i, line in enumerate(lines) if line.startswith("By ")]
    assert len(parts) == 2
    assert parts[0] > max(i for i, line in enumerate(lines) if line.startswith("top-1"))


def test_teachers_in_words() -> None:
    first = teacher_lines(best_teacher(350e6))[0]
    assert "350M" in first
    assert "863M" in first
    assert "guess" in teacher_lines(best_teacher(70e9))[0]
    runs = [
        Run(s, s * r, 3 + math.log(r / 2.5) ** 2) for s in (1e6, 2e6, 4e6) for r in (1.25, 2.5, 5)
    ]
    assert "2.50 times" in gap_fit_lines(fit_gap(runs))[0]
    assert "no rule" in gap_fit_lines(fit_gap([r for r in runs if r.teacher > 2 * r.student]))[0]


def test_trend_and_loss_in_words(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    days = ["2024-01-01", "2024-04-05", "2024-07-09"]
    rows = [{"name": d, "date": d, "density": 2.0**i} for i, d in enumerate(days)]
    file = tmp_path / "released.json"
    file.write_text(json.dumps(rows))
    assert "doubles every 95 days" in call("density", "trend", file).stdout.splitlines()[0]
    known = forecast(file)
    still = replace(known, trend=replace(known.trend, doubling_days=None))
    assert "does not grow" in trend_lines(still)[0]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"instruction": "the boats", "answer": " go home"}) + "\n")
    done = call("density", "loss", pico_model(NAME), "--pairs", pairs)
    assert "Lower is better" in done.stdout.splitlines()[0]
