"""`compress-model serve` as a process: what it prints, refuses, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import fails
from openai import OpenAI

ENVIRONMENT = os.environ | {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "NO_PROXY": "*"}


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, the line that it prints, and its URL."""
    words = ["serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(
        [sys.executable, "-m", "bitstack.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stderr
        try:
            line = process.stderr.readline()
            found = re.search(r"http://\S+:\d+", line)
            assert found, line + process.stderr.read()
            yield process, line, found[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(chatty: Path) -> Iterator[tuple[str, str]]:
    """Line and URL of a server at a budget that follows the memory."""
    with serving(chatty, "--budget", "3bpw", "--follow-memory", "--keep-free", "1MB") as one:
        yield one[1:]


def health(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/health", timeout=30) as reply:
        told: dict[str, Any] = json.load(reply)
        return told


def test_what_it_says(server: tuple[str, str]) -> None:
    line, url = server
    assert re.match(r"small: [\d.]+ KiB in memory, served on http://127\.0\.0\.1:\d+/v1; ", line)
    told = health(url)
    assert told["budget"] == "3bpw"
    assert told["follow_memory"] == {"keep_free": 1_000_000, "error": None}


def test_an_answer_is_that_of_the_chat_command(server: tuple[str, str], chatty: Path) -> None:
    words = ["chat", str(chatty), "--budget", "3bpw", "--max-new-tokens", "5"]
    chat = subprocess.run(
        [sys.executable, "-m", "bitstack.cli", *words],
        input="Hello", capture_output=True, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    with OpenAI(base_url=f"{server[1]}/v1", api_key="none") as client:
        made = client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "Hello"}], max_tokens=5,
            temperature=0,
        )  # fmt: skip
    assert chat.stdout.strip() == str(made.choices[0].message.content).strip()


@pytest.mark.skipif(sys.platform == "win32", reason="the chat reads a terminal there")
def test_transformers_chat(server: tuple[str, str], tmp_path: Path) -> None:
    script = "from transformers.cli.transformers import main; main()"
    flags = ["max_new_tokens=5", "do_sample=False"]
    done = subprocess.run(
        [sys.executable, "-c", script, "chat", "small", f"{server[1]}/v1", *flags, "--user", "me"],
        input="Hello\nn\nAnd now?\nn\n!exit\n", capture_output=True, text=True, timeout=120,
        env=ENVIRONMENT, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "small was already loaded" in done.stdout
    assert done.stdout.count("<small>:") == 2
    assert done.stdout.count("5 tokens in") == 2
    assert "Traceback" not in done.stderr


def test_transformers_chat_with_a_wrong_name(server: tuple[str, str], tmp_path: Path) -> None:
    script = "from transformers.cli.transformers import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "chat", "gpt-4", f"{server[1]}/v1", "--user", "me"],
        input="Hello\n!exit\n", capture_output=True, text=True, timeout=120,
        env=ENVIRONMENT, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0
    assert "404 Not Found" in done.stderr
    assert health(server[1])["status"] == "ok"


def test_a_second_server_on_the_port(server: tuple[str, str], chatty: Path) -> None:
    port = server[1].rpartition(":")[2]
    line = fails("serve", chatty, "--port", port)
    assert f"port {port}: is in use on 127.0.0.1" in line
    assert health(server[1])["status"] == "ok"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "much"], "'much' is not understood"),
        (["--budget", "100B"], "below the floor"),
        (["--port", "70000"], "less than or equal to 65535"),
        (["--port", "eighty"], "(given: 'eighty')"),
        (["--host", "192.0.2.1"], "host 192.0.2.1"),
        (["--parallel", "0"], "greater than or equal to 1"),
        (["--max-new-tokens", "0"], "no whole number above 0"),
        (["--keep-free", "1GiB"], "give --follow-memory, too"),
        (["--follow-memory", "--keep-free", "50%"], "'50%' is no size above 0"),
        (["--follow-memory", "--keep-free", "much"], "'much' is no size above 0"),
    ],
)
def test_options_that_cannot_be(chatty: Path, words: list[str], message: str) -> None:
    port = [] if "--port" in words else ["--port", "0"]
    assert message in fails("serve", chatty, *port, *words)


def test_models_that_cannot_be(tmp_path: Path, pico_model: Callable[..., Path]) -> None:
    assert "nowhere" in fails("serve", tmp_path / "nowhere", "--port", "0")
    original = pico_model("llama-gqa")
    assert "takes no budget" in fails("serve", original, "--budget", "3bpw", "--port", "0")
    follow = fails("serve", original, "--follow-memory", "--port", "0")
    assert "was not loaded by bitstack" in follow


def test_a_model_without_a_template(stacked: Callable[..., Path]) -> None:
    with serving(stacked("llama-gqa", calibration="none")) as (process, _, url):
        assert process.stderr
        assert "no chat template: /v1/completions alone answers" in process.stderr.readline()
        assert health(url)["status"] == "ok"


def test_an_address_that_others_reach(chatty: Path) -> None:
    with serving(chatty, "--host", "0.0.0.0") as (process, _, url):
        assert process.stderr
        assert "no password: whoever reaches 0.0.0.0" in process.stderr.readline()
        assert health(url.replace("0.0.0.0", "127.0.0.1"))["status"] == "ok"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_its_requests(chatty: Path, sent: signal.Signals, code: int) -> None:
    with serving(chatty) as (process, _, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        body = b'{"prompt": "Hello", "stream": true, "logit_bias": {"0": -100}}'
        with socket.create_connection(address, timeout=30) as client:
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            assert client.recv(10)  # an answer has begun
            start = time.monotonic()
            process.send_signal(sent)
            assert process.wait(timeout=30) == code
            assert time.monotonic() - start < 10
        assert process.stderr
        errors = process.stderr.read()
    assert errors.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors


def test_an_extra_that_is_missing(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    line = fails("serve", chatty)
    assert line.startswith("error: uvicorn is not installed")
    assert 'pip install -e ".[serve]"' in line
