"""`compress-model chat`: messages and commands line by line. Also covers `live.chat_template`."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import fails
from typer.testing import CliRunner, Result

import pico
from bitstack.cli import app


def chat(folder: Path, *lines: str, options: tuple[str, ...] = ()) -> Result:
    words = ["chat", str(folder), "--max-new-tokens", "5", *options]
    return CliRunner().invoke(app, words, input="\n".join(lines))


def test_messages_and_commands(chatty: Path) -> None:
    done = chat(chatty, "Hello", "/stats", "/budget floor", "", "And now?", "/clear", "/exit", "x")
    assert done.exit_code == 0, done.output
    errors = done.stderr.splitlines()
    sizes = [line for line in errors if "bits per weight" in line]
    assert [float(line.split(" in memory, ")[1].split()[0]) for line in sizes] == sorted(
        (float(line.split(" in memory, ")[1].split()[0]) for line in sizes), reverse=True
    )
    assert len(sizes) == 2
    assert any("tokens/s" in line for line in errors)
    assert sum("cut at 5 tokens" in line for line in errors) == 2


def test_the_same_answer_as_generate(chatty: Path) -> None:
    words = ["generate", str(chatty), "--chat", "--prompt", "Hello", "--max-new-tokens", "5"]
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0, printed.output
    assert chat(chatty, "Hello").stdout.strip() == printed.stdout.strip()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/budget", "give a size"),
        ("/budget much", "not understood"),
        ("/budget 3", "did you mean 3bpw (3 bits a weight) or 3GiB?"),
        ("/budget 10B", "below the floor"),
        ("/what", "no such command"),
    ],
)
def test_a_bad_command_is_a_line_and_the_chat_goes_on(
    chatty: Path, line: str, message: str
) -> None:
    done = chat(chatty, line, "/help")
    assert done.exit_code == 0, done.output
    assert message in done.stderr
    assert "/clear" in done.stderr
    assert "Traceback" not in done.output


def test_a_model_without_a_template(stacked: Callable[..., Path]) -> None:
    folder = stacked("llama-gqa", calibration="none")
    assert "no chat template" in fails("chat", folder)
    assert "no chat template" in fails("generate", folder, "--chat", "--prompt", "a")


def test_an_original_model_has_no_budget(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(pico_model("llama-gqa"), tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text(pico.TEMPLATE)
    done = chat(tmp_path / "m", "/stats", "/budget 2bpw", "Hello")
    assert done.exit_code == 0, done.output
    assert "original model" in done.stderr
    assert "was not loaded by bitstack" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_ctrl_c_stops_an_answer_and_not_the_chat(chatty: Path) -> None:
    command = [sys.executable, "-m", "bitstack.cli", "chat", str(chatty)]
    command += ["--max-new-tokens", "30"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write("Hello\n" * 5)
        process.stdin.flush()
        assert process.stdout.read(1)  # an answer has begun
        process.send_signal(signal.SIGINT)
        process.stdin.write("/exit\n")
        process.stdin.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "(stopped)" in errors or process.returncode == 130  # between two answers it ends all
