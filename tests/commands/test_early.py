"""What needs no model is answered, and what is wrong is refused, before torch is imported.

Also covers `commands.numbers`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from command_line import fails, python

from bitstack.commands import numbers
from bitstack.commands.early import check_container, check_inputs, check_model_there
from bitstack.errors import UserError

Folder = Callable[..., Path]
# Runs command lines in one process, and tells of each its exit code and whether torch came.
WATCH = """
import json, sys
from typer.testing import CliRunner
from bitstack.cli import app
told = []
for words in json.loads(sys.argv[1]):
    code = CliRunner().invoke(app, words, prog_name="compress-model").exit_code
    told.append([code, [m for m in ("torch", "transformers", "lm_eval") if m in sys.modules]])
print(json.dumps(told))
"""


@pytest.fixture
def container(stacked: Folder) -> str:
    return str(stacked("llama-gqa", calibration="none"))


def run_all(lines: list[list[str]]) -> list[list[object]]:
    done = python("-c", WATCH, json.dumps(lines))
    assert done.returncode == 0, done.stderr
    told: list[list[object]] = json.loads(done.stdout)
    return told


def test_arithmetic_imports_no_torch(container: str, tmp_path: Path) -> None:
    lines = [
        ["--help"],
        ["report", "--help"],
        ["plan", container, "--budget", "floor", "--budget", "everything", "--context", "64"],
        ["metric", "gap", "teacher", "--student", "350M"],
        ["metric", "gap", "teacher", "--student", "1B", "--training-tokens", "20B"],
        ["metric", "density", "score", container, "--score", "0.6", "--budget", "2bpw"],
    ]
    assert run_all(lines) == [[0, []]] * len(lines)


def test_what_is_wrong_is_refused_before(container: str, tmp_path: Path) -> None:
    taken, text = tmp_path / "taken", tmp_path / "text.txt"
    taken.write_text("mine")
    text.write_text("A text.")
    read = ["--text", str(text)]
    lines = [
        ["run", container, "--output", str(taken)],
        ["run", str(tmp_path / "no"), "--output", str(tmp_path / "c")],
        ["run", container, "--output", str(tmp_path / "c"), "--calibration", "/no/text"],
        ["run", container, "--output", str(tmp_path / "c"), "--time", "soon"],
        ["run", str(text), "--output", str(tmp_path / "c")],
        ["eval", container, "--tasks", "nope"],
        ["push", container, "no-owner"],
        ["generate", container, "--prompt", "a", "--temperature", "-1"],
        ["metric", "density", "loss", container, "--pairs", str(tmp_path / "no.jsonl")],
        ["export", container, "--output", str(taken)],
        ["report", container, "--output", str(tmp_path / "no" / "page.html")],
        ["report", container, str(tmp_path / "no.json"), *read],
        ["report", container, str(tmp_path / "no"), *read],
        ["push", container, "owner/name", "--report", str(tmp_path / "no.json")],
        ["metric", "density", "fit", str(taken), "--output", str(tmp_path / "no" / "law.json")],
        ["eval", container],
        ["eval", container, "--text", str(tmp_path / "no.txt")],
        ["eval", container, *read, "--budget", "3"],
        ["eval", container, *read, "--budget", "1kB"],
        ["eval", container, *read, "--level", "9"],
        ["eval", container, *read, "--json", str(tmp_path / "no" / "a.json")],
        ["eval", container, *read, "--device", "tpu"],
        ["eval", str(tmp_path / "no"), *read],
        ["generate", container, "--prompt", "a", "--budget", "everthing"],
        ["generate", container, "--prompt", "a", "--draft-budget", "much"],
        ["chat", container, "--budget", "much"],
        ["serve", container, "--follow-memory", "--keep-free", "much"],
        ["serve", container, "--budget", "much"],
        ["push", str(tmp_path / "no"), "owner/name"],
        ["verify", str(tmp_path / "no")],
        ["plan", str(tmp_path / "no")],
        ["metric", "order", str(tmp_path / "no"), *read],
        ["metric", "information-capacity", container, "--text", "/no/text"],
        ["metric", "density", "score", container],
        ["metric", "density", "loss", container],
        ["metric", "gap", "measure", container, str(tmp_path / "no"), *read],
        ["metric", "gap", "teacher", "--student", "350X"],
    ]  # fmt: skip
    told = run_all(lines)
    assert told == [[2, []]] * len(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "text.txt"]


def test_what_is_missing(container: str, tmp_path: Path) -> None:
    check_inputs(container, budgets=["50%", None], texts=[None, "hf:a/b"])
    check_inputs("owner/name", budgets=["floor"])
    check_model_there("owner/name@main")
    with pytest.raises(UserError, match=r"no: no such folder; give the folder of a container"):
        check_inputs(str(tmp_path / "no"))
    with pytest.raises(UserError, match="budget 'much' is not understood"):
        check_inputs("owner/name", budgets=["much"])
    with pytest.raises(UserError, match=r"text source '.*no\.txt' does not exist"):
        check_inputs(texts=[str(tmp_path / "no.txt")])
    with pytest.raises(UserError, match=r"--tasks: nope; known are arc_challenge, .*, piqa, and"):
        check_inputs(tasks=["blimp", "nope"])
    check_inputs(tasks=["mine"], tasks_folder=tmp_path)
    with pytest.raises(UserError, match=r"no\.jsonl: no such file"):
        check_inputs(files=[None, tmp_path / "no.jsonl"])
    with pytest.raises(UserError, match=r"--tasks-folder .*no: no such folder"):
        check_inputs(tasks_folder=tmp_path / "no")


def test_a_container_that_cannot_be_had(container: str, tmp_path: Path) -> None:
    check_container(container, level=1)
    check_container("owner/name", budgets=["2bpw"])
    with pytest.raises(UserError, match="below the floor"):
        check_container(container, budgets=["everything", "10B"])
    with pytest.raises(UserError, match="not both"):
        check_container(container, budgets=["50%"], level=1)
    with pytest.raises(UserError, match="no such folder; make one with"):
        check_container(str(tmp_path / "no"))
    with pytest.raises(UserError, match="not a finished bitstack container"):
        check_container(str(tmp_path))


def test_numbers() -> None:
    assert numbers.number("350M") == 350e6
    assert numbers.whole("20k") == 20_000
    assert numbers.size("0.5MB") == 500_000
    for parse, text in [
        (numbers.number, "350X"), (numbers.number, "-1"), (numbers.whole, "2.5"),
        (numbers.whole, "0"), (numbers.size, "0.1"), (numbers.size, "50%"),
    ]:  # fmt: skip
        with pytest.raises(typer.BadParameter, match=f"'{text}' is no "):
            parse(text)


def test_the_option_and_the_value_are_named(container: str) -> None:
    line = fails("eval", container, "--text", __file__, "--max-tokens", "few")
    assert line.startswith("error: Invalid value for '--max-tokens': 'few' is no whole number")
    assert line.endswith("; see compress-model eval --help")
    line = fails("eval", container, "--text", __file__, "--device", "tpu")
    assert "'--device': 'tpu' is not one of 'auto', 'cpu', 'cuda'; see" in line
