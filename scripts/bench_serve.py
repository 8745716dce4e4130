"""Measures `compress-model serve`: many clients, changing budgets, the time to a first token.

    python scripts/bench_serve.py [--container DIR] [--json [FILE]]

The server runs in a process of its own; the clients are OpenAI's. Every stream is checked: it has
the id that its client sent, and at a fixed budget its text is that of `generate` here. A text
during which the budget changed was made at several sizes; where the change came after its first
token, that is the one of `generate`. Every second request of that time has a token of its own,
which a bias makes its only word at any size: it finds a stream with another's words. First tokens
are timed in turn with `generate`, one client alone. Without --container the demo model is
compressed first, which takes minutes.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.timing import Clock
from serve_clients import Answer, Change, Client, budget_of, load, server

from bitstack import compress, recipes, resize
from bitstack.commands.shared import errors_in_one_line, silence_libraries, write_result
from bitstack.live.generation import generate
from bitstack.live.opening import Opened, open_model
from bitstack.machine.allocator import freed_memory_kept
from bitstack.machine.extras import require

FEW: dict[str, Any] = {"recipe": "fast", "num_samples": 32, "seq_len": 256}
LOOSE = 1.2  # most first-token time, of that of `generate`
CUT = "\ufffd"  # half a character at the end, which a stream leaves out


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
    compared_firsts: int  # first tokens of texts during which the budget changed later
    wrong_firsts: int  # of these, those that are not of `generate`
    words: int  # streams of one word, while the budget changed
    mixed_up: int  # of these, those that hold another
    changes: int  # of the budget
    change_ms: float  # median
    first_token_ms: float  # one client alone, median
    generate_first_ms: float  # of `generate`, median
    first_token_ratio: float  # median of the ratios, in turn
    first_token_openai_ms: float  # the same by OpenAI's client, with its own work
    first_token_loaded_ms: float  # all clients at once, median
    tokens_per_second: float  # one client alone
    tokens_per_second_loaded: float  # all clients together

    @property
    def passed(self) -> bool:
        wrong = self.failed + self.wrong_ids + self.wrong_texts + self.wrong_firsts + self.mixed_up
        return wrong == 0 and self.first_token_ratio <= LOOSE


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
    """Returns seconds to first tokens of `generate` and of the server in turn, and an answer."""
    times = []
    for prompt in prompts:
        streamer, start = Clock(), time.perf_counter()
        generate(opened, prompt, max_new_tokens=2, streamer=streamer)
        own = streamer.times[1] - start  # the first that it gets is the prompt
        times.append((own, client.first_token(prompt), client.ask(prompt)))
    return times


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


@dataclass
class Seen:
    """All answers, and which of them say something that is known."""

    times: list[tuple[float, float, Answer]]  # of first tokens, one client alone
    fixed: list[Answer]  # of all clients, at the first budget
    changing: list[Answer]  # of all clients, while it changed
    changes: list[Change]
    at_one: list[tuple[Answer, str]] = field(default_factory=list)  # made at one budget
    firsts: list[tuple[Answer, str]] = field(default_factory=list)  # whose first token was

    @property
    def alone(self) -> list[Answer]:
        return [answer for _, _, answer in self.times]

    def sort_out(self, first: str) -> None:
        """Fills `at_one` and `firsts`; `first` is the budget at first."""
        self.at_one += [(answer, first) for answer in (*self.alone, *self.fixed)]
        for answer in self.changing:
            whole = budget_of(answer, answer.end - answer.start, first, self.changes)
            begun = budget_of(answer, answer.first, first, self.changes)
            if answer.word is None and whole is not None:
                self.at_one.append((answer, whole))
            elif answer.word is None and begun is not None:
                self.firsts.append((answer, begun))


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
    then = [budgets[(i + 1) % len(budgets)] for i in range(changes)]
    with server(container, budgets[0]) as url:
        client = Client(url, tokens)
        client.ask(prompts[0])  # what a first request alone pays
        times = time_first_tokens(opened, client, prompts)
        fixed, _ = load(client, prompts, clients, requests)
        changing, made = load(client, prompts, clients, requests, then, make_words(opened, 25))
    seen = Seen(times, fixed, changing, made)
    seen.sort_out(budgets[0])
    return Result(
        clients=clients, requests=requests, tokens=tokens, **checks(opened, seen, texts),
        **speeds(seen),
    )  # fmt: skip


def checks(opened: Opened, seen: Seen, texts: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Counts what was compared and what was wrong; `texts` are those of `generate` by budget."""
    answers = [*seen.alone, *seen.fixed, *seen.changing]
    words = [answer for answer in seen.changing if answer.word is not None]
    return {
        "failed": sum(not answer.finished for answer in answers),
        "wrong_ids": sum(not answer.right_id for answer in answers),
        "compared_texts": len(seen.at_one),
        "wrong_texts": sum(
            answer.text != texts[held][answer.prompt].rstrip(CUT) for answer, held in seen.at_one
        ),
        "compared_firsts": len(seen.firsts),
        "wrong_firsts": sum(
            not texts[held][answer.prompt].startswith(answer.first_text)
            for answer, held in seen.firsts
        ),
        "words": len(words),
        "mixed_up": sum(not is_of_its_word(opened, answer) for answer in words),
        "changes": len(seen.changes),
    }


def speeds(seen: Seen) -> dict[str, Any]:
    """Returns medians of times in ms, and tokens per second."""
    median = statistics.median
    change = [end - start for start, end, _ in seen.changes]
    alone, fixed = seen.alone, seen.fixed
    together = max(a.end for a in fixed) - min(a.start for a in fixed)
    return {
        "change_ms": 1e3 * median(change) if change else 0.0,
        "first_token_ms": 1e3 * median(served for _, served, _ in seen.times),
        "generate_first_ms": 1e3 * median(own for own, _, _ in seen.times),
        "first_token_ratio": median(served / own for own, served, _ in seen.times),
        "first_token_openai_ms": 1e3 * median(answer.first for answer in alone),
        "first_token_loaded_ms": 1e3 * median(answer.first for answer in fixed),
        "tokens_per_second": _speed(alone, sum(a.end - a.start for a in alone)),
        "tokens_per_second_loaded": _speed(fixed, together),
    }


def _speed(answers: Sequence[Answer], seconds: float) -> float:
    return sum(answer.tokens for answer in answers) / seconds


def print_table(result: Result) -> None:
    streams = 2 * result.requests
    lines = [
        ("clients at once", str(result.clients), ""),
        ("requests", str(streams), f"{result.failed} failed, {result.wrong_ids} of another's id"),
        ("texts at one budget", str(result.compared_texts), f"{result.wrong_texts} not generate's"),
        ("budget changes", str(result.changes), f"median {result.change_ms:.0f} ms"),
        ("first tokens before a change", str(result.compared_firsts),
         f"{result.wrong_firsts} not generate's"),
        ("streams of one word meanwhile", str(result.words), f"{result.mixed_up} with another's"),
        ("first token, one client", f"{result.first_token_ms:.1f} ms", ""),
        ("first token of generate", f"{result.generate_first_ms:.1f} ms",
         f"ratio {result.first_token_ratio:.2f}, at most {LOOSE}"),
        ("first token by OpenAI's client", f"{result.first_token_openai_ms:.1f} ms", ""),
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
    with (
        errors_in_one_line(),
        freed_memory_kept(),
        tempfile.TemporaryDirectory(prefix="bitstack-bench-") as folder,
    ):
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
