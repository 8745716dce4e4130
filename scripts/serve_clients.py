"""Clients of `compress-model serve` for `bench_serve.py`: they ask, read streams and set budgets.

Does not judge what they get; see `bench_serve.py`.
"""

import http.client
import itertools
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

Change = tuple[float, float, str]  # of the budget: when it began and ended, and to what
BIAS = 100.0  # nats that no other token makes up for


@dataclass
class Answer:
    """One stream, as its client saw it."""

    prompt: str
    start: float
    word: int | None = None  # the token that is to be its only word; None: what the model says
    text: str = ""
    first: float = 0.0  # seconds to the first text
    first_text: str = ""
    end: float = 0.0
    tokens: int = 0
    right_id: bool = True
    finished: bool = False


class Client:
    """OpenAI's client, and the routes beside OpenAI's."""

    def __init__(self, url: str, tokens: int) -> None:
        self.url, self.tokens = url, tokens
        self._numbers = itertools.count()
        self._openai = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self._plain = http.client.HTTPConnection(url.partition("//")[2], timeout=600)
        self._model = self._openai.models.list().data[0].id

    def ask(self, prompt: str, word: int | None = None) -> Answer:
        """Continues a prompt greedily; failures are in the answer."""
        name = f"request-{next(self._numbers)}"
        answer = Answer(prompt, time.perf_counter(), word)
        try:
            self._read(answer, name)
        except Exception as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            answer.finished = False
        answer.end = time.perf_counter()
        return answer

    def _read(self, answer: Answer, name: str) -> None:
        bias: dict[str, Any] = (
            {} if answer.word is None else {"logit_bias": {str(answer.word): BIAS}}
        )
        stream = self._openai.completions.create(
            model=self._model, prompt=answer.prompt, max_tokens=self.tokens,
            temperature=0, stream=True, extra_headers={"x-request-id": name}, **bias,
        )  # fmt: skip
        for chunk in stream:
            answer.right_id &= chunk.id == name
            choice = chunk.choices[0]
            if choice.text and not answer.first:
                answer.first, answer.first_text = time.perf_counter() - answer.start, choice.text
            answer.text += choice.text
            answer.finished |= choice.finish_reason in ("length", "stop")
            if chunk.usage is not None:
                answer.tokens = chunk.usage.completion_tokens

    def first_token(self, prompt: str) -> float:
        """Returns the seconds until the first text comes, without the work of OpenAI's client."""
        body = {"prompt": prompt, "max_tokens": self.tokens, "temperature": 0, "stream": True}
        data = json.dumps(body).encode()
        start = time.perf_counter()
        self._plain.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
        reply = self._plain.getresponse()
        reply.readline()
        seconds = time.perf_counter() - start
        reply.read()
        return seconds

    def set_budget(self, budget: str) -> Change:
        """Changes the budget; returns when that began and ended, and the budget."""
        start = time.perf_counter()
        request = urllib.request.Request(
            f"{self.url}/budget", json.dumps({"budget": budget}).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=60).close()
        return start, time.perf_counter(), budget


@contextmanager
def server(container: Path, budget: str) -> Iterator[str]:
    """Runs the command; gives its URL."""
    words = ["serve", str(container), "--budget", budget, "--port", "0"]
    command = [sys.executable, "-m", "bitstack.cli", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"http://\S+:\d+", line)
            if found is None:
                raise RuntimeError(f"the server says: {line}{process.stderr.read()}")
            log = list[str]()  # it must be read, or the server waits
            reader = threading.Thread(target=log.extend, args=(process.stderr,))
            reader.start()
            yield found[0]
            process.terminate()
            reader.join()
            if any("Traceback" in line for line in log):
                sys.stderr.writelines(log)
        finally:
            process.terminate()


def load(
    client: Client, prompts: Sequence[str], clients: int, requests: int,
    budgets: Sequence[str] = (), words: Sequence[int] = (),
) -> tuple[list[Answer], list[Change]]:  # fmt: skip
    """Asks `requests` times from `clients` threads; sets `budgets` evenly spread meanwhile.

    Every second request gets one of the `words`, if there are any.

    Returns:
        The answers, and begin, end and budget of every change.
    """
    asked = [
        (prompts[i % len(prompts)], words[i // 2 % len(words)] if words and i % 2 else None)
        for i in range(requests)
    ]
    done, changes = threading.Semaphore(0), list[Change]()

    def ask(prompt: str, word: int | None) -> Answer:
        try:
            return client.ask(prompt, word)
        finally:
            done.release()

    with ThreadPoolExecutor(clients) as pool:
        answers = [pool.submit(ask, *one) for one in asked]
        for budget in budgets:
            for _ in range(requests // (len(budgets) + 1)):
                done.acquire()
            changes.append(client.set_budget(budget))
        return [answer.result() for answer in answers], changes


def budget_of(answer: Answer, seconds: float, first: str, changes: Sequence[Change]) -> str | None:
    """Returns the budget at which an answer began, None if it changed within `seconds` from then.

    While it changes, a large model may for a moment have a size in between.
    """
    if any(end >= answer.start and start <= answer.start + seconds for start, end, _ in changes):
        return None
    before = [budget for _, end, budget in changes if end < answer.start]
    return before[-1] if before else first
