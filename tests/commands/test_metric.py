"""`compress-model metric` as other tools call it: keys, exit codes, and every kind of bad input.

Also covers `commands.metric_density`, `commands.metric_gap`, `commands.metric_lines`,
`commands.density_lines` and `commands.gap_lines`.
"""

import copy
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import command_line
import pytest
import torch
from safetensors.torch import load_file, save_file

import pico

NAME = "llama-gqa"
KEYS = ["text_size", "nll", "flops_per_token", "information_capacity", "interval"]


call, fails = partial(command_line.call, "metric"), partial(command_line.fails, "metric")


def result(*args: object) -> Any:
    """What a command writes with `--json -`; every number in it is one."""
    done = call(*args, "--json", "-")
    assert done.exit_code == 0, done.output
    assert "NaN" not in done.stdout
    assert "Infinity" not in done.stdout
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    pieces = [pico.TEXT, pico.TEXT[30:], pico.TEXT[60:]]
    file.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    return file


@pytest.fixture(scope="module")
def model(pico_model: Callable[..., Path]) -> Path:
    return pico_model(NAME)


@pytest.fixture(scope="module")
def container(stacked: Callable[..., Path]) -> Path:
    return stacked(NAME)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    def one(name: str, data: Any) -> Path:
        file = tmp_path / name
        file.write_text(data if isinstance(data, str) else json.dumps(data))
        return file

    return one


# information capacity


def test_capacity_of_a_model(model: Path, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "ic.json"
    done = call("information-capacity", model, "--text", text, "--bias", -24, "--json", file)
    assert done.exit_code == 0, done.output
    record = json.loads(file.read_text())
    assert set(KEYS) <= set(record)
    log = math.log2(record["flops_per_token"])
    capacity = (record["text_size"] - record["nll"] - 24) / log
    assert record["information_capacity"] == pytest.approx(capacity)
    assert record["interval"]["low"] < capacity < record["interval"]["high"]
    assert "information capacity" in done.stdout
    assert record == result("information-capacity", model, "--text", text, "--bias", -24)


@pytest.mark.parametrize("denominator", ["flops", "bytes", "nanoseconds"])
def test_capacity_by_bytes_of_a_container_at_budgets(
    model: Path, container: Path, text: Path, denominator: str
) -> None:
    record = result(
        "information-capacity", model, container, "--budget", "2bpw", "--budget", "100%",
        "--text", text, "--variant", "bytes", "--denominator", denominator,
    )  # fmt: skip
    names = [(Path(one["model"]).parent.name[:5], one["budget_bytes"]) for one in record["models"]]
    assert [budget is None for _, budget in names] == [True, False, False]
    assert {one["text_sha256"] for one in record["models"]} == {record["models"][0]["text_sha256"]}
    assert all(one["denominator"] == denominator for one in record["models"])
    if denominator == "bytes":
        assert record["models"][1]["cost"] < record["models"][0]["cost"]


def test_a_text_file_is_cut_so_that_there_is_an_interval(
    model: Path, write: Callable[..., Path]
) -> None:
    record = result("information-capacity", model, "--text", write("t.txt", pico.TEXT * 20))
    assert record["documents"] == math.ceil(20 * len(pico.TEXT) / 4096)
    assert record["interval"]["low"] < record["interval"]["high"]


def test_another_size_is_predicted(
    model: Path, pico_model: Callable[..., Path], text: Path
) -> None:
    other = pico_model("llama-untied")
    arguments = ["information-capacity", model, "--text", text, "--window", 64]
    record = result(*arguments, "--predict", other)
    measured = result(*arguments)
    flops = result("information-capacity", other, "--text", text, "--window", 64)["flops_per_token"]
    nll = measured["text_size"] - 27 - measured["information_capacity"] * math.log2(flops)
    assert record["prediction"]["nll"] == pytest.approx(nll)
    assert record["prediction"]["interval"]["low"] < nll < record["prediction"]["interval"]["high"]


def test_capacity_refuses(
    model: Path, pico_model: Callable[..., Path], text: Path, write: Callable[..., Path]
) -> None:
    command = ["information-capacity", model]
    broken = write("broken.jsonl", '{"text": "whole"}\n{"text": ')
    assert "broken.jsonl line 2: broken JSON" in fails(*command, "--text", broken)
    assert "text too short" in fails(*command, "--text", write("one.txt", "a"))
    assert "holds no text" in fails(*command, "--text", write("none.jsonl", '{"text": ""}\n'))
    assert "--bias" in fails(*command, "--text", text, "--variant", "bytes", "--bias", 1)
    assert "bias is nan" in fails(*command, "--text", text, "--bias", "nan")
    assert "--denominator" in fails(*command, "--text", text, "--denominator", "bytes")
    assert "not one of 'faithful'" in fails(*command, "--text", text, "--variant", "best")
    assert "takes no budget" in fails(*command, "--text", text, "--budget", "50%")
    gpt = pico_model("gpt-2")
    assert "use the variant 'bytes'" in fails("information-capacity", gpt, "--text", text)


def test_no_attention_heads_is_said(
    model: Path, text: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=pico.VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1
    )
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    pico.tokenizer().save_pretrained(tmp_path / "mamba")
    for variant in ("faithful", "bytes"):
        line = fails(
            "information-capacity", tmp_path / "mamba", "--text", text, "--variant", variant
        )
        assert "not defined" in line


def test_a_broken_model_gives_no_nan(model: Path, text: Path, tmp_path: Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], math.nan)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert "no number" in fails("information-capacity", tmp_path, "--text", text)
    assert "not finite" in fails("gap", "measure", model, tmp_path, "--text", text)


# density


def series(count: int = 8, **same: float) -> list[dict[str, float]]:
    """A series that follows both laws, with a little noise."""
    rows = []
    for index in range(count):
        parameters, tokens = 10.0 ** (6 + index / 4), 10.0 ** (9 + index % 3)
        loss = 40 * parameters**-0.2 + 30 * tokens**-0.2 + 0.002 * (-1) ** index
        score = 0.75 / (1 + math.exp(4 * (loss - 2.5))) + 0.25
        row = {"parameters": parameters, "tokens": tokens, "loss": loss, "score": score}
        rows.append(row | same)
    return rows


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("law")
    (folder / "results.json").write_text(json.dumps(series()))
    arguments = ["--floor", 0.25, "--ceiling", 1, "--output", folder / "law.json"]
    done = call("density", "fit", folder / "results.json", *arguments)
    assert done.exit_code == 0, done.output
    assert "alpha" in done.stdout
    return folder / "law.json"


def test_a_score_gives_densities(law: Path, model: Path, container: Path) -> None:
    record = result(
        "density", "score", model, container, "--budget", "2bpw", "--law", law, "--score", 0.5
    )
    original, small = record["models"]
    assert original["effective_parameters"] == small["effective_parameters"] > 0
    assert original["density"] == pytest.approx(small["density"])
    assert small["byte_density"] > original["byte_density"]
    assert original["interval"]["low"] < original["effective_parameters"]


def test_pairs_give_a_loss_and_a_density(
    law: Path, model: Path, write: Callable[..., Path]
) -> None:
    rows = [{"instruction": "The river", "answer": " was low"}, {"instruction": "", "answer": "a"}]
    pairs = write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    loss = result("density", "loss", model, "--pairs", pairs)
    record = result("density", "score", model, "--law", law, "--pairs", pairs)
    assert loss["pairs"] == 2
    assert record["loss"] == loss["nats_per_answer"] > 5
    assert 0 < record["effective_parameters"] < 1e6
    assert record["extrapolated"]
    assert "not on answers" in fails("density", "score", model, "--pairs", pairs)
    broken = write("broken.jsonl", '{"instruction": "a", "answer": "b"}\n{"instruction": 1}\n')
    assert "line 2" in fails("density", "loss", model, "--pairs", broken)
    empty = write("empty.jsonl", '{"instruction": "a", "answer": " "}\n')
    assert "answer is empty" in fails("density", "loss", model, "--pairs", empty)


@pytest.mark.parametrize("score", [0.25, 0.1, 1.0])
def test_outside_the_range_it_says_so(law: Path, model: Path, score: float) -> None:
    record = result("density", "score", model, "--law", law, "--score", score)
    assert record["density"] is record["effective_parameters"] is None
    assert record["reason"].startswith("not defined: score")
    assert record["beyond"] == ("better" if score == 1 else "worse")
    done = call("density", "score", model, "--law", law, "--score", score)
    first, *facts = done.stdout.splitlines()
    assert ("better than" if score == 1 else "no better than a model that guesses") in first
    assert "not defined" not in done.stdout
    assert any(line.startswith("why") for line in facts)
    assert "nan" not in done.stdout


def test_density_refuses(law: Path, model: Path, text: Path, write: Callable[..., Path]) -> None:
    output = ["--output", "law.json"]
    two = write("two.json", series(2))
    assert "2 reference models" in fails("density", "fit", two, *output)
    chance = write("chance.json", series(score=0.25))
    assert "scores lie in" in fails(
        "density", "fit", chance, *output, "--floor", 0.25, "--ceiling", 1
    )
    above = write("above.json", series(score=1.5))
    assert "at most 1" in fails("density", "fit", above, *output)
    series_file = write("series.json", series())
    nowhere = ["--output", text.parent / "none" / "law.json"]
    assert "cannot write" in fails("density", "fit", series_file, *nowhere)
    bad = ["--training-tokens", "nan"]
    assert "no number above 0" in fails("density", "fit", series_file, *output, *bad)
    assert "give one of" in fails("density", "score", model, "--law", law)
    assert "from 0 to 1" in fails("density", "score", model, "--law", law, "--score", 2)
    assert "another tokenizer" in fails("density", "score", model, "--text", text)


def test_trend_and_calculator(write: Callable[..., Path]) -> None:
    days = ["2024-01-01", "2024-04-05", "2024-07-09", "2024-10-12"]
    rows = [
        {"name": day, "date": day, "density": 2**k * (1 + 0.01 * (-1) ** k)}
        for k, day in enumerate(days)
    ]
    file = write("released.json", rows[::-1])  # out of order
    record = result("density", "trend", file, "--share", 0.5)
    assert record["trend"]["doubling_days"] == pytest.approx(95, abs=1.5)
    assert record["trend"]["envelope"] == days
    assert (record["since"], record["day"][:7]) == ("2024-10-12", "2025-01")
    assert record["day_interval"][0] <= record["day"] <= record["day_interval"][1]
    assert "doubling" in call("density", "trend", file).stdout
    assert "share is 2" in fails("density", "trend", file, "--share", 2)
    assert "YYYY-MM-DD" in fails("density", "trend", file, "--share", 0.5, "--since", "soon")
    assert "at least 2" in fails("density", "trend", write("one.json", rows[:1]))
    wrong = write("wrong.json", [{"name": "a", "date": "31.12.2024", "density": 1}])
    assert "row 1: date" in fails("density", "trend", wrong)


# gap


def test_the_gap_of_a_container(model: Path, container: Path, text: Path) -> None:
    arguments = ["gap", "measure", model, container, "--text", text, "--window", 32]
    small = result(*arguments, "--budget", "2bpw")
    large = result(*arguments)
    assert small["whole"]["kl"] > large["whole"]["kl"] > 0
    assert small["student_bytes"] < large["student_bytes"] < large["teacher_bytes"]
    for name in ("kl", "loss_gap", "agreement"):
        interval = small["whole"]["intervals"][name]
        assert interval["low"] <= small["whole"][name] <= interval["high"]
    assert sum(part["tokens"] for part in small["by_position"].values()) == small["whole"]["tokens"]
    done = call(*arguments)
    assert "top-1 agreement" in done.stdout


def test_the_best_teacher_by_both_laws() -> None:
    record = result("gap", "teacher", "--student", "350M")
    assert record["teacher"] == pytest.approx(2.498 * 350e6 - 11.498e6)
    scratch = result(
        "gap", "teacher", "--student", 1e9, "--training-tokens", 2.5e11, "--law", "scratch"
    )
    assert 8 <= scratch["ratio"] <= 15
    assert "times the student" in call("gap", "teacher", "--student", 350e6).stdout
    assert "--training-tokens" in fails("gap", "teacher", "--student", 1e9, "--law", "scratch")
    assert "above 0" in fails("gap", "teacher", "--student", "nan")
    assert "not one of 'pruned'" in fails("gap", "teacher", "--student", 1e9, "--law", "best")


def test_the_line_through_own_runs(write: Callable[..., Path]) -> None:
    rows = [
        {"student": s, "teacher": s * r, "loss": 3 + (math.log(r / 2.5)) ** 2 / 10}
        for s in (1e6, 2e6, 4e6)
        for r in (1.25, 2.5, 5)
    ]
    record = result("gap", "fit", write("runs.json", rows))
    assert record["slope"] == pytest.approx(2.5, rel=1e-6)
    edges = result("gap", "fit", write("edges.json", [r for r in rows if r["teacher"] > 2e6]))
    assert [best["edge"] for best in edges["optima"]] == ["smallest", None, None]
    assert edges["slope"] == pytest.approx(2.5, rel=1e-6)
    assert edges["slope_interval"] is None
    table = "student,teacher,loss\n1e6,2e6,x\n"
    assert "row 1: loss" in fails("gap", "fit", write("runs.csv", table))
    one = write("one.json", rows[:1])
    assert "no student has two teachers" in fails("gap", "fit", one)


def test_gap_refuses(
    model: Path, pico_model: Callable[..., Path], text: Path, write: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    command = ["gap", "measure", model, model]
    assert "text too short" in fails(*command, "--text", write("one.txt", "a"))
    assert "is no container" in fails(*command, "--text", text, "--budget", "50%")
    assert "window is 1" in fails(*command, "--text", text, "--window", 1)
    pico.build(NAME).save_pretrained(tmp_path / "other")
    tokenizer = copy.deepcopy(pico.tokenizer())
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "other")
    assert "tokenizers differ" in fails("gap", "measure", model, tmp_path / "other", "--text", text)
