"""Measures `compress-model serve`: many clients, changing budgets, the time to a first token.

    python scripts/bench_serve.py [--container DIR] [--json [FILE]]

The server runs in a process of its own; the clients are OpenAI's. Every stream is checked: it has
the id that its client sent, and at a fixed budget its text is that of `generate` here. A text that
came while the budget changed was made at several sizes, so its first token is that of `generate` at
one of them. Every second request of that time has a token of its own, which a bias makes its only
word at any size: it finds a stream with another's words. First tokens are timed in turn with
`generate`, one client alone. Without --container the demo model is compressed first, which takes
minutes.
"""

import argparse
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from transformers.generation.streamers import BaseStreamer

from bitstack import compress, recipes, resize
from bitstack.commands.shared import errors_in_one_line, silence_libraries, write_result
from bitstack.live.generation import generate
from bitstack.live.opening import Opened, open_model
from bitstack.machine.extras import require

FEW: dict[str, Any] = {"recipe": "fast", "num_samples": 32, "seq_len": 256}
LOOSE = 1.2  # most first-token time, of that of `generate`
CUT = "\ufffd"  # half a character at the end, which a stream leaves out
BIAS = 100.0  # nats that no other token makes up for


@dataclass(frozen=True)
class Result:
    """What `--json` holds."""

    clients: int
    requests: int  # at a fixed budget, and as many while it changes
    tokens: int  # of every answer, at most
    failed: int  # requests that did not end as they should
    wrong_ids: int  # streams that had another request's id
    wrong_texts: int  # that are not those of `generate`
    compared_texts: int  # with `generate`
    wrong_firsts: int  # of texts made while the budget changed: not of `generate` at any of them
    mixed_up: int  # answers of one word that hold another
    changed_texts: int  # made while the budget changed
    changes: int  # of the budget
    change_ms: float  # median
    first_token_ms: float  # one client alone, median
    generate_first_ms: float  # of `generate`, median
    first_token_ratio: float  # median of the ratios, in turn
    first_token_loaded_ms: float  # all clients at once, median
    tokens_per_second: float  # one client alone
    tokens_per_second_loaded: float  # all clients together

    @property
    def passed(self) -> bool:
        wrong = self.failed + self.wrong_ids + self.wrong_texts + self.wrong_firsts + self.mixed_up
        return wrong == 0 and self.first_token_ratio <= LOOSE


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
        bias = {} if answer.word is None else {"logit_bias": {str(answer.word): BIAS}}
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

    def set_budget(self, budget: str) -> tuple[float, float, str]:
        """Changes the budget; returns when that began and ended, and the budget."""
        start = time.perf_counter()
        request = urllib.request.Request(
            f"{self.url}/budget", json.dumps({"budget": budget}).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=60).close()
        return start, time.perf_counter(), budget


class _First(BaseStreamer):
    """Notes when the first new token comes."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: Any) -> None:
        self.at.append(time.perf_counter())

    def end(self) -> None:
        pass


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


def make_prompts(opened: Opened, count: int, tokens: int) -> list[str]:
    """Returns pieces of the held-out text, each of about `tokens` tokens and unlike the others."""
    text = recipes.held_out_text().read_text()
    pieces = [text[i * len(text) // count :][: 8 * tokens] for i in range(count)]
    ids = [opened.tokenizer(piece)["input_ids"][:tokens] for piece in pieces]
    return [opened.tokenizer.decode(some, skip_special_tokens=True) for some in ids]


def expected(opened: Opened, prompts: Sequence[str], tokens: int) -> dict[str, str]:
    """Returns greedy continuations by `generate`, at the budget that the model has."""
    return {prompt: generate(opened, prompt, max_new_tokens=tokens) for prompt in prompts}


def time_first_tokens(
    opened: Opened, client: Client, prompts: Sequence[str]
) -> list[tuple[float, float, Answer]]:
    """Returns seconds to the first token of `generate` and of the server, in turn."""
    times = []
    for prompt in prompts:
        streamer, start = _First(), time.perf_counter()
        generate(opened, prompt, max_new_tokens=2, streamer=streamer)
        answer = client.ask(prompt)
        times.append((streamer.at[1] - start, answer.first, answer))  # the first is the prompt
    return times


def load(
    client: Client, prompts: Sequence[str], clients: int, requests: int,
    budgets: Sequence[str] = (), words: Sequence[int] = (),
) -> tuple[list[Answer], list[tuple[float, float, str]]]:  # fmt: skip
    """Asks `requests` times from `clients` threads; sets `budgets` evenly spread meanwhile.

    Every second request gets one of the `words`, if there are any.

    Returns:
        The answers, and begin, end and budget of every change.
    """
    asked = [
        (prompts[i % len(prompts)], words[i // 2 % len(words)] if words and i % 2 else None)
        for i in range(requests)
    ]
    done, changes = threading.Semaphore(0), list[tuple[float, float, str]]()

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


def budgets_of(answer: Answer, first: str, changes: Sequence[tuple[float, float, str]]) -> set[str]:
    """Returns the budgets that the model had, or may have had, during an answer."""
    before = [budget for _, end, budget in changes if end < answer.start]
    during = [b for start, end, b in changes if end >= answer.start and start <= answer.end]
    return {before[-1] if before else first, *during}


def make_words(opened: Opened, count: int) -> list[int]:
    """Returns tokens that each are a word of letters, and unlike one another."""
    ids = range(opened.tokenizer.vocab_size)
    texts = ((one, opened.tokenizer.decode([one]).strip()) for one in ids)
    words = {
        text: one for one, text in texts if len(text) > 3 and text.isascii() and text.isalpha()
    }
    return list(words.values())[:: max(1, len(words) // count)][:count]


def is_of_its_word(opened: Opened, answer: Answer) -> bool:
    """Whether an answer holds its own word and nothing else."""
    assert answer.word is not None
    ids = [answer.word] * answer.tokens
    return answer.tokens > 0 and answer.text.strip() == opened.tokenizer.decode(ids).strip()


def measure(
    container: Path, *, clients: int, requests: int, changes: int, tokens: int,
    budgets: Sequence[str], prompt_tokens: int = 32, different: int = 25,
) -> Result:  # fmt: skip
    """Serves a container and measures; `budgets` are set in turn, the first of them at first."""
    opened = open_model(container, budget=budgets[0], device="auto")
    prompts = make_prompts(opened, different, prompt_tokens)
    texts = {}
    for budget in reversed(budgets):
        resize(opened.model, budget)
        texts[budget] = expected(opened, prompts, tokens)
    with server(container, budgets[0]) as url:
        client = Client(url, tokens)
        client.ask(prompts[0])  # what a first request alone pays
        times = time_first_tokens(opened, client, prompts)
        fixed, _ = load(client, prompts, clients, requests)
        then = [budgets[(i + 1) % len(budgets)] for i in range(changes)]
        changing, made = load(client, prompts, clients, requests, then, make_words(opened, 25))
    all_answers = [*(answer for _, _, answer in times), *fixed, *changing]
    known = [(answer, {budgets[0]}) for answer in all_answers[: -len(changing)]]
    known += [(answer, budgets_of(answer, budgets[0], made)) for answer in changing]
    said = [(answer, held) for answer, held in known if answer.word is None]
    at_one = [(answer, *held) for answer, held in said if len(held) == 1]
    several = [(answer, held) for answer, held in said if len(held) > 1]
    words = [answer for answer in changing if answer.word is not None]
    alone = [answer for _, _, answer in times]
    return Result(
        clients=clients,
        requests=requests,
        tokens=tokens,
        failed=sum(not answer.finished for answer in all_answers),
        wrong_ids=sum(not answer.right_id for answer in all_answers),
        wrong_texts=sum(
            answer.text != texts[held][answer.prompt].rstrip(CUT) for answer, held in at_one
        ),
        compared_texts=len(at_one),
        wrong_firsts=sum(
            not any(texts[one][answer.prompt].startswith(answer.first_text) for one in held)
            for answer, held in several
        ),
        changed_texts=len(several),
        mixed_up=sum(not is_of_its_word(opened, answer) for answer in words),
        changes=len(made),
        change_ms=1e3 * statistics.median(end - start for start, end, _ in made) if made else 0.0,
        first_token_ms=1e3 * statistics.median(served for _, served, _ in times),
        generate_first_ms=1e3 * statistics.median(own for own, _, _ in times),
        first_token_ratio=statistics.median(served / own for own, served, _ in times),
        first_token_loaded_ms=1e3 * statistics.median(answer.first for answer in fixed),
        tokens_per_second=_speed(alone, sum(a.end - a.start for a in alone)),
        tokens_per_second_loaded=_speed(
            fixed, max(a.end for a in fixed) - min(a.start for a in fixed)
        ),
    )


def _speed(answers: Sequence[Answer], seconds: float) -> float:
    return sum(answer.tokens for answer in answers) / seconds


def print_table(result: Result) -> None:
    streams = 2 * result.requests
    lines = [
        ("clients at once", str(result.clients), ""),
        ("requests", str(streams), f"{result.failed} failed, {result.wrong_ids} of another's id"),
        ("texts at one budget", str(result.compared_texts), f"{result.wrong_texts} not generate's"),
        ("budget changes", str(result.changes), f"median {result.change_ms:.0f} ms"),
        ("texts made while it changed", str(result.changed_texts),
         f"{result.wrong_firsts} with another first token"),
        ("streams of one word meanwhile", str(result.requests // 2),
         f"{result.mixed_up} with another's"),
        ("first token, one client", f"{result.first_token_ms:.1f} ms", ""),
        ("first token of generate", f"{result.generate_first_ms:.1f} ms",
         f"ratio {result.first_token_ratio:.2f}, at most {LOOSE}"),
        ("first token, all clients", f"{result.first_token_loaded_ms:.1f} ms", ""),
        ("tokens per second, one client", f"{result.tokens_per_second:.1f}", ""),
        ("tokens per second, all clients", f"{result.tokens_per_second_loaded:.1f}", ""),
        ("passed", "yes" if result.passed else "NO", ""),
    ]  # fmt: skip
    for name, value, note in lines:
        print(f"{name:<32} {value:>10}  {note}".rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--container", type=Path, help="folder of a container; else the demo's")
    parser.add_argument("--clients", type=int, default=8, help="clients at once")
    parser.add_argument("--requests", type=int, default=200, help="requests, with and without")
    parser.add_argument("--changes", type=int, default=20, help="changes of the budget")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens of an answer")
    parser.add_argument("--prompts", type=int, default=25, help="different prompts")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--budgets", default="3bpw,2bpw,4bpw", help="budgets, set in turn")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the result to FILE; - is stdout"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so end the server, too
    silence_libraries()
    with errors_in_one_line(), tempfile.TemporaryDirectory(prefix="bitstack-bench-") as folder:
        require("openai", "uvicorn")
        container = options.container or compress(
            recipes.demo_model(), Path(folder) / "demo",
            calibration=str(recipes.calibration_text()), **FEW,
        )  # fmt: skip
        result = measure(
            container, clients=options.clients, requests=options.requests, changes=options.changes,
            tokens=options.tokens, prompt_tokens=options.prompt_tokens,
            different=options.prompts,
            budgets=options.budgets.split(","),
        )  # fmt: skip
    if options.json != "-":
        print_table(result)
    if options.json:
        write_result(options.json, asdict(result) | {"passed": result.passed})
    sys.exit(0 if result.passed else 1)


if __name__ == "__main__":
    main()
